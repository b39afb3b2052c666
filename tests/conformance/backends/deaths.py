"""The cases of agents that die in the middle of a verb, and of machines that die."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from overspill.states import Outcome
from overspill_agent.backends.base import Launch
from overspill_agent.config import DEFAULT_RUNNER
from overspill_agent.runs import Seen
from overspill_runner.runner import EXIT_FENCED
from tests.conformance.backends import scripts
from tests.conformance.backends.place import DeathError
from tests.conformance.backends.site import DEADLINE_S, LEASE_S, Site, until
from tests.conformance.backends.verbs import started, until_forgotten, until_seen

#: Until a runner that hears nothing is known to be dead: its lease and the agent's margin.
_LOSS_S = LEASE_S + 10 + DEADLINE_S


async def deaths_in(site: Site, verb: Callable[[], Awaitable[None]], step: int) -> bool:
    """Have the agent die in its verb, at the step, and have it come back; return False if it came through."""
    with site.place.dying_at(step) as death, suppress(DeathError):
        await verb()
    await site.restart()
    return death.has_come


def _runner(launch: Launch, directory: Path) -> list[str]:
    """Return the command line of another runner of the same attempt, on this host."""
    token, ca = directory / "token", directory / "agents-ca.pem"
    token.write_text(launch.token)
    ca.write_bytes(launch.ca_pem)
    python = [sys.executable, "-I", "-S", str(DEFAULT_RUNNER), "--url", launch.agent_url]
    which = ["--run", launch.run_id, "--attempt", str(launch.attempt)]
    return [*python, *which, "--token-file", str(token), "--ca-file", str(ca)]


def steps() -> Iterator[int]:
    return itertools.count(1)


@pytest.mark.timeout(600)  # a run for each step that an agent can die at
class Deaths:
    """What is found again by the next agent."""

    async def test_an_agent_that_dies_at_any_step_of_a_start_leaves_at_most_one_run_that_the_next_finds(
        self, hand: Site
    ) -> None:
        for step in steps():
            live = await hand.accept(scripts.WAITING)
            launch = await hand.prepare(live)
            has_died = await deaths_in(hand, lambda launch=launch: hand.backend.start(launch), step)  # type: ignore[misc]
            live = await hand.find(live)
            seen = (await hand.backend.observe(live.run.run_id, 1)).seen
            await hand.backend.start(launch)
            if seen is not Seen.GONE:
                await hand.until_said(live, "ready")
                assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
            assert hand.starts_of(live) <= 1
            await until_forgotten(hand, live)
            if not has_died:
                assert step > 1
                return

    async def test_an_agent_that_dies_at_any_step_of_a_stop_leaves_what_the_next_can_stop(self, hand: Site) -> None:
        for step in steps():
            live = await started(hand)
            run_id = live.run.run_id
            has_died = await deaths_in(hand, lambda run_id=run_id: hand.backend.stop(run_id, 1), step)  # type: ignore[misc]
            live = await hand.find(live)
            await hand.backend.stop(run_id, 1)
            await until_seen(hand, live, Seen.GONE)
            assert hand.place.processes(run_id) == 0
            await until_forgotten(hand, live)
            if not has_died:
                return

    async def test_an_agent_that_dies_at_any_step_of_a_forget_leaves_what_the_next_can_remove(self, hand: Site) -> None:
        for step in steps():
            live = await started(hand)
            run_id = live.run.run_id
            await hand.backend.stop(run_id, 1)
            await until_seen(hand, live, Seen.GONE)
            has_died = await deaths_in(hand, lambda run_id=run_id: hand.backend.forget(run_id), step)  # type: ignore[misc]
            await until_forgotten(hand, await hand.find(live))
            assert hand.starts_of(live) == 1
            if not has_died:
                return

    async def test_a_run_outlives_the_agent_and_is_found_and_stopped_by_the_next(self, hand: Site) -> None:
        live = await started(hand)
        await hand.restart()
        live = await hand.find(live)
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
        await hand.backend.stop(live.run.run_id, 1)
        await until_seen(hand, live, Seen.GONE)
        assert hand.starts_of(live) == 1

    async def test_the_end_of_a_run_that_another_agent_started_is_seen(self, hand: Site) -> None:
        live = await started(hand)
        await hand.restart()
        live = await hand.find(live)
        await hand.backend.stop(live.run.run_id, 1)
        await until_seen(hand, live, Seen.GONE)
        assert hand.place.processes(live.run.run_id) == 0

    async def test_a_start_in_whose_midst_the_agent_is_stopped_is_done_or_can_be_done_again(self, hand: Site) -> None:
        live = await hand.accept(scripts.WAITING)
        launch = await hand.prepare(live)
        starting = asyncio.create_task(hand.backend.start(launch))
        await asyncio.sleep(0)
        starting.cancel()
        await asyncio.wait([starting])
        await hand.restart()
        live = await hand.find(live)
        await hand.backend.start(launch)
        await hand.until_said(live, "ready")
        assert hand.starts_of(live) == 1

    async def test_a_second_runner_of_an_attempt_runs_nothing_and_disturbs_nothing(
        self, hand: Site, tmp_path: Path
    ) -> None:
        """As where a scheduler starts a job again whose first process lives on, on a machine out of its sight."""
        live = await hand.accept(scripts.WAITING)
        launch = await hand.prepare(live)
        await hand.backend.start(launch)
        await hand.until_said(live, "ready")
        processes = hand.place.processes(live.run.run_id)
        second = await asyncio.create_subprocess_exec(*_runner(launch, tmp_path), stdin=asyncio.subprocess.DEVNULL)
        assert await asyncio.wait_for(second.wait(), DEADLINE_S) == EXIT_FENCED
        assert hand.output(live) == b"ready\n"
        assert hand.place.processes(live.run.run_id) == processes
        assert (await hand.backend.observe(live.run.run_id, 1)).seen is Seen.ALIVE
        await hand.restart()
        live = await hand.find(live)
        await hand.signal(live, signal.SIGTERM, "tree")
        assert (await hand.ending(live)).signal == signal.SIGTERM

    async def test_an_attempt_on_a_lost_machine_is_never_started_again(self, hand: Site) -> None:
        live = await hand.accept(scripts.WAITING)
        launch = await hand.prepare(live)
        await hand.backend.start(launch)
        await hand.until_said(live, "ready")
        await hand.place.lose_machine()
        try:
            await until_seen(hand, live, hand.place.expects.lost)
            await hand.backend.start(launch)
        finally:
            await hand.place.regain_machine()
        await until_forgotten(hand, live)
        assert hand.starts_of(live) == 1

    async def test_a_run_whose_machine_is_lost_ends_as_that_and_leaves_nothing(self, site: Site) -> None:
        live = await site.accept(scripts.WAITING)
        await site.until_said(live, "ready")
        await site.place.lose_machine()
        try:
            ending = await site.ending(live, _LOSS_S)
        finally:
            await site.place.regain_machine()
        assert ending.outcome is Outcome.NODE_FAIL
        assert ending.reason
        assert site.starts_of(live) == 1

        async def has_no_process() -> bool:
            return site.place.processes(live.run.run_id) == 0

        await until("no process of it lives", has_no_process)
        await site.until_cleaned(live)
