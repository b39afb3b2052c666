"""The cases of whole runs, from their acceptance until nothing is left of them; the agent's loop calls the verbs."""

from __future__ import annotations

import signal

import pytest

from overspill.states import Outcome, RunState
from overspill_agent.runs import Resources, Seen
from overspill_agent.spool import Stream
from tests.conformance.backends import scripts
from tests.conformance.backends.site import Site, until


class Running:
    """What a script does and what becomes of it."""

    async def test_a_script_runs_once_and_leaves_nothing(self, site: Site) -> None:
        live = await site.accept(scripts.saying("hello"))
        ending = await site.ending(live)
        assert (ending.outcome, ending.exit_code) == (Outcome.COMPLETED, 0)
        assert site.output(live) == b"hello\n"
        assert site.starts_of(live) == 1
        await site.until_cleaned(live)
        assert await site.backend.run_ids() == frozenset()

    async def test_output_comes_whole_and_apart(self, site: Site) -> None:
        live = await site.accept(scripts.OUTPUT)
        ending = await site.ending(live)
        assert site.output(live) == b"x" * scripts.OUTPUT_BYTES
        assert site.output(live, Stream.STDERR) == b"a word on the side\n"
        assert ending.stdout_bytes == scripts.OUTPUT_BYTES

    @pytest.mark.parametrize("code", [1, 127, 255])
    async def test_the_exit_code_is_the_scripts(self, site: Site, code: int) -> None:
        ending = await site.ending(await site.accept(scripts.exiting(code)))
        assert (ending.outcome, ending.exit_code) == (Outcome.COMPLETED, code)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGUSR2])
    async def test_death_by_a_signal_is_that_signals(self, site: Site, number: signal.Signals) -> None:
        ending = await site.ending(await site.accept(scripts.dying(number)))
        assert (ending.outcome, ending.signal) == (Outcome.SIGNALED, number)

    async def test_a_signal_to_the_shell_reaches_the_shell_and_one_to_the_tree_all(self, site: Site) -> None:
        live = await site.accept(scripts.TALKING)
        await site.until_said(live, "ready")
        await site.signal(live, signal.SIGUSR1, "shell")
        await site.until_said(live, "USR1 to the shell")
        assert b"USR1 to the child" not in site.output(live)
        await site.signal(live, signal.SIGUSR1, "tree")
        await site.until_said(live, "USR1 to the shell", times=2)
        await site.until_said(live, "USR1 to the child")
        await site.signal(live, signal.SIGTERM, "tree")
        ending = await site.ending(live)
        assert (ending.outcome, ending.signal) == (Outcome.SIGNALED, signal.SIGTERM)

    async def test_a_suspended_run_stands_until_it_is_continued(self, site: Site) -> None:
        live = await site.accept(scripts.WAITING)
        await site.until_said(live, "ready")
        for number, state in ((signal.SIGSTOP, RunState.SUSPENDED), (signal.SIGCONT, RunState.RUNNING)):
            await site.signal(live, number, "tree")

            async def is_in_state(state: RunState = state) -> bool:
                return live.run.state is state

            await until(f"the run is {state}", is_in_state)

    async def test_after_its_grace_the_whole_tree_is_killed_whatever_it_ignores(self, site: Site) -> None:
        live = await site.accept(scripts.STUBBORN)
        await site.until_said(live, "ready")
        assert site.place.processes(live.run.run_id) >= scripts.STUBBORN_PROCESSES
        await site.signal(live, signal.SIGTERM, "tree")

        async def is_delivered() -> bool:
            return not live.signals

        await until("the signal is delivered", is_delivered)
        assert not live.run.has_ended
        assert site.place.processes(live.run.run_id) >= scripts.STUBBORN_PROCESSES
        await site.signal(live, signal.SIGKILL, "tree")
        ending = await site.ending(live)
        assert (ending.outcome, ending.signal) == (Outcome.SIGNALED, signal.SIGKILL)
        assert site.place.processes(live.run.run_id) == 0
        await site.until_cleaned(live)

    async def test_a_run_that_is_stopped_ends_as_cancelled_with_all_its_processes(self, site: Site) -> None:
        live = await site.accept(scripts.STUBBORN)
        await site.until_said(live, "ready")
        await site.stop(live)
        ending = await site.ending(live)
        assert ending.outcome in (Outcome.CANCELLED, Outcome.SIGNALED)
        await site.until_cleaned(live)
        assert site.place.processes(live.run.run_id) == 0

    async def test_a_run_that_is_stopped_before_it_starts_never_does(self, site: Site) -> None:
        whole = site.backend.capacity().slots[0].size
        first = await site.accept(scripts.WAITING, Resources(cpus=whole.cpus, memory_mib=128))
        await site.until_said(first, "ready")
        second = await site.accept(scripts.WAITING)
        await site.stop(second)
        ending = await site.ending(second)
        assert ending.outcome is Outcome.CANCELLED
        assert site.starts_of(second) == 0
        await site.stop(first)

    async def test_an_agents_restart_costs_a_run_nothing(self, site: Site) -> None:
        live = await site.accept(scripts.TALKING)
        await site.until_said(live, "ready")
        await site.restart()
        live = await site.find(live)
        sighting = await site.backend.observe(live.run.run_id, live.run.attempt)
        assert (sighting.seen, live.run.attempt) == (Seen.ALIVE, 1)
        await site.signal(live, signal.SIGUSR1, "shell")
        await site.until_said(live, "USR1 to the shell")
        assert site.output(live).startswith(b"ready\n")
        assert site.starts_of(live) == 1
