"""Runs killed at the operator's word, where not every one can be."""

from __future__ import annotations

from pathlib import Path

from overspill.errors import UnavailableError
from overspill_agent.backends.fake import FakeBackend
from overspill_agent.killing import Killed, kill_runs
from overspill_agent.runs import Seen, Sighting
from tests.unit.test_agent_reconcile import Agent


class BlindBackend(FakeBackend):
    """It cannot see one run."""

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        if run_id == "r1":
            raise UnavailableError("its machine does not answer")
        return await super().observe(run_id, attempt)


async def test_one_run_that_cannot_be_killed_saves_no_other(tmp_path: Path) -> None:
    agent = Agent(tmp_path)
    for number in (1, 2, 3):
        await agent.accept(number)
    for number in (1, 2):
        await agent.step(number)
    runs = [live.run for live in agent.registry.live()]
    assert await kill_runs(BlindBackend(agent.world), runs) == [
        Killed("r1", problem="its machine does not answer"),
        Killed("r2", was_alive=True),
        Killed("r3", was_alive=False),
    ]
    assert (await agent.backend.observe("r2", 1)).seen is not Seen.ALIVE
    await agent.registry.close()
