"""One relay following one run: state, output as it comes, standard input on its way in, the end after everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc

from overspill.errors import UnavailableError
from overspill.v1 import agent_pb2 as pb
from overspill_agent import runs
from overspill_agent.registry import LiveRun, Registry, free_acknowledged
from overspill_agent.service.wire import ended_message, state_change
from overspill_agent.spool import FreedError, Piece, Stream

#: Large enough for the rate, small enough to leave the event loop to others between two.
CHUNK_BYTES = 512 * 1024
_STREAMS = {Stream.STDOUT: pb.OUTPUT_STREAM_STDOUT, Stream.STDERR: pb.OUTPUT_STREAM_STDERR}


class AttachEndedError(Exception):
    """The stream ends with a status that means something to the relay only here."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Attachment:
    """The state of one Attach. Whoever attached last has the run: the others' `responses` end."""

    def __init__(self, registry: Registry, live: LiveRun, opening: pb.AttachOpen) -> None:
        """Take the run over from whoever follows it now; go on from the offsets in `opening`."""
        self._registry = registry
        self._live = live
        offsets = getattr(opening, "from")
        self._offsets = {Stream.STDOUT: offsets.stdout, Stream.STDERR: offsets.stderr}
        self._next_stream = Stream.STDOUT
        self._is_stdin_answer_due = live.run.has_stdin
        self._failure: Exception | None = None
        live.relay = self
        if opening.HasField("time_limit_s"):
            live.time_limit_s = opening.time_limit_s
        live.notify()

    async def responses(self) -> AsyncIterator[pb.AttachResponse]:
        """Yield what the relay is to be told, in order; finish after `ended`. Reads no further than what was taken.

        Raises:
            AttachEndedError: another Attach has taken over, or the relay asked for bytes that are not there.
            UnavailableError: the agent is going down; the run is not.
        """
        told = self._live.run
        yield state_change(told)
        while True:
            self._check()
            run = self._live.run
            if run.state is not told.state and not run.has_ended:
                told = run
                yield state_change(run)
            elif self._is_stdin_answer_due:
                self._is_stdin_answer_due = False
                yield pb.AttachResponse(stdin_offset=self._live.spool.durable(Stream.STDIN))
            elif chunk := await self._next_chunk():
                yield chunk
            elif run.has_ended:
                yield ended_message(run)
                return
            elif run is self._live.run and not self._is_behind():
                await self._live.changed()

    async def read(self, requests: AsyncIterator[pb.AttachRequest]) -> None:
        """Take what the relay sends after `open`; what goes wrong ends `responses`."""
        try:
            async for request in requests:
                if request.HasField("stdin"):
                    await self._take_stdin(request.stdin)
                elif request.HasField("time_limit_s"):
                    self._live.time_limit_s = request.time_limit_s
                    self._live.notify()
                elif request.HasField("acknowledged"):
                    acknowledged = request.acknowledged
                    self._live.spool.acknowledge(
                        {Stream.STDOUT: acknowledged.stdout, Stream.STDERR: acknowledged.stderr}
                    )
                    await free_acknowledged(self._live)
        except Exception as error:  # noqa: BLE001  raised again where the RPC's edge is
            self._failure = error
            self._live.notify()

    async def _take_stdin(self, chunk: pb.StdinChunk) -> None:
        """Keep what is new of a chunk of standard input; the answer comes once it is durable.

        A chunk beyond what is here is dropped: the answer tells the relay where to go on.
        """
        live = self._live
        if live.run.has_stdin and not live.run.is_stdin_complete and not live.run.has_ended:
            await self._keep_stdin(chunk)
        self._is_stdin_answer_due = True
        live.notify()

    async def _keep_stdin(self, chunk: pb.StdinChunk) -> None:
        live = self._live
        async with live.append_lock:
            if chunk.offset > live.spool.length(Stream.STDIN):
                return
            await asyncio.to_thread(live.spool.append, [Piece(Stream.STDIN, chunk.offset, chunk.data)])
            await asyncio.to_thread(live.spool.sync)
            is_complete = chunk.offset + len(chunk.data) == live.spool.length(Stream.STDIN)
        if chunk.is_last and is_complete:
            await self._registry.change(live, runs.stdin_completed)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._registry.is_closing:
            raise UnavailableError("the agent is restarting; the run goes on")
        if self._live.relay is not self:
            raise AttachEndedError(grpc.StatusCode.ABORTED, "another Attach follows this run now")
        if not self._live.run.has_ended:
            return
        for stream, offset in self._offsets.items():
            total = self._end_of(stream)
            if offset > total:
                raise AttachEndedError(grpc.StatusCode.OUT_OF_RANGE, f"{stream} ends at {total}, not {offset}")
            if self._live.run.is_released and offset < total:
                raise AttachEndedError(grpc.StatusCode.OUT_OF_RANGE, f"{stream} was freed when the run was released")

    def _is_behind(self) -> bool:
        """Tell whether output has come that was not sent."""
        return any(offset < self._end_of(stream) for stream, offset in self._offsets.items())

    def _end_of(self, stream: Stream) -> int:
        """Return where the stream ends now, or for good: what came too late for the ending is not sent."""
        ending = self._live.run.ending
        if ending is None:
            return self._live.spool.length(stream)
        return ending.stdout_bytes if stream is Stream.STDOUT else ending.stderr_bytes

    async def _next_chunk(self) -> pb.AttachResponse | None:
        """Return the next output, the two streams in turn; None if all that is there was sent."""
        first = self._next_stream
        for stream in (first, Stream.STDERR if first is Stream.STDOUT else Stream.STDOUT):
            offset = self._offsets[stream]
            data = await self._read(stream, offset)
            if data:
                self._offsets[stream] = offset + len(data)
                self._next_stream = Stream.STDERR if stream is Stream.STDOUT else Stream.STDOUT
                return pb.AttachResponse(output=pb.OutputChunk(stream=_STREAMS[stream], offset=offset, data=data))
        return None

    async def _read(self, stream: Stream, offset: int) -> bytes:
        spool = self._live.spool
        size = min(CHUNK_BYTES, self._end_of(stream) - offset)
        try:
            data = spool.read_cached(stream, offset, size)
            if data is None:
                data = await asyncio.to_thread(spool.read, stream, offset, size)
        except FreedError as error:
            raise AttachEndedError(grpc.StatusCode.OUT_OF_RANGE, error.reason) from error
        return data
