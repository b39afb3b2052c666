"""Lua runtimes of every version that a Slurm may be linked with, holding the shim's modules."""

import importlib
from pathlib import Path
from typing import Any

VERSIONS = ("lua51", "lua52", "lua53", "lua54")
SHIM = Path(__file__).parents[2] / "slurm_plugin" / "job_submit"


def new_runtime(version: str) -> Any:
    """Return a Lua runtime that finds `overspill`; its strings are bytes, seen as Latin-1 text."""
    runtime = importlib.import_module(f"lupa.{version}").LuaRuntime(encoding="latin-1")
    runtime.execute(f"package.path = '{SHIM}/?.lua;{SHIM}/?/init.lua'")
    return runtime


def module(runtime: Any, name: str) -> Any:
    """Return the shim's module `name`, as `require` does but in every version one value."""
    return runtime.eval(f'(require("overspill.{name}"))')


def to_lua(runtime: Any, value: Any) -> Any:
    """Turn dicts and lists, however deep, into Lua tables."""
    if isinstance(value, dict):
        return runtime.table_from({key: to_lua(runtime, item) for key, item in value.items()})
    if isinstance(value, (list, tuple)):
        return runtime.table_from([to_lua(runtime, item) for item in value])
    return value


def failure_of(runtime: Any, function: Any, *arguments: Any) -> str | None:
    """Call `function`; return the kind of failure it raised, or None where it returned."""
    protected = runtime.eval("""function(call, ...)
      local succeeded, caught = pcall(call, ...)
      return not succeeded and require("overspill.failure").from_error(caught).kind or nil
    end""")
    kind: str | None = protected(function, *arguments)
    return kind
