"""Control groups of an engine's containers: empty directories that stay behind when the engine is killed."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PREFIX = "overspill-engine."


def name_of_engine(init_pid: int) -> str:
    """Return the name of the parent of all cgroups of the engine whose PID 1 has this pid outside."""
    return f"{_PREFIX}{init_pid}"


def sweep() -> None:
    """Remove what engines have left that are gone."""
    for name in {path.name for path in _parents(f"{_PREFIX}*")}:
        if not Path("/proc", name.removeprefix(_PREFIX)).exists():
            remove(name)


def remove(name: str) -> None:
    """Remove the cgroups `name` of all hierarchies with everything below, as far as no process is in them."""
    for parent in _parents(name):
        for directory, _, _ in os.walk(parent, topdown=False):
            # Somebody else sweeps too, or a process is still about to end: whoever comes next removes it.
            with contextlib.suppress(OSError):
                Path(directory).rmdir()


def _parents(pattern: str) -> list[Path]:
    """Return the cgroups of this name: one per hierarchy (version 1), or one (version 2)."""
    return [*_ROOT.glob(pattern), *_ROOT.glob(f"*/{pattern}")]
