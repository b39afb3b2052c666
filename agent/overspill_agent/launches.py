"""What a backend needs to start a run, out of what the relay has sent. Pure."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable

from overspill.v1.agent_pb2 import RunSpec
from overspill_agent.backends.base import Account, Demand, Launch
from overspill_agent.backends.run_files import CONTROL
from overspill_agent.runs import Run

_HOME = b"HOME="
#: The kernel's and the runner's own: nobody's directory can be there. /dev/shm is memory for everybody.
_CLOSED = (b"/proc", b"/sys", b"/dev", os.fsencode(CONTROL))
_OPEN = b"/dev/shm"


def launch_of(
    run: Run, spec: RunSpec, account: Account, demand: Demand, *, token: str, url: str, ca_pem: bytes
) -> Launch:
    """Return the launch of `run`'s last attempt."""
    homes = [account.home.encode(), _home(spec.environment)]
    directories = [spec.cwd, *(home for home in homes if is_plain_absolute(home))]
    return Launch(
        run_id=run.run_id,
        attempt=run.attempt,
        account=account,
        demand=demand,
        name=f"{run.request_id.slurm_cluster}/{run.request_id.slurm_job_id}.{run.request_id.restart_count}",
        time_limit_s=spec.time_limit_s,
        script_directory=os.fsdecode(_normal(posixpath.dirname(spec.argv[0]))),
        directories=tuple(dict.fromkeys(os.fsdecode(_normal(path)) for path in directories)),
        agent_url=url,
        token=token,
        ca_pem=ca_pem,
    )


def is_plain_absolute(path: bytes) -> bool:
    """Tell whether a path is absolute and cannot mean another one: no `..`, no NUL."""
    return path.startswith(b"/") and b"\0" not in path and b".." not in path.split(b"/")


def is_closed(path: bytes) -> bool:
    """Tell whether an absolute path leads, by its name, below what is the kernel's or the runner's own."""
    normal = _normal(path)
    if _is_below(normal, _OPEN):
        return False
    return normal == _CLOSED[-1] or any(_is_below(normal, root) for root in _CLOSED)


def _is_below(path: bytes, root: bytes) -> bool:
    return path.startswith(root + b"/")


def _normal(path: bytes) -> bytes:
    """Return an absolute path with single slashes and no `.`; POSIX lets two leading slashes mean something else."""
    return b"/" + posixpath.normpath(path).lstrip(b"/")


def _home(environment: Iterable[bytes]) -> bytes:
    """Return the first HOME, which is what getenv(3) finds where there are more; empty if there is none."""
    return next((entry.removeprefix(_HOME) for entry in environment if entry.startswith(_HOME)), b"")
