"""Brings every run on: starts what is ready, stops what is unwanted, ends what is dead, cleans up after it.

`run` waits and catches, `step` looks and acts, `runs.next_action` decides. What is wanted and what has happened is in
the store, what is there is at the backend; so a restart needs no memory of this module, and a step can be repeated.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from overspill.errors import OverspillError, TransientError, UnrunnableError
from overspill.states import HOME_LEASE_OVER, Outcome
from overspill.v1.agent_pb2 import RunSpec
from overspill_agent import metrics, runs
from overspill_agent.backends.accounts import resolve_account
from overspill_agent.backends.base import Account, Backend
from overspill_agent.capacity import has_room, left
from overspill_agent.catalogue import Catalogue
from overspill_agent.homes import name_of
from overspill_agent.launches import launch_of
from overspill_agent.registry import LiveRun, Registry, holding_of, now_ms
from overspill_agent.runs import LEASE_MARGIN_S, Action, Run, Seen, Sight, Sighting, Verdict
from overspill_agent.spool import Stream

log = structlog.get_logger(__name__)

#: So long a start is tried again by default while the site is too short of something.
SHORTAGE_S = 600.0
#: Without news each run is looked at so often: adopted runners that die make no noise.
TICK_S = 5.0
#: A run that should be gone is looked at so often: its room is wanted.
_UNWANTED_TICK_S = 0.25
#: A runner that is gone may still have words on the wire; a connection that only seems open does not hold up the end.
_LAST_WORDS_S = 10.0
#: Before a start is tried again.
_RETRY_S = 2.0
#: Runners that are being started at once; more would only take the processors from each other.
_STARTS_AT_ONCE = 8
#: Runs whose directories are being removed at once: a job may have left millions of files, and threads are few.
_REMOVALS_AT_ONCE = 8
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True)
class RunnerAccess:
    """How runners reach this agent; a runner that hears nothing of it for `lease_s` stops its job."""

    url: str
    ca_pem: bytes
    lease_s: float


class Reconciler:
    """The loop, with a task for each run that there is news of. One per agent."""

    def __init__(
        self,
        registry: Registry,
        backend: Backend,
        access: RunnerAccess,
        catalogue: Catalogue,
        *,
        shortage_s: float = SHORTAGE_S,
        find_account: Callable[[str], Account] = resolve_account,
        silence_s: Callable[[str], float] = lambda _home: 0.0,
    ) -> None:
        """Subscribe to what may change a run; nothing is done before `run`.

        A run that the site has been too short of something to start for `shortage_s` is given back.
        """
        self._shortage_s = shortage_s
        self._find_account = find_account
        self._silence_s = silence_s
        self._registry = registry
        self._backend = backend
        self._access = access
        self._catalogue = catalogue
        self._news: set[str] = set()
        self._wake = asyncio.Event()
        self._in_progress: set[str] = set()
        self._admission = asyncio.Lock()
        self._starts = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._removals = asyncio.Semaphore(_REMOVALS_AT_ONCE)
        registry.on_change(self.look_at)
        backend.on_change(self.look_at)

    def look_at(self, run_id: str) -> None:
        """Have the run looked at soon."""
        self._news.add(run_id)
        self._wake.set()

    async def run(self) -> None:
        """Bring runs on whenever there is news, and each at every tick, until cancelled."""
        next_tick = time.monotonic()
        async with asyncio.TaskGroup() as group:
            while True:
                if time.monotonic() >= next_tick:
                    self._news.update(live.run.run_id for live in self._registry.live())
                    next_tick = time.monotonic() + TICK_S
                self._wake.clear()
                for run_id in sorted(self._news - self._in_progress, key=self._accepted_at):
                    self._news.discard(run_id)
                    self._in_progress.add(run_id)
                    group.create_task(self._bring_on(run_id), name=f"reconcile {run_id}")
                await self._news_or(next_tick)

    async def _news_or(self, deadline: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return

    def _accepted_at(self, run_id: str) -> int:
        live = self._registry.find_live(run_id)
        return live.run.accepted_at_ms if live else 0

    async def _bring_on(self, run_id: str) -> None:
        live = self._registry.find_live(run_id)
        try:
            if live is not None:
                await self.step(live)
        except OverspillError as error:
            log.warning("run is not brought on", action="step_failed", run_id=run_id, reason=error.reason)
            self._look_again(run_id, _RETRY_S)
        except Exception:
            log.exception("run is not brought on", action="step_failed", run_id=run_id)
        finally:
            self._in_progress.discard(run_id)
            if run_id in self._news:
                self._wake.set()

    async def step(self, live: LiveRun) -> Action:
        """Look at one run, do what is next about it, and return what that was."""
        await self._mind_lease(live)
        sight = await self._look(live)
        action = runs.next_action(live.run, sight)
        match action:
            case Action.START:
                await self._start(live)
            case Action.STOP:
                await self._backend.stop(live.run.run_id, live.run.attempt)
            case Action.GIVE_UP:
                await self._give_up(live, sight.sighting.verdict)
            case Action.END:
                await self._end(live, sight.sighting)
            case Action.CLEAN:
                async with self._removals:
                    await self._backend.forget(live.run.run_id)
                await self._registry.change(live, runs.cleaned)
                self._registry.drop_if_over(live)
                self._look_at_waiting()
            case Action.WAIT:
                await self._mind_patience(live, sight)
        if sight.may_live and live.unwanted_since is not None:
            self._look_again(live.run.run_id, _UNWANTED_TICK_S)
        return action

    async def _mind_lease(self, live: LiveRun) -> None:
        """Have a run stopped whose cluster may start its job again, because it has not heard of the run for so long."""
        run = live.run
        if run.has_ended or run.is_stop_wanted:
            return
        if live.home is None:
            spec = RunSpec.FromString(await self._registry.store.spec(run.run_id) or b"")
            live.home = name_of(run.request_id.slurm_cluster, spec.home), spec.home_lease_s
        home, lease_s = live.home
        silence_s = self._silence_s(home)
        if 0 < lease_s < silence_s:
            await self._registry.change(live, lambda run: runs.stop_wanted(run, HOME_LEASE_OVER, Outcome.NODE_FAIL))
            log.warning("lease is over", action="home_lease_over", run_id=run.run_id, silence_s=round(silence_s))

    def _look_again(self, run_id: str, after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, self.look_at, run_id)

    def _look_at_waiting(self) -> None:
        """Have the runs looked at that may start now that another has left its room."""
        for live in self._registry.live():
            if live.run.attempt == 0:
                self.look_at(live.run.run_id)

    async def _look(self, live: LiveRun) -> Sight:
        run = live.run
        is_lease_over = live.uploads == 0 and live.silence_s() > self._access.lease_s + LEASE_MARGIN_S
        sighting = await self._observe(live, is_lease_over=is_lease_over) if run.attempt else Sighting(Seen.NOTHING)
        is_due = time.monotonic() >= live.retry_at
        return Sight(
            sighting=sighting,
            has_room=is_due and self._has_room(run),
            is_reporting=_is_reporting(live, sighting.seen),
            tries=live.tries,
            is_lease_over=is_lease_over,
            unwanted_s=_unwanted_s(live),
        )

    async def _observe(self, live: LiveRun, *, is_lease_over: bool) -> Sighting:
        """Ask the back end. One that cannot see does not keep alive what has ended by its own lease.

        Nor does it keep for ever what it was to start: that is given back like any start that does not succeed.
        """
        run = live.run
        try:
            sighting = await self._backend.observe(run.run_id, run.attempt)
        except TransientError as error:
            is_start_due = run.started_at_ms is None and _waited_s(run) <= self._shortage_s
            if is_start_due or not is_lease_over or run.has_ended:
                raise
            if run.started_at_ms is None and not run.is_stop_wanted:
                # From here on a runner that comes after all is given no script; one may have come just before.
                await self._give_up(live, _not_started(run, error))
                if live.spec_given_to == run.attempt:
                    raise
            return Sighting(Seen.LOST)
        place = sighting.remote_id, sighting.machine
        # Each run is looked at every few seconds, and its place hardly ever changes.
        if runs.placed(run, *place) != run:
            await self._registry.change(live, lambda run: runs.placed(run, *place))
        return sighting

    def _has_room(self, run: Run) -> bool:
        """Tell whether the run has its place already, would find one free, or can wait for one at the backend."""
        if run.attempt > 0:
            return True
        capacity = self._backend.capacity()
        return capacity.has_queue or has_room(left(capacity, self._registry.held()), holding_of(run))

    async def _start(self, live: LiveRun) -> None:
        """Write the intent down, then start. A crash between the two leaves an attempt that is seen as NOTHING."""
        spec = RunSpec.FromString(await self._registry.store.spec(live.run.run_id) or b"")
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        run = await self._begin_attempt(live, hashlib.sha256(token.encode()).digest())
        if run is None:
            return
        live.tries += 1
        try:
            async with self._starts:
                account = await asyncio.to_thread(self._find_account, run.account)
                access = self._access
                demand = self._catalogue.demand(
                    run.resources, run.gpu_type, image=run.image, constraint=spec.constraint
                )
                launch = launch_of(run, spec, account, demand, token=token, url=access.url, ca_pem=access.ca_pem)
                with metrics.LAUNCH_SECONDS.time():
                    await self._backend.start(launch)
        except TransientError as error:
            await self._put_off(live, error)
            return
        except UnrunnableError as error:
            await self._give_up(live, Verdict(Outcome.REJECTED, error.reason))
            return
        except OverspillError as error:
            live.start_error = error.reason
            raise
        log.info("runner started", action="runner_started", run_id=run.run_id, attempt=run.attempt)

    async def _mind_patience(self, live: LiveRun, sight: Sight) -> None:
        """Give a run back that has found no room for too long: its cluster has room, too."""
        run = live.run
        waited_s = _waited_s(run)
        if run.attempt or not run.is_ready or run.has_ended or sight.has_room or waited_s <= self._shortage_s:
            return
        await self._give_up(live, Verdict(Outcome.REJECTED, f"no slot of the site became free for {waited_s:.0f} s"))

    async def _put_off(self, live: LiveRun, error: TransientError) -> None:
        """Have a start that the site is too short of something for tried again, later each time; tell it once.

        After too long the run is given back: its cluster has room, too. It may be that the start came through unheard,
        and so what is left of the attempt is stopped first.
        """
        if _waited_s(live.run) > self._shortage_s:
            await self._give_up(live, _not_started(live.run, error))
            return
        live.tries -= 1
        live.shortages += 1
        metrics.START_SHORTAGES.inc()
        if live.shortages == 1:
            run = live.run
            log.warning(
                "run waits for a shortage to end",
                action="start_put_off",
                run_id=run.run_id,
                attempt=run.attempt,
                reason=error.reason,
            )
        pause_s = runs.pause_after_shortage_s(live.shortages)
        live.retry_at = time.monotonic() + pause_s
        self._look_again(live.run.run_id, pause_s)

    async def _begin_attempt(self, live: LiveRun, token_sha256: bytes) -> Run | None:
        """Store the intent, one run at a time: two never take the same room. None if it is not to be started."""
        async with self._admission:
            before = live.run
            if not self._has_room(before):
                return None
            live.retry_at = time.monotonic() + _RETRY_S
            run = await self._registry.change(
                live,
                lambda run: runs.attempt_begun(run, now_ms()),
                save=lambda run: self._registry.store.begin_attempt(run, token_sha256),
            )
            return run if run.attempt > before.attempt else None

    async def _give_up(self, live: LiveRun, verdict: Verdict | None) -> None:
        """Store what the backend knows before anything of it is removed."""
        if verdict is not None:
            metrics.GIVEN_UP.labels(verdict.outcome.value).inc()
            log.warning("run is given up", action="run_given_up", run_id=live.run.run_id, reason=verdict.reason)
            await self._registry.change(live, lambda run: runs.given_up(run, verdict))

    async def _end(self, live: LiveRun, sighting: Sighting) -> None:
        """End a run of which nothing is left and whose runner has not said how."""

        def change(run: Run) -> Run:
            ending = runs.ending_without_report(
                run,
                sighting,
                stdout_bytes=live.spool.length(Stream.STDOUT),
                stderr_bytes=live.spool.length(Stream.STDERR),
                start_error=live.start_error,
            )
            return runs.ended(run, ending, now_ms())

        await self._registry.end(live, change)


def _waited_s(run: Run) -> float:
    """Return for how long the run has been in its state."""
    return (now_ms() - run.state_at_ms) / 1000


def _not_started(run: Run, error: TransientError) -> Verdict:
    """Return what becomes of a run that could not be started for too long, and why."""
    return Verdict(Outcome.REJECTED, f"the site could not start the job for {_waited_s(run):.0f} s: {error.reason}")


def _is_reporting(live: LiveRun, seen: Seen) -> bool:
    if live.uploads == 0 or seen is not Seen.GONE:
        return live.uploads > 0
    if live.gone_since is None:
        live.gone_since = time.monotonic()
    return time.monotonic() - live.gone_since < _LAST_WORDS_S


def _unwanted_s(live: LiveRun) -> float:
    if not (live.run.is_stop_wanted or live.run.has_ended):
        return 0.0
    if live.unwanted_since is None:
        live.unwanted_since = time.monotonic()
    return time.monotonic() - live.unwanted_since
