"""The shipped fake passes the suite of all back ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest

from overspill_agent.backends.base import Account, Backend, Image
from overspill_agent.backends.fake import FakeBackend, World
from overspill_agent.runs import Resources, Seen
from tests.conformance.backends.dying import Countdown
from tests.conformance.backends.place import Expectations
from tests.conformance.backends.suite import BackendSuite


class FakePlace:
    """`Place` of a world without processes."""

    account = Account(name="alice", uid=2001, gid=2001, groups=(2001,), home="/home/alice")
    listen = agent_host = "127.0.0.1"
    image = None
    unknown_image = Image("missing", "missing:1", "/usr/bin/python3")
    expects = Expectations(gpus=2, lost=Seen.LOST)

    def __init__(self) -> None:
        self._world = World(
            resources=Resources(cpus=8, memory_mib=1024, gpus=2),
            missing_images={self.unknown_image.name},
            has_runners=True,
            devices={"0": None, "1": None},
        )

    def backend(self) -> Backend:
        return FakeBackend(self._world)

    @contextmanager
    def dying_at(self, step: int) -> Iterator[Countdown]:
        countdown = Countdown(step)
        self._world.step = countdown.take
        yield countdown
        self._world.step = lambda: None

    def processes(self, run_id: str) -> int:
        acting = self._world.runners.items()
        return sum(runner.processes for (other, _), (runner, _task) in acting if other == run_id)

    async def lose_machine(self) -> None:
        self._world.lost = set(self._world.alive)
        for _runner, task in self._world.runners.values():
            task.cancel()

    async def regain_machine(self) -> None:
        self._world.lost.clear()

    @asynccontextmanager
    async def out_of_sight(self) -> AsyncIterator[None]:
        self._world.is_in_sight = False
        yield
        self._world.is_in_sight = True

    async def leftovers(self) -> list[str]:
        return [launch.run_id for launch in self._world.launches]


class TestFake(BackendSuite):
    """Every case, of the fake."""

    @pytest.fixture
    def place(self) -> FakePlace:
        return FakePlace()
