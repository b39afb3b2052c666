"""What every backend promises, asked of each: the fake, and the local one with real processes (needs root)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path, PurePosixPath
from typing import Protocol

import pytest

from overspill_agent.backends.attempt import lock_path
from overspill_agent.backends.base import Account, Backend, Demand, Launch
from overspill_agent.backends.fake import FakeBackend, World
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


class Place(Protocol):
    """Where a backend's runs run, with a hand on them."""

    def open(self) -> Backend:
        """Return a new handle, as a restarted agent would have."""

    def end(self, backend: Backend, attempt: int) -> None:
        """Let the run end by itself."""

    def starts(self) -> list[int]:
        """Return the attempts that have made a process, in order."""

    def crash_before_launch(self, attempt: int) -> None:
        """Leave what an agent leaves that dies in the middle of `start`."""


class FakePlace:
    def __init__(self, _directory: Path) -> None:
        self._world = World()

    def open(self) -> Backend:
        return FakeBackend(self._world)

    def end(self, backend: Backend, attempt: int) -> None:
        assert isinstance(backend, FakeBackend)
        backend.die(RUN, attempt)

    def starts(self) -> list[int]:
        return [launch.attempt for launch in self._world.launches]

    def crash_before_launch(self, attempt: int) -> None:
        """Nothing is left of a start that the fake has not finished."""


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


@pytest.fixture(params=[FakePlace, LocalPlace], ids=["fake", "local"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    for parent in (tmp_path, *tmp_path.parents):
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(0o755)
    place: Place = request.param(tmp_path)
    yield place
    backend = place.open()
    for attempt in (1, 2):
        await _end(backend, attempt)
    await backend.close()


async def _end(backend: Backend, attempt: int) -> None:
    async def is_over() -> bool:
        await backend.stop(RUN, attempt)
        return (await backend.observe(RUN, attempt)).seen is not Seen.ALIVE

    await until(is_over)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def until_seen(backend: Backend, attempt: int, seen: Seen) -> None:
    async def is_seen() -> bool:
        return (await backend.observe(RUN, attempt)).seen is seen

    await until(is_seen)


async def until_started(place: Place, attempts: list[int]) -> None:
    async def has_started() -> bool:
        return place.starts() == attempts

    await until(has_started)


async def test_what_was_never_started_is_seen_as_nothing(place: Place) -> None:
    backend = place.open()
    assert (await backend.observe(RUN, 1)).seen is Seen.NOTHING
    assert backend.capacity().total.cpus == 8
    await backend.close()


async def test_a_run_is_alive_until_it_ends_by_itself_and_its_end_is_told(place: Place) -> None:
    backend = place.open()
    told: list[str] = []
    backend.on_change(told.append)
    await backend.start(launch_of(1))
    assert (await backend.observe(RUN, 1)).seen is Seen.ALIVE
    await until_started(place, [1])
    assert not told

    place.end(backend, 1)
    await until_seen(backend, 1, Seen.GONE)

    async def is_told() -> bool:
        return told == [RUN]

    await until(is_told)
    await backend.close()


async def test_starting_twice_starts_once(place: Place) -> None:
    backend = place.open()
    await asyncio.gather(backend.start(launch_of(1)), backend.start(launch_of(1)))
    await backend.start(launch_of(1))
    await until_started(place, [1])
    place.end(backend, 1)
    await until_seen(backend, 1, Seen.GONE)
    await backend.start(launch_of(1))
    assert (await backend.observe(RUN, 1)).seen is Seen.GONE
    assert place.starts() == [1]
    await backend.close()


async def test_a_run_outlives_the_agent_and_is_found_and_stopped_by_the_next(place: Place) -> None:
    first = place.open()
    await first.start(launch_of(1))
    await until_started(place, [1])
    await first.close()

    second = place.open()
    assert (await second.observe(RUN, 1)).seen is Seen.ALIVE
    await second.start(launch_of(1))
    await second.stop(RUN, 1)
    await until_seen(second, 1, Seen.GONE)
    assert place.starts() == [1]
    await second.close()


async def test_stopping_again_or_what_never_was_does_nothing(place: Place) -> None:
    backend = place.open()
    await backend.stop(RUN, 1)
    assert (await backend.observe(RUN, 1)).seen is Seen.NOTHING
    await backend.start(launch_of(1))
    await until_started(place, [1])
    await backend.stop(RUN, 1)
    await until_seen(backend, 1, Seen.GONE)
    await backend.stop(RUN, 1)
    assert (await backend.observe(RUN, 1)).seen is Seen.GONE
    await backend.close()


async def test_a_start_that_a_crash_interrupted_can_be_made_again(place: Place) -> None:
    place.crash_before_launch(1)
    backend = place.open()
    assert (await backend.observe(RUN, 1)).seen is Seen.NOTHING
    await backend.start(launch_of(2))
    await until_started(place, [2])
    assert (await backend.observe(RUN, 1)).seen is Seen.NOTHING
    assert (await backend.observe(RUN, 2)).seen is Seen.ALIVE
    await backend.close()


async def test_a_forgotten_run_leaves_nothing(place: Place) -> None:
    backend = place.open()
    await backend.start(launch_of(1))
    await until_started(place, [1])
    await backend.stop(RUN, 1)
    await until_seen(backend, 1, Seen.GONE)
    await backend.forget(RUN)
    await backend.forget(RUN)
    assert (await backend.observe(RUN, 1)).seen is Seen.NOTHING
    await backend.close()
