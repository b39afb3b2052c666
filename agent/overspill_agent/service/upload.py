"""A runner's upload: its output into the spool, its reports into the run. What comes twice counts once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import assert_never

from overspill.runner_protocol import RunnerFrame
from overspill_agent import metrics, runs
from overspill_agent.registry import LiveRun, Registry, free_acknowledged, now_ms
from overspill_agent.runs import Run
from overspill_agent.service.frames import Frame, FrameParser
from overspill_agent.service.reports import Ended, Signalled, Started, parse_report
from overspill_agent.spool import GapError, Piece, Stream

_STREAMS = {RunnerFrame.STDOUT: Stream.STDOUT, RunnerFrame.STDERR: Stream.STDERR}
_COUNTED = {stream: metrics.OUTPUT_BYTES.labels(stream.value) for stream in _STREAMS.values()}
#: Output is made durable, and acknowledged, this long after it came, all at once.
SYNC_INTERVAL_S = 0.1


class Upload:
    """One upload of one attempt's runner."""

    def __init__(self, registry: Registry, live: LiveRun) -> None:
        self._registry = registry
        self._live = live
        self._has_new = asyncio.Event()

    async def take(self, body: AsyncIterator[bytes]) -> None:
        """Take in the whole body; return when all of it is durable.

        Raises:
            GapError: something before it is missing.
            InvalidRequestError: it is no sequence of frames.
            TransientError: the disk or the store does not take it now; what was acknowledged stays.
        """
        with self._registry.reporting(self._live):
            taking = asyncio.create_task(self._take_body(body), name=f"upload {self._live.run.run_id}")
            syncing = asyncio.create_task(self._sync_at_intervals(), name=f"sync {self._live.run.run_id}")
            tasks = {taking, syncing}
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)
            await self._sync()

    async def _take_body(self, body: AsyncIterator[bytes]) -> None:
        parser = FrameParser()
        async for data in body:
            await self._take_frames(list(parser.feed(data)))

    async def _take_frames(self, frames: list[Frame]) -> None:
        """Apply frames in order, neighbouring output in one go."""
        pieces: list[Piece] = []
        for frame in frames:
            if frame.kind is RunnerFrame.REPORT:
                await self._append(pieces)
                pieces = []
                await self._apply(frame)
            else:
                pieces.append(Piece(_STREAMS[frame.kind], frame.number, frame.payload))
        await self._append(pieces)

    async def _append(self, pieces: list[Piece]) -> None:
        """Append, to the end even if the upload breaks off meanwhile: two threads must never append at once."""
        if pieces:
            await asyncio.shield(asyncio.create_task(self._append_unbroken(pieces), name="append"))

    async def _append_unbroken(self, pieces: list[Piece]) -> None:
        live = self._live
        async with live.append_lock:
            if live.run.has_ended:
                return
            before = {stream: live.spool.length(stream) for stream in _COUNTED}
            try:
                await asyncio.to_thread(live.spool.append, pieces)
            finally:
                for stream, counter in _COUNTED.items():
                    counter.inc(live.spool.length(stream) - before[stream])
                self._has_new.set()
                live.notify()

    async def _sync_at_intervals(self) -> None:
        """Sync what has come, at intervals; an upload that is silent costs nothing."""
        while True:
            await self._has_new.wait()
            await asyncio.sleep(SYNC_INTERVAL_S)
            self._has_new.clear()
            await self._sync()

    async def _sync(self) -> None:
        if self._live.spool.is_dirty:
            await asyncio.to_thread(self._live.spool.sync)
            self._live.notify()
            await free_acknowledged(self._live)

    async def _apply(self, frame: Frame) -> None:
        """Apply a report unless it was before.

        Raises:
            GapError: a report before it is missing, or output before its end is.
        """
        have = self._live.run.report_seq
        if frame.number <= have:
            return
        if frame.number > have + 1:
            raise GapError(f"reports continue with {have + 1}, not with {frame.number}")
        report = parse_report(frame.payload)
        match report:
            case Started():
                await self._started(frame.number)
            case Signalled():
                await self._signalled(frame.number, report)
            case Ended():
                await self._ended(frame.number, report)
            case _:
                assert_never(report)

    async def _started(self, report_seq: int) -> None:
        await self._registry.change(
            self._live, lambda run: runs.report_applied(runs.script_started(run, now_ms()), report_seq)
        )

    async def _signalled(self, report_seq: int, report: Signalled) -> None:
        live = self._live
        signal = next((signal for signal in live.signals if signal.signal_seq == report.seq), None)

        def change(run: Run) -> Run:
            if signal is not None:
                run = runs.signal_delivered(run, signal.signal, is_for_all=signal.scope == "tree", at_ms=now_ms())
            return runs.report_applied(run, report_seq)

        async def save(run: Run) -> None:
            await self._registry.store.signal_delivered(run, report.seq)
            if signal is not None:
                live.signals.remove(signal)

        await self._registry.change(live, change, save=save)

    async def _ended(self, report_seq: int, report: Ended) -> None:
        live = self._live

        def change(run: Run) -> Run:
            for stream, total in ((Stream.STDOUT, report.stdout), (Stream.STDERR, report.stderr)):
                if live.spool.length(stream) < total:
                    raise GapError(f"{stream} ends at {total}, but only {live.spool.length(stream)} bytes have come")
            ending = runs.ending_of_report(run, report.end_report())
            return runs.report_applied(runs.ended(run, ending, now_ms()), report_seq)

        await self._registry.end(live, change)
        if report.lease_lost:
            metrics.LEASE_EXPIRIES.inc()
