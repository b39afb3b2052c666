"""The local back end with a runner that does nothing but leave a mark: for what is on disk, not for what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path, PurePosixPath

from overspill_agent.backends.attempt import lock_path
from overspill_agent.backends.base import Account, Backend, Demand, Launch
from overspill_agent.backends.local import LocalBackend, LocalSite
from overspill_agent.backends.sandbox import Roots
from overspill_agent.runs import Resources, Seen

ALICE = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
RUN = "0123456789abcdef"
DEADLINE_S = 60.0

#: In the runner's place: leaves a mark for each time it is started and lives until it is told to end.
_PAYLOAD = """
import os, sys, time
def main():
    run, attempt = sys.argv[sys.argv.index("--run") + 1], sys.argv[sys.argv.index("--attempt") + 1]
    with open("{marks}/started", "a") as marks:
        marks.write(run + " " + attempt + "\\n")
    while not os.path.exists("{marks}/end-" + run):
        time.sleep(0.005)
"""


def launch_of(attempt: int) -> Launch:
    return Launch(
        run_id=RUN,
        attempt=attempt,
        account=ALICE,
        demand=Demand(Resources(cpus=1)),
        name="rig/1.0",
        time_limit_s=0,
        script_directory="/var/spool/slurmd/job00001",
        directories=("/home/alice/project",),
        agent_url="https://localhost:1",
        token="secret",
        ca_pem=b"",
    )


class LocalPlace:
    def __init__(self, directory: Path) -> None:
        self._runs = directory / "runs"
        self._marks = directory / "marks"
        self._marks.mkdir()
        self._marks.chmod(0o777)
        runner = directory / "payload.py"
        runner.write_text(_PAYLOAD.format(marks=self._marks))
        self._site = LocalSite(
            directory=self._runs,
            resources=Resources(cpus=8, memory_mib=1024),
            roots=Roots(
                private=(PurePosixPath("/home"),),
                shared=(PurePosixPath(self._marks),),
                hidden=(PurePosixPath(self._runs),),
            ),
            python=Path("/usr/bin/python3"),
            runner=runner,
        )

    def open(self) -> Backend:
        return LocalBackend(self._site)

    def end(self, backend: Backend, attempt: int) -> None:  # noqa: ARG002  a file ends it, whoever watches
        (self._marks / f"end-{RUN}").touch()

    def starts(self) -> list[int]:
        marks = self._marks / "started"
        return [int(line.split()[1]) for line in marks.read_text().splitlines()] if marks.exists() else []

    def crash_before_launch(self, attempt: int) -> None:
        (self._runs / RUN).mkdir(parents=True)
        lock_path(self._runs / RUN, attempt).touch()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def until_seen(backend: Backend, attempt: int, seen: Seen) -> None:
    async def is_seen() -> bool:
        return (await backend.observe(RUN, attempt)).seen is seen

    await until(is_seen)


async def until_started(place: LocalPlace, attempts: list[int]) -> None:
    async def has_started() -> bool:
        return place.starts() == attempts

    await until(has_started)
