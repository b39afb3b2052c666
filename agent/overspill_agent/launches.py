"""What a backend needs to start a run, out of what the relay has sent. Pure."""

from __future__ import annotations

import os
import posixpath

from overspill.v1.agent_pb2 import RunSpec
from overspill_agent.backends.base import Account, Launch
from overspill_agent.runs import Run

_HOME = b"HOME="


def launch_of(run: Run, spec: RunSpec, account: Account, *, token: str, url: str, ca_pem: bytes) -> Launch:
    """Return the launch of `run`'s last attempt."""
    homes = [account.home.encode(), *(entry[len(_HOME) :] for entry in spec.environment if entry.startswith(_HOME))]
    directories = [spec.cwd, *(home for home in homes if is_plain_absolute(home))]
    return Launch(
        run_id=run.run_id,
        attempt=run.attempt,
        account=account,
        resources=run.resources,
        script_directory=os.fsdecode(posixpath.dirname(spec.argv[0])),
        directories=tuple(dict.fromkeys(map(os.fsdecode, directories))),
        agent_url=url,
        token=token,
        ca_pem=ca_pem,
    )


def is_plain_absolute(path: bytes) -> bool:
    """Tell whether a path is absolute and cannot mean another one: no `..`, no NUL."""
    return path.startswith(b"/") and b"\0" not in path and b".." not in path.split(b"/")
