"""The loop over a real store and the shipped fake backend: what is written, what is started, what a crash leaves."""

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from overspill.errors import ExhaustedError, UnavailableError, UnrunnableError
from overspill.request_id import RequestId
from overspill.runner_protocol import FRAME_HEADER, RunnerFrame
from overspill.states import HOME_LEASE_OVER, Outcome, RunState
from overspill.v1.agent_pb2 import AttachOpen, RunSpec
from overspill_agent import runs
from overspill_agent.backends.base import Account
from overspill_agent.backends.fake import FakeBackend, World
from overspill_agent.catalogue import Catalogue
from overspill_agent.config import ImageSection
from overspill_agent.reconcile import SHORTAGE_S, TICK_S, Reconciler, RunnerAccess
from overspill_agent.registry import LiveRun, Registry, now_ms
from overspill_agent.runs import Action, Resources, Run, Seen, Verdict
from overspill_agent.service.attach import Attachment
from overspill_agent.service.upload import Upload
from overspill_agent.spool import Piece, Reserve, Stream
from overspill_agent.store import Store

ACCOUNT = Account(name="cloud", uid=2001, gid=2001, groups=(2001,), home="/home/cloud")
LEASE_S = 3600
RUNNER_LEASE_S = 90.0
SPEC = RunSpec(
    script=b"#!/bin/sh\n",
    argv=[b"/spool/slurm_script"],
    cwd=b"/home/alice",
    home="relay1",
    home_lease_s=LEASE_S,
).SerializeToString()


class Agent:
    """Everything of an agent but its servers; `restart` is what a crash and a new start make of it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.world = World()
        self.silences: dict[str, float] = {}
        self.catalogue = Catalogue({"base": ImageSection(reference="base:13")})
        self._open()

    def _open(self) -> None:
        self.backend = FakeBackend(self.world)
        self.registry = Registry(
            Store(self._directory / "agent.db"), self._directory / "spool", Reserve(self._directory, 0)
        )
        access = RunnerAccess("https://site:1", b"CA", RUNNER_LEASE_S)
        self.reconciler = Reconciler(
            self.registry,
            self.backend,
            access,
            self.catalogue,
            find_account=lambda _name: ACCOUNT,
            silence_s=lambda home: self.silences.get(home, 0.0),
        )

    async def restart(self) -> None:
        await self.registry.close()
        self._open()
        await self.registry.load()

    async def accept(self, number: int = 1, *, cpus: int = 1, has_stdin: bool = False, image: str = "") -> LiveRun:
        run = Run(
            run_id=f"r{number}",
            request_id=RequestId("rig", number, None, 1_790_000_000, 0),
            account=ACCOUNT.name,
            resources=Resources(cpus=cpus),
            has_stdin=has_stdin,
            image=image,
            accepted_at_ms=number,
            state_at_ms=now_ms(),
        )
        await self.registry.accept(run, SPEC)
        return await self.registry.get(run.run_id)

    async def step(self, number: int = 1) -> Action:
        return await self.reconciler.step(await self.registry.get(f"r{number}"))


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    agent = Agent(tmp_path)
    yield agent
    await agent.registry.close()


async def test_an_accepted_run_is_started_once_and_not_touched_while_it_lives(agent: Agent) -> None:
    live = await agent.accept()
    assert await agent.step() is Action.START
    assert live.run.state is RunState.QUEUED
    assert await agent.step() is Action.WAIT
    assert [launch.attempt for launch in agent.world.launches] == [1]


async def test_a_run_is_started_in_its_image(agent: Agent) -> None:
    await agent.accept(image="base")
    assert await agent.step() is Action.START
    image = agent.world.launches[0].demand.image
    assert image is not None
    assert image.reference == "base:13"


async def test_a_run_whose_image_has_left_the_catalogue_ends_and_says_so(agent: Agent) -> None:
    live = await agent.accept(image="gone")
    assert await agent.step() is Action.START
    assert await agent.step() is Action.END
    assert agent.world.launches == []
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.REJECTED
    assert live.run.ending.reason == "this site has no image 'gone'; it offers base"


async def test_the_intent_is_stored_before_the_start(agent: Agent) -> None:
    await agent.accept()
    agent.world.refusals["r1"] = ExhaustedError("no processes left")
    assert await agent.step() is Action.START
    assert agent.world.launches == []
    stored = await agent.registry.store.find("r1")
    assert stored is not None
    assert (stored.state, stored.attempt) == (RunState.QUEUED, 1)
    assert await agent.registry.store.token_sha256("r1", 1) is not None


async def test_a_crash_between_intent_and_start_starts_a_new_attempt_only(agent: Agent) -> None:
    await agent.accept()
    agent.world.refusals["r1"] = ExhaustedError("crash")
    assert await agent.step() is Action.START
    assert agent.world.launches == []
    agent.world.refusals.clear()
    await agent.restart()
    assert await agent.step() is Action.START
    assert [launch.attempt for launch in agent.world.launches] == [2]


async def test_a_start_that_fails_is_not_tried_again_at_once(agent: Agent) -> None:
    await agent.accept()
    agent.world.refusals["r1"] = ExhaustedError("no processes left")
    assert await agent.step() is Action.START
    assert agent.world.launches == []
    assert await agent.step() is Action.WAIT


async def test_a_shortage_is_waited_out_and_told_once(agent: Agent) -> None:
    live = await agent.accept()
    agent.world.refusals["r1"] = ExhaustedError("no processes left")
    pauses_s = []
    with capture_logs() as told:
        for _ in range(4 * runs.MAX_TRIES):
            assert await agent.step() is Action.START
            pauses_s.append(live.retry_at - time.monotonic())
            live.retry_at = 0.0
    assert [entry["reason"] for entry in told if entry["log_level"] == "warning"] == ["no processes left"]
    assert pauses_s[0] == pytest.approx(2, abs=0.5)
    assert pauses_s[1] == pytest.approx(4, abs=0.5)
    assert pauses_s[-1] == pytest.approx(60, abs=0.5)
    await agent.restart()
    agent.world.refusals.clear()
    assert await agent.step() is Action.START
    assert [launch.attempt for launch in agent.world.launches] == [4 * runs.MAX_TRIES + 1]


async def test_a_run_that_a_shortage_keeps_from_starting_for_too_long_is_given_back(agent: Agent) -> None:
    live = await agent.accept()
    agent.world.refusals["r1"] = ExhaustedError("no processes left")
    assert await agent.step() is Action.START
    await agent.registry.change(
        live, lambda run: replace(run, state_at_ms=run.state_at_ms - round(SHORTAGE_S * 1000) - 1)
    )
    live.retry_at = 0.0
    assert await agent.step() is Action.START
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.REJECTED
    assert live.run.ending.reason.endswith("s: no processes left")
    assert agent.world.launches == []


async def test_starts_that_leave_no_trace_end_the_run_after_some(agent: Agent) -> None:
    live = await agent.accept()
    for _ in range(runs.MAX_TRIES):
        assert await agent.step() is Action.START
        agent.world.launches.clear()
        agent.world.alive.clear()
        live.retry_at = 0.0
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.REJECTED


async def test_a_crash_right_after_the_start_starts_nothing_again(agent: Agent) -> None:
    await agent.accept()
    await agent.step()
    await agent.restart()
    assert await agent.step() is Action.WAIT
    assert len(agent.world.launches) == 1
    agent.backend.die("r1", 1)
    assert await agent.step() is Action.END
    live = await agent.registry.get("r1")
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.NODE_FAIL
    assert await agent.step() is Action.CLEAN
    assert await agent.step() is Action.WAIT
    assert (await agent.backend.observe("r1", 1)).seen is Seen.NOTHING


async def test_the_end_of_a_dead_run_counts_the_output_that_came(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    live.spool.append([Piece(Stream.STDOUT, 0, b"12345")])
    agent.backend.die("r1", 1)
    await agent.step()
    assert live.run.ending is not None
    assert live.run.ending.stdout_bytes == 5


async def test_output_that_comes_while_the_run_ends_is_counted_or_not_kept(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    agent.backend.die("r1", 1)
    live.gone_since = 0.0

    async def late_output() -> AsyncIterator[bytes]:
        offset = 0
        while not live.run.has_ended:
            yield FRAME_HEADER.pack(RunnerFrame.STDOUT, 1, offset) + b"x"
            offset += 1
        yield FRAME_HEADER.pack(RunnerFrame.STDOUT, 1, live.spool.length(Stream.STDOUT)) + b"x"

    await asyncio.gather(Upload(agent.registry, live).take(late_output()), agent.step())
    assert live.run.ending is not None
    assert live.run.ending.stdout_bytes == live.spool.length(Stream.STDOUT)
    attachment = Attachment(agent.registry, live, AttachOpen())
    responses = [response async for response in attachment.responses()]
    assert sum(len(response.output.data) for response in responses) == responses[-1].ended.output.stdout


async def test_an_upload_is_broken_off_as_soon_as_its_output_cannot_be_kept(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    async def silent_after_one() -> AsyncIterator[bytes]:
        yield FRAME_HEADER.pack(RunnerFrame.STDOUT, 1, 0) + b"x"
        await asyncio.Event().wait()

    live = await agent.accept()
    await agent.step()
    monkeypatch.setattr(os, "fdatasync", fail)
    async with asyncio.timeout(3):
        with pytest.raises(ExhaustedError):
            await Upload(agent.registry, live).take(silent_after_one())
    assert live.uploads == 0


async def test_a_run_is_ended_as_soon_as_the_upload_of_its_dead_runner_closes(agent: Agent) -> None:
    closed = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        await closed.wait()
        yield b""

    live = await agent.accept()
    loop = asyncio.create_task(agent.reconciler.run())
    await _until(lambda: len(agent.world.launches) == 1)
    upload = asyncio.create_task(Upload(agent.registry, live).take(silent()))
    await _until(lambda: live.uploads == 1)
    agent.backend.die("r1", 1)
    await _until(lambda: live.gone_since is not None)
    closed.set()
    async with asyncio.timeout(TICK_S / 4):
        while not live.run.has_ended:
            await live.changed()
    await upload
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_runs_wait_for_room_and_take_it_when_it_is_left(agent: Agent) -> None:
    await agent.accept(1, cpus=6)
    await agent.accept(2, cpus=3)
    assert await agent.step(1) is Action.START
    assert await agent.step(2) is Action.WAIT
    assert _promised_cpus(agent) == 9
    agent.backend.die("r1", 1)
    assert await agent.step(1) is Action.END
    assert await agent.step(2) is Action.WAIT
    assert _promised_cpus(agent) == 9
    assert await agent.step(1) is Action.CLEAN
    assert _promised_cpus(agent) == 3
    assert await agent.step(2) is Action.START


def _promised_cpus(agent: Agent) -> int:
    return sum(holding.resources.cpus for holding in agent.registry.promised())


async def test_two_runs_at_once_never_take_the_same_room(agent: Agent) -> None:
    for number in (1, 2, 3):
        await agent.accept(number, cpus=6)
    await asyncio.gather(*(agent.step(number) for number in (1, 2, 3)))
    assert len(agent.world.launches) == 1


async def test_a_stop_ends_what_was_not_started_without_starting_it(agent: Agent) -> None:
    live = await agent.accept()
    await agent.registry.change(live, lambda run: runs.stop_wanted(run, "scancel"))
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.CANCELLED
    assert agent.world.launches == []


async def test_a_stop_is_repeated_until_the_run_is_seen_dead(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    await agent.registry.change(live, lambda run: runs.stop_wanted(run, "scancel"))
    assert await agent.step() is Action.WAIT
    live.unwanted_since = time.monotonic() - runs.STOP_GRACE_S
    assert await agent.step() is Action.STOP
    assert await agent.step() is Action.END


async def test_the_loop_does_all_this_by_itself(agent: Agent) -> None:
    loop = asyncio.create_task(agent.reconciler.run())
    live = await agent.accept()
    await _until(lambda: len(agent.world.launches) == 1)
    agent.backend.die("r1", 1)
    await _until(lambda: live.run.is_cleaned)
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_one_run_that_cannot_be_brought_on_holds_up_no_other(agent: Agent) -> None:
    loop = asyncio.create_task(agent.reconciler.run())
    agent.world.refusals["r1"] = ExhaustedError("no processes left")
    broken = await agent.accept(1)
    await _until(lambda: broken.run.attempt == 1)
    await agent.accept(2)
    await _until(lambda: [launch.run_id for launch in agent.world.launches] == ["r2"])
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_a_run_that_is_released_and_cleaned_leaves_memory_but_not_the_store(agent: Agent) -> None:
    live = await agent.accept()
    await agent.registry.change(live, lambda run: runs.stop_wanted(run, "scancel"))
    await agent.step()
    await agent.registry.release(live)
    assert agent.registry.find_live("r1") is not None
    await agent.step()
    assert agent.registry.find_live("r1") is None
    remembered = await agent.registry.get("r1")
    assert remembered.run.is_released


async def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_a_run_whose_home_is_silent_for_longer_than_its_lease_ends_as_a_node_failure(agent: Agent) -> None:
    live = await agent.accept()
    assert await agent.step() is Action.START
    agent.silences["rig/relay1"] = LEASE_S - 1
    assert await agent.step() is Action.WAIT
    agent.silences = {"rig/relay2": LEASE_S + 1}
    assert await agent.step() is Action.WAIT
    agent.silences = {"rig/relay1": LEASE_S + 1}
    await agent.step()
    agent.world.alive.clear()
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert (live.run.ending.outcome, live.run.ending.reason) == (Outcome.NODE_FAIL, HOME_LEASE_OVER)


async def test_a_run_whose_lease_ran_out_before_its_start_is_never_started(agent: Agent) -> None:
    await agent.accept()
    agent.silences["rig/relay1"] = LEASE_S + 1
    await agent.restart()
    assert await agent.step() is Action.END
    assert agent.world.launches == []


async def test_a_stop_that_was_asked_for_stays_one_though_the_lease_runs_out_meanwhile(agent: Agent) -> None:
    live = await agent.accept()
    await agent.registry.change(live, lambda run: runs.stop_wanted(run, "cancelled"))
    agent.silences["rig/relay1"] = LEASE_S + 1
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.CANCELLED


async def test_a_run_out_of_sight_is_left_alone_until_its_lease_is_over(agent: Agent) -> None:
    live = await agent.accept()
    assert await agent.step() is Action.START
    agent.world.lost.add(("r1", 1))
    live.told_at = time.monotonic() - RUNNER_LEASE_S
    assert await agent.step() is Action.WAIT
    with agent.registry.reporting(live):
        live.told_at = time.monotonic() - 10 * RUNNER_LEASE_S
        assert await agent.step() is Action.WAIT
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.NODE_FAIL


async def test_what_a_backend_gives_up_is_stopped_and_ends_as_the_backend_says(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    agent.world.verdicts[("r1", 1)] = Verdict(Outcome.OUT_OF_MEMORY, "too little memory")
    assert await agent.step() is Action.GIVE_UP
    await agent.restart()
    live = agent.registry.live()[0]
    live.unwanted_since = time.monotonic() - runs.STOP_GRACE_S
    agent.world.verdicts.clear()
    assert await agent.step() is Action.STOP
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert (live.run.ending.outcome, live.run.ending.reason) == (Outcome.OUT_OF_MEMORY, "too little memory")


async def test_a_start_that_never_will_succeed_ends_the_run_with_the_reason(agent: Agent) -> None:
    agent.world.refusals["r1"] = UnrunnableError("the image is gone")
    live = await agent.accept()
    await agent.step()
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert (live.run.ending.outcome, live.run.ending.reason) == (Outcome.REJECTED, "the image is gone")


async def test_a_script_that_its_own_lease_has_ended_is_over_even_if_the_backend_cannot_see(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    await agent.registry.change(live, lambda run: runs.script_started(run, 7))
    agent.world.is_in_sight = False
    with pytest.raises(UnavailableError):
        await agent.step()
    live.told_at = time.monotonic() - 2 * RUNNER_LEASE_S
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.NODE_FAIL
    with pytest.raises(UnavailableError):
        await agent.step()
    agent.world.is_in_sight = True
    agent.world.alive.clear()
    assert await agent.step() is Action.CLEAN


async def test_what_may_still_begin_is_not_over_while_the_backend_cannot_see(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    agent.world.is_in_sight = False
    live.told_at = time.monotonic() - 2 * RUNNER_LEASE_S
    with pytest.raises(UnavailableError):
        await agent.step()


async def test_removals_that_take_long_are_few_at_once(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job may have left millions of files, and each removal takes one of the threads that all others need, too."""
    forget, are_all_busy, may_go_on = agent.backend.forget, asyncio.Event(), asyncio.Event()
    removing = 0

    async def forget_slowly(run_id: str) -> None:
        nonlocal removing
        removing += 1
        if removing == 8:
            are_all_busy.set()
        await may_go_on.wait()
        await forget(run_id)

    monkeypatch.setattr(agent.backend, "forget", forget_slowly)
    for number in range(1, 31):
        live = await agent.accept(number)
        await agent.registry.change(live, lambda run: runs.stop_wanted(run, "enough"))
        assert await agent.step(number) is Action.END
    steps = [asyncio.create_task(agent.step(number)) for number in range(1, 31)]
    async with asyncio.timeout(20):
        await are_all_busy.wait()
    await asyncio.sleep(0.1)
    assert removing == 8
    may_go_on.set()
    assert set(await asyncio.gather(*steps)) == {Action.CLEAN}
    assert removing == 30


async def test_a_run_that_finds_no_room_for_too_long_goes_home(agent: Agent) -> None:
    await agent.accept(1, cpus=6)
    assert await agent.step(1) is Action.START
    waiting = await agent.accept(2, cpus=6)
    assert await agent.step(2) is Action.WAIT
    await agent.registry.change(waiting, lambda run: replace(run, state_at_ms=now_ms() - 1000 * int(SHORTAGE_S + 1)))
    assert await agent.step(2) is Action.WAIT
    assert await agent.step(2) is Action.END
    assert waiting.run.ending is not None
    assert waiting.run.ending.outcome is Outcome.REJECTED
    assert "no slot of the site became free" in waiting.run.ending.reason


async def test_a_start_that_the_backend_cannot_see_is_given_back_like_any_that_does_not_succeed(agent: Agent) -> None:
    live = await agent.accept()
    await agent.step()
    agent.world.is_in_sight = False
    live.told_at = time.monotonic() - 2 * RUNNER_LEASE_S
    await agent.registry.change(live, lambda run: replace(run, state_at_ms=now_ms() - 1000 * int(SHORTAGE_S + 1)))
    assert await agent.step() is Action.END
    assert live.run.ending is not None
    assert live.run.ending.outcome is Outcome.REJECTED
    assert "could not start the job" in live.run.ending.reason
