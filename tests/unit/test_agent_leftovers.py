"""What the back end keeps of runs that nobody knows: when it is removed, and when nothing is touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from overspill.errors import UnavailableError
from overspill_agent.backends.fake import FakeBackend
from overspill_agent.leftovers import Leftovers, forget_unknown, stop_unknown
from overspill_agent.runs import Action, Seen
from tests.unit.test_agent_reconcile import Agent

LEASE_S = 90.0
#: Lease and margin.
GRACE_S = 120.0


class Remains:
    """An agent with some runs, one of which its store does not know."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self.leftovers = Leftovers(agent.registry, agent.backend, LEASE_S)

    async def start(self, *numbers: int) -> None:
        for number in numbers:
            await self.agent.accept(number)
            assert await self.agent.step(number) is Action.START

    async def leave_behind(self, run_id: str) -> None:
        """Have the back end run something that the store has never heard of."""
        await self.agent.backend.start(replace(self.agent.world.launches[0], run_id=run_id))

    async def kept(self) -> frozenset[str]:
        return await self.agent.backend.run_ids()


@pytest.fixture
async def remains(tmp_path: Path) -> AsyncIterator[Remains]:
    agent = Agent(tmp_path)
    await agent.backend.open()
    yield Remains(agent)
    await agent.registry.close()


async def test_a_run_that_the_store_does_not_know_is_stopped_after_its_lease_and_then_forgotten(
    remains: Remains,
) -> None:
    await remains.start(1, 2)
    await remains.leave_behind("stranger")
    assert await remains.leftovers.step(0) == []
    assert await remains.leftovers.step(GRACE_S - 1) == []
    assert (await remains.agent.backend.observe("stranger", 1)).seen is Seen.ALIVE
    with capture_logs() as logs:
        assert await remains.leftovers.step(GRACE_S) == []
        assert (await remains.agent.backend.observe("stranger", 1)).seen is not Seen.ALIVE
        assert await remains.leftovers.step(GRACE_S + 60) == ["stranger"]
    assert [(log["action"], log["log_level"]) for log in logs if "leftover" in log["action"]] == [
        ("leftover_stopped", "warning"),
        ("leftover_forgotten", "warning"),
    ]
    assert await remains.kept() == {"r1", "r2"}


async def test_the_runs_that_the_store_knows_are_left_alone(remains: Remains) -> None:
    await remains.start(1)
    assert await remains.leftovers.step(0) == []
    assert await remains.leftovers.step(10 * GRACE_S) == []
    assert (await remains.agent.backend.observe("r1", 1)).seen is Seen.ALIVE


async def test_an_emptied_store_ends_no_run_and_says_so_once(remains: Remains) -> None:
    await remains.start(1)
    for number in range(3):
        await remains.leave_behind(f"stranger{number}")
    with capture_logs() as logs:
        for seconds in (0, GRACE_S, 10 * GRACE_S):
            assert await remains.leftovers.step(seconds) == []
    assert [(log["log_level"], log["unknown"], log["remembered"]) for log in logs] == [("error", 3, 1)]
    assert "overspill-agent kill --unknown" in logs[0]["event"]
    for number in range(3):
        assert (await remains.agent.backend.observe(f"stranger{number}", 1)).seen is Seen.ALIVE


async def test_what_is_seen_again_after_it_was_gone_has_its_whole_lease(remains: Remains) -> None:
    await remains.start(1)
    await remains.leave_behind("stranger")
    await remains.leftovers.step(0)
    await remains.agent.backend.forget("stranger")
    await remains.leftovers.step(60)
    await remains.leave_behind("stranger")
    assert await remains.leftovers.step(GRACE_S) == []
    assert await remains.kept() == {"r1", "stranger"}


async def test_stopping_an_unknown_run_tells_whether_it_lives(remains: Remains) -> None:
    await remains.start(1)
    await remains.leave_behind("stranger")
    assert await stop_unknown(remains.agent.backend, "stranger")
    assert not await stop_unknown(remains.agent.backend, "stranger")


class StubbornBackend(FakeBackend):
    """It does not let go of one run."""

    async def forget(self, run_id: str) -> None:
        if run_id == "a-stranger":
            raise UnavailableError("it is held by somebody")
        await super().forget(run_id)


async def test_a_run_that_cannot_be_forgotten_does_not_keep_the_others(remains: Remains) -> None:
    await remains.start(1, 2)
    await remains.leave_behind("a-stranger")
    await remains.leave_behind("b-stranger")
    leftovers = Leftovers(remains.agent.registry, StubbornBackend(remains.agent.world), LEASE_S)
    for seconds in (0, GRACE_S):
        assert await leftovers.step(seconds) == []
    with capture_logs() as logs:
        assert await leftovers.step(GRACE_S + 60) == ["b-stranger"]
    assert ("leftover_failed", "a-stranger") in [(log["action"], log["run_id"]) for log in logs]


async def test_the_operators_word_spares_a_run_that_the_agent_takes_meanwhile(remains: Remains) -> None:
    class BusyBackend(FakeBackend):
        async def run_ids(self) -> frozenset[str]:
            await remains.start(2)
            return await super().run_ids()

    await remains.start(1)
    await remains.leave_behind("stranger")
    read_known = lambda: [live.run for live in remains.agent.registry.live()]  # noqa: E731
    assert await forget_unknown(BusyBackend(remains.agent.world), read_known) == ["stranger"]
    assert await remains.kept() == {"r1", "r2"}
    assert (await remains.agent.backend.observe("r2", 1)).seen is Seen.ALIVE
