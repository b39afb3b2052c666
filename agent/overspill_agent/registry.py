"""The runs that are not over, in memory: the only way to change one, and the place to wait for a change.

A change goes: the run's lock, a pure function of `runs`, the store, memory, whoever waits. Nobody sees what is not
durable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import structlog

from overspill.errors import ExhaustedError, NotFoundError
from overspill_agent import metrics, runs
from overspill_agent.capacity import Holding
from overspill_agent.delays import StartDelays
from overspill_agent.runs import Run
from overspill_agent.spool import Reserve, Spool, Stream
from overspill_agent.store import Store
from overspill_agent.store.store import StoredSignal

log = structlog.get_logger(__name__)

T = TypeVar("T")
Change = Callable[[Run], Run]
Save = Callable[[Run], Awaitable[None]]


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class LiveRun:
    """One run, its bytes, and everything about it that a restart may forget.

    Attributes:
        run: the run as it is stored; replaced by `Registry.change` only.
        spool: its output and input.
        signals: what the runner has not acknowledged, in order.
        uploads: open uploads of its runner.
        unwanted_since: monotonic seconds when this agent first knew that nothing of it should live.
        gone_since: monotonic seconds when its runner was first seen gone with an upload open.
        start_error: why the last start failed; empty if none did.
        told_at: monotonic seconds when its runner may last have been told something: its lease began anew then.
        tries: starts that no shortage prevented.
        shortages: starts that one did.
        spec_given_to: the attempt whose runner was given the script by this agent; 0 if none was.
        found_attempt: the attempt that an earlier agent had begun, and may have given the script; 0 if none.
        retry_at: monotonic seconds before which a start is not tried again.
        home: the relay that follows it, and its lease in seconds, 0 for none; None until looked up in the spec.
        relay: the Attach that counts; a new one takes it over.
        time_limit_s: as the relay told it last, 0 for none; None while no Attach has, and the spec's counts.
    """

    def __init__(self, run: Run, spool: Spool, signals: list[StoredSignal]) -> None:
        self.run = run
        self.spool = spool
        self.signals = signals
        self.lock = asyncio.Lock()
        self.append_lock = asyncio.Lock()
        self.uploads = 0
        self.unwanted_since: float | None = None
        self.gone_since: float | None = None
        self.spec_given_to = 0
        self.found_attempt = run.attempt
        self.start_error = ""
        self.told_at = time.monotonic()
        self.tries = 0
        self.shortages = 0
        self.retry_at = 0.0
        self.home: tuple[str, int] | None = None
        self.relay = object()
        self.time_limit_s: int | None = None
        self._changed = asyncio.Event()

    def silence_s(self) -> float:
        """Return for how long its runner has been told nothing, as far as this agent knows."""
        return time.monotonic() - self.told_at

    def notify(self) -> None:
        """Wake everybody who waits for this run."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for the next `notify`. Look at what you wait for, then call this without an await between."""
        await self._changed.wait()


class Registry:
    """All live runs. Owns the store's and the spools' contents; one per agent."""

    def __init__(self, store: Store, spool_directory: Path, reserve: Reserve) -> None:
        """Call `load` before anything else."""
        self._store = store
        self._reserve = reserve
        self._spool_directory = spool_directory
        self._live: dict[str, LiveRun] = {}
        self._accepting: dict[str, Run] = {}
        self._on_change: Callable[[str], None] = lambda _run_id: None
        self._writes: set[asyncio.Task[object]] = set()
        self.delays = StartDelays()
        self.is_closing = False

    @property
    def store(self) -> Store:
        return self._store

    def on_change(self, callback: Callable[[str], None]) -> None:
        """Have `callback(run_id)` called after each stored change."""
        self._on_change = callback

    async def load(self) -> None:
        """Take up what an earlier agent left."""
        for run in await self._store.open_runs():
            live = await self._take_up(run)
            _cut_to_ending(live)
            # What was acknowledged was durable, but only the dead agent knew how much that was.
            await asyncio.to_thread(live.spool.sync)

    async def check(self) -> None:
        """Find out whether a new run could be stored now.

        Raises:
            TransientError: the disk is full but for its reserve, or the store does not take a write.
        """
        self._reserve.check(0)
        await self._store.check()

    def end_waits(self) -> None:
        """Have every stream that waits for a change see that the agent is going down."""
        self.is_closing = True
        for live in self._live.values():
            live.notify()

    async def close(self) -> None:
        """Finish what is being written and close the store."""
        await asyncio.gather(*self._writes, return_exceptions=True)
        await asyncio.to_thread(self._store.close)

    def live(self) -> list[LiveRun]:
        """Return all live runs, oldest first."""
        return sorted(self._live.values(), key=lambda live: live.run.accepted_at_ms)

    def find_live(self, run_id: str) -> LiveRun | None:
        return self._live.get(run_id)

    async def get(self, run_id: str) -> LiveRun:
        """Return the run; one that is over comes without its bytes and does not stay in memory.

        Raises:
            NotFoundError: there has never been one of this name.
        """
        live = self._live.get(run_id)
        if live is not None:
            return live
        run = await self._store.find(run_id)
        if run is None:
            raise NotFoundError(f"there is no run {run_id}")
        return LiveRun(run, self._spool(run_id), [])

    async def accept(self, run: Run, spec: bytes, claim: str = "") -> tuple[Run, bool]:
        """Store a new run; return it and True, or the run that its request id has made before and False.

        What it asks for is promised from the call on, before anything is awaited.

        Raises:
            TransientError: the disk is full, or the store does not take it now.
        """
        self._reserve.check(len(spec))
        self._accepting[run.run_id] = run
        return await self._unbroken(self._accept(run, spec, claim))

    async def _accept(self, run: Run, spec: bytes, claim: str) -> tuple[Run, bool]:
        try:
            stored = await self._store.insert(run, spec, claim)
            if stored.run_id != run.run_id:
                return stored, False
            live = await self._take_up(stored)
        finally:
            del self._accepting[run.run_id]
        log.info("run accepted", action="run_accepted", **_names(run), state=run.state.value, account=run.account)
        self._announce(live)
        return stored, True

    async def change(self, live: LiveRun, change: Change, *, save: Save | None = None) -> Run:
        """Apply a pure change and return the run that it made, stored.

        Args:
            live: the run.
            change: from the run as it is to the run that is to be.
            save: how to store it, where more than the run's row changes with it. Not called if nothing changes.
        """
        return await self._unbroken(self._change(live, change, save or self._store.save))

    async def _change(self, live: LiveRun, change: Change, save: Save) -> Run:
        async with live.lock:
            before, after = live.run, change(live.run)
            if after == before:
                return before
            await save(after)
            live.run = after
        if after.state is not before.state:
            _note_transition(before, after)
        if before.started_at_ms is None and after.started_at_ms is not None:
            self.delays.note(after.accepted_at_ms, after.started_at_ms)
        self._announce(live)
        return after

    async def end(self, live: LiveRun, change: Change) -> Run:
        """Apply a change that ends the run, while its output stands still; keep nothing beyond its totals."""
        return await self._unbroken(self._end(live, change))

    async def _end(self, live: LiveRun, change: Change) -> Run:
        async with live.append_lock:
            await asyncio.to_thread(live.spool.cut_torn)
            await asyncio.to_thread(live.spool.sync)
            run = await self._change(live, change, self._store.save)
            _cut_to_ending(live)
        return run

    async def _unbroken(self, write: Coroutine[None, None, T]) -> T:
        """Await a write that goes on even if its caller is cancelled: memory must follow what the store was given."""
        task = asyncio.create_task(write, name="write")
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return await asyncio.shield(task)

    @contextmanager
    def reporting(self, live: LiveRun) -> Iterator[None]:
        """Count an upload for as long as it is open; what a dead runner has not said by then it never will."""
        live.uploads += 1
        try:
            yield
        finally:
            live.uploads -= 1
            self._announce(live)

    async def release(self, live: LiveRun) -> None:
        """Forget everything of an ended run but its row."""
        was_released = live.run.is_released
        await self.change(live, runs.released, save=self._store.release)
        if not was_released:
            log.info("run settled", action="run_settled", **_names(live.run))
        await asyncio.to_thread(live.spool.remove)
        self.drop_if_over(live)

    def drop_if_over(self, live: LiveRun) -> None:
        """Forget a run in memory that nothing is left to do about."""
        if live.run.is_released and live.run.is_cleaned:
            self._live.pop(live.run.run_id, None)

    def promised(self) -> list[Holding]:
        """Return what no new run can have: what runs that have not ended were accepted with, and what is held still."""
        over = (live.run for live in self._live.values() if live.run.has_ended and _is_holding(live.run))
        return [holding_of(run) for run in (*self.unfinished(), *over)]

    def unfinished(self) -> list[Run]:
        """Return the runs that have not ended, with those that are being accepted."""
        begun = [live.run for live in self._live.values() if not live.run.has_ended]
        return begun + [run for run_id, run in self._accepting.items() if run_id not in self._live]

    def held(self) -> list[Holding]:
        """Return what the runs hold that were started and of which something may be left."""
        return [holding_of(live.run) for live in self._live.values() if _is_holding(live.run)]

    async def _take_up(self, run: Run) -> LiveRun:
        signals = await self._store.undelivered_signals(run.run_id) if run.signal_seq else []
        return self._live.setdefault(run.run_id, LiveRun(run, self._spool(run.run_id), signals))

    def _spool(self, run_id: str) -> Spool:
        return Spool(self._spool_directory / run_id, self._reserve)

    def _announce(self, live: LiveRun) -> None:
        live.notify()
        self._on_change(live.run.run_id)


async def free_acknowledged(live: LiveRun) -> None:
    """Free the output that the cluster has; where that fails, the next acknowledgement or output tries again."""
    if not live.spool.is_freeable:
        return
    try:
        await asyncio.to_thread(live.spool.free)
    except ExhaustedError as error:
        log.warning("output is not freed", action="free_failed", run_id=live.run.run_id, reason=error.reason)


def holding_of(run: Run) -> Holding:
    """Return what a run has or was promised, wherever it is."""
    return Holding(run.resources, run.gpu_type, run.machine)


def _is_holding(run: Run) -> bool:
    return run.attempt > 0 and not run.is_cleaned


def _cut_to_ending(live: LiveRun) -> None:
    ending = live.run.ending
    if ending is not None:
        live.spool.truncate(Stream.STDOUT, ending.stdout_bytes)
        live.spool.truncate(Stream.STDERR, ending.stderr_bytes)


def _names(run: Run) -> dict[str, str | int]:
    """Return what every event of this run's names it by."""
    return {
        "slurm_cluster": run.request_id.slurm_cluster,
        "slurm_job_id": run.request_id.slurm_job_id,
        "restart_count": run.request_id.restart_count,
        "run_id": run.run_id,
    }


def _note_transition(before: Run, run: Run) -> None:
    """Log and count a change of state that is stored."""
    if run.ending is not None:
        _note_end(before, run)
        return
    is_start = before.started_at_ms is None and run.started_at_ms is not None
    waited_s = (run.state_at_ms - run.accepted_at_ms) / 1000
    if is_start:
        metrics.START_SECONDS.observe(waited_s)
    log.info(
        "run changed its state",
        action="run_state",
        **_names(run),
        from_state=before.state.value,
        state=run.state.value,
        attempt=run.attempt,
        **({"waited_s": waited_s} if is_start else {}),
    )


def _note_end(before: Run, run: Run) -> None:
    ending = run.ending
    assert ending is not None  # noqa: S101 - for the type checker
    metrics.RUNS_ENDED.labels(ending.outcome.value).inc()
    started_at_ms = run.started_at_ms if run.started_at_ms is not None else run.state_at_ms
    log.info(
        "run changed its state",
        action="run_state",
        **_names(run),
        from_state=before.state.value,
        state=run.state.value,
        attempt=run.attempt,
        outcome=ending.outcome.value,
        exit_code=ending.exit_code,
        signal=ending.signal,
        reason=ending.reason or None,
        run_s=(run.state_at_ms - started_at_ms) / 1000,
    )
