"""The job_submit hook: without it slurmctld never asks."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from overspill.cli.finding import Finding, error, ok, warning
from overspill_sidecar.commands.slurm_conf import Slurm
from overspill_sidecar.config import SidecarConfig

_DEADLINE_S = 10.0
_REQUIRES = re.compile(r"""require[\s,(]*["']overspill["']""")
_SOCKET = re.compile(r"""configure.*?socket\s*=\s*["']([^"']+)["']""", re.DOTALL)
#: slurmctld's Lua; what is installed as `lua` may be another.
_LUAS = ("lua5.1", "lua")
_MODULES = {
    "socket": "install lua-socket (Debian: lua-socket, RHEL: lua-socket from EPEL)",
    "socket.unix": "install a lua-socket that has Unix sockets (Debian's has)",
    "overspill": "install slurm-overspill, or copy slurm_plugin/job_submit/overspill to /usr/share/lua/5.1",
}


def look(slurm: Slurm, config: SidecarConfig | None) -> Iterator[Finding]:
    """Look at slurm.conf's line, the script and its modules."""
    if slurm.has("JobSubmitPlugins", "lua"):
        yield ok("slurm.conf: JobSubmitPlugins", "slurmctld runs job_submit.lua")
    else:
        found = slurm.values.get("JobSubmitPlugins") or "nothing"
        yield error(
            "slurm.conf: JobSubmitPlugins",
            f"it says {found}, so slurmctld never asks and no job is diverted",
            "add lua to JobSubmitPlugins, put job_submit.lua beside slurm.conf, restart slurmctld",
        )
        return
    if slurm.is_controller_here:
        yield from _look_at_script(slurm.conf.with_name("job_submit.lua"), config)
        yield from _look_at_modules()


def _look_at_script(path: Path, config: SidecarConfig | None) -> Iterator[Finding]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as failure:
        remedy = "copy slurm_plugin/job_submit/job_submit.lua there, or require overspill in yours: see its README"
        yield error("job_submit.lua", f"cannot read {path}: {failure.strerror}", remedy)
        return
    if problem := _syntax_problem(path):
        remedy = "correct it: slurmctld goes on with the last good script, and does not start with this one"
        yield error("job_submit.lua", problem, remedy)
    elif not _REQUIRES.search(text):
        remedy = 'add `local overspill = require "overspill"`, and return overspill.submit(…) from slurm_job_submit'
        yield error("job_submit.lua", f"{path} does not require overspill, so no job is diverted", remedy)
    else:
        yield ok("job_submit.lua", f"{path} is there and requires overspill")
    told = _SOCKET.search(text)
    asked = told[1] if told else "/run/overspill/router.sock"
    if config is not None and asked != str(config.router.socket):
        remedy = (
            f'overspill.configure {{ socket = "{config.router.socket}" }} in job_submit.lua, or change sidecar.toml'
        )
        yield error("job_submit.lua: socket", f"it asks {asked}, the router listens on {config.router.socket}", remedy)


def _syntax_problem(path: Path) -> str:
    """Return what is wrong with the script, empty if nothing is, or nobody can tell."""
    checked = _lua("-e", f"assert(loadfile([==[{path}]==]))")
    return "" if checked is None or checked.returncode == 0 else _first_line(checked.stderr)


def _look_at_modules() -> Iterator[Finding]:
    missing = False
    for module, remedy in _MODULES.items():
        loaded = _lua("-e", f"require [==[{module}]==]")
        if loaded is None:
            yield warning("Lua", "lua5.1 is not installed, so what slurmctld can load is not known", "install lua5.1")
            return
        if loaded.returncode != 0:
            missing = True
            yield error(f"Lua module {module}", f"cannot be loaded: {_first_line(loaded.stderr)}", remedy)
    if not missing:
        yield ok("Lua modules", f"{', '.join(_MODULES)} can be loaded")


def _lua(*arguments: str) -> subprocess.CompletedProcess[str] | None:
    """Run Lua as slurmctld would: without anybody's LUA_PATH. None if there is none."""
    program = next((found for name in _LUAS if (found := shutil.which(name))), None)
    if program is None:
        return None
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=_DEADLINE_S, check=False, cwd="/", env={}
    )


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0].removeprefix("lua5.1: ").removeprefix("(command line):1: ")
