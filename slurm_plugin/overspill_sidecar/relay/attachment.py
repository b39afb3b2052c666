"""One Attach stream: output down to the proxy, acknowledgements and standard input up to the agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import grpc.aio
import structlog

from overspill.errors import UnavailableError, from_rpc_error
from overspill.proxy_framing import OFFSET, STDERR, STDOUT, FrameType
from overspill.v1 import agent_pb2
from overspill_sidecar import metrics
from overspill_sidecar.relay.connection import ProxyConnection
from overspill_sidecar.sites.agent_link import AttachCall
from overspill_sidecar.sites.site import Site

_NAMES = {STDOUT: "stdout", STDERR: "stderr"}
_STREAMS = {agent_pb2.OUTPUT_STREAM_STDOUT: STDOUT, agent_pb2.OUTPUT_STREAM_STDERR: STDERR}
#: Acknowledgements free the agent's disk; they need not be more frequent than this.
_ACKNOWLEDGE_BYTES = 1024 * 1024
_ACKNOWLEDGE_INTERVAL_S = 0.5


class Progress:
    """How far each stream has come. Outlives attachments, so that the next one goes on where the last one broke."""

    def __init__(self, stdout: int, stderr: int) -> None:
        """Begin at the bytes that the proxy had written before it connected."""
        #: Handed to the proxy's socket: what to ask the agent for next.
        self.sent = {STDOUT: stdout, STDERR: stderr}

    @property
    def offsets(self) -> agent_pb2.OutputOffsets:
        return agent_pb2.OutputOffsets(stdout=self.sent[STDOUT], stderr=self.sent[STDERR])


class Attachment:
    """Follows one run until it has ended or the stream breaks.

    `follow` runs in one task and only reads from the agent; the other methods may be called by any task. A gRPC stream
    takes one write at a time.
    """

    def __init__(
        self,
        site: Site,
        proxy: ProxyConnection,
        progress: Progress,
        *,
        has_stdin: bool,
        log: structlog.typing.FilteringBoundLogger,
        on_state: Callable[[agent_pb2.StateChange], None],
    ) -> None:
        """Begin to connect.

        Args:
            site: where the run is.
            proxy: who takes its output.
            progress: where to go on; moved on here.
            has_stdin: the proxy has standard input that the agent may lack.
            log: names the job.
            on_state: told the run's state, first of all the one that it is in.
        """
        self._call: AttachCall = site.attach()
        self._writing = asyncio.Lock()
        self._log = log
        self._proxy = proxy
        self._progress = progress
        self._wants_stdin = has_stdin
        self._on_state = on_state
        self._opened = asyncio.Event()
        self._relayed = {stream: metrics.RELAYED_BYTES.labels(site.name, name) for stream, name in _NAMES.items()}
        self._taken_in = metrics.RELAYED_BYTES.labels(site.name, "stdin")
        self._acknowledged_bytes = 0
        self._acknowledged_at = time.monotonic()

    async def follow(self, run_id: str, time_limit_s: int) -> agent_pb2.Ended:
        """Pass output on until the run has ended; return its end.

        Args:
            run_id: the run.
            time_limit_s: the job's time limit as it is now; 0 is none.

        Raises:
            OverspillError: what the agent's status means; UnavailableError if the stream just stops.
            ProxyGoneError: if the proxy takes no more output.
        """
        opening = agent_pb2.AttachOpen(run_id=run_id, time_limit_s=time_limit_s, **{"from": self._progress.offsets})
        try:
            await self._call.write(agent_pb2.AttachRequest(open=opening))
            self._opened.set()
            while (response := await self._call.read()) is not grpc.aio.EOF:
                assert isinstance(response, agent_pb2.AttachResponse)  # noqa: S101 - for the type checker
                if response.HasField("ended"):
                    return response.ended
                await self._pass_on(response)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error) from error
        except asyncio.InvalidStateError as error:
            raise UnavailableError("the stream is closed already") from error
        raise UnavailableError("the agent closed the stream before the run's end")

    def close(self) -> None:
        """End the stream; the run goes on."""
        self._call.cancel()

    async def acknowledge(self, stdout: int, stderr: int) -> None:
        """Tell the agent what the user's files hold, every now and then."""
        is_due = time.monotonic() - self._acknowledged_at >= _ACKNOWLEDGE_INTERVAL_S
        if stdout + stderr - self._acknowledged_bytes < _ACKNOWLEDGE_BYTES and not is_due:
            return
        self._acknowledged_bytes, self._acknowledged_at = stdout + stderr, time.monotonic()
        offsets = agent_pb2.OutputOffsets(stdout=stdout, stderr=stderr)
        await self._write(agent_pb2.AttachRequest(acknowledged=offsets))

    async def put_stdin(self, offset: int, data: bytes) -> None:
        """Hand standard input on; no bytes mean its end. What gets lost with the stream is asked for again."""
        chunk = agent_pb2.StdinChunk(offset=offset, data=data, is_last=not data)
        self._taken_in.inc(len(data))
        await self._write(agent_pb2.AttachRequest(stdin=chunk))

    async def set_time_limit(self, time_limit_s: int) -> None:
        """Tell the agent of the job's new time limit; 0 is none. What gets lost is said again with the next opening."""
        await self._write(agent_pb2.AttachRequest(time_limit_s=time_limit_s))

    async def _write(self, request: agent_pb2.AttachRequest) -> None:
        if not self._opened.is_set():
            return
        try:
            async with self._writing:
                await self._call.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # `follow` learns of it, too, and the next attachment makes up for it
        except asyncio.CancelledError:
            # A write that is under way when `close` cancels the call looks as if this task were cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise

    async def _pass_on(self, response: agent_pb2.AttachResponse) -> None:
        if response.HasField("output"):
            await self._pass_output_on(response.output)
        elif response.HasField("state"):
            self._on_state(response.state)
        elif response.HasField("stdin_offset") and self._wants_stdin:
            # Further offsets confirm what was sent; the proxy needs only the first.
            self._wants_stdin = False
            await self._proxy.send(FrameType.STDIN_FROM, OFFSET.pack(response.stdin_offset))

    async def _pass_output_on(self, chunk: agent_pb2.OutputChunk) -> None:
        stream = _STREAMS.get(chunk.stream)
        if stream is None:
            raise UnavailableError(f"the agent sent output of stream {chunk.stream}")
        if chunk.offset != self._progress.sent[stream]:
            raise UnavailableError(f"output at {chunk.offset} came where {self._progress.sent[stream]} is due")
        data = chunk.data
        if chunk.offset == 0 and data:
            self._log.info("first output", action="first_output", stream=stream)
        await self._proxy.send_output(stream, chunk.offset, data)
        self._progress.sent[stream] += len(data)
        self._relayed[stream].inc(len(data))
