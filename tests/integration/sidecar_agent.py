"""An agent that keeps its runs in memory and does as the test says, behind a real gRPC server with mutual TLS."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import trustme

from overspill.request_id import RequestId
from overspill.tls import TlsFiles, WatchedTls, server_credentials, server_options
from overspill.v1 import agent_pb2 as pb
from overspill.v1.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server

CHUNK_BYTES = 1024 * 1024
_Context = grpc.aio.ServicerContext[Any, Any]


class Certificates:
    """A CA and the certificates that it signed, as files."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._authority = trustme.CA()
        directory.mkdir(parents=True, exist_ok=True)
        self._authority.cert_pem.write_to_path(str(directory / "ca.crt"))

    def files(self, name: str, *identities: str) -> TlsFiles:
        """Return the files of one end, made at the first call."""
        certificate, key = self._directory / f"{name}.crt", self._directory / f"{name}.key"
        if not certificate.exists():
            issued = self._authority.issue_cert(*(identities or (name,)))
            issued.private_key_pem.write_to_path(str(key))
            for number, blob in enumerate(issued.cert_chain_pems):
                blob.write_to_path(str(certificate), append=number > 0)
        return TlsFiles(certificate, key, self._directory / "ca.crt")


@dataclass
class Run:
    """One run, and the handles by which a test plays the remote script."""

    run_id: str
    spec: pb.RunSpec
    request_id: pb.RequestId
    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    stdin: bytearray = field(default_factory=bytearray)
    is_stdin_complete: bool = False
    ended: pb.Ended | None = None
    signals: list[tuple[int, int]] = field(default_factory=list)
    acknowledged: tuple[int, int] = (0, 0)
    stop_reason: str | None = None
    is_released: bool = False
    time_limit_s: int | None = None
    attaches: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def write(self, data: bytes, *, to_stderr: bool = False) -> None:
        async with self.changed:
            (self.stderr if to_stderr else self.stdout).extend(data)
            self.changed.notify_all()

    async def end(self, outcome: str = "COMPLETED", **fields: Any) -> None:
        async with self.changed:
            self.ended = pb.Ended(outcome=pb.RunOutcome.Value(f"RUN_OUTCOME_{outcome}"), **fields)
            self.changed.notify_all()


#: Of each answer to Capacity.
LEASE_ID = 1


class FakeAgent(AgentServicer):
    """Serves on a port of its own, which stays its own while it is down.

    Attributes:
        refusal: status with which Submit is answered instead.
        has_revoked: every call is refused, as after `overspill pki revoke`; streams that are open go on.
        cut: status with which the next Attach ends once it has sent what there is.
        can_stop: whether Stop can be served now.
        takes_runs: while it is clear, Submit has neither stored a run nor answered.
        is_deaf: from the next Attach on, acknowledgements and standard input are not read.
    """

    def __init__(self, certificates: Certificates) -> None:
        self.certificates = certificates
        self.runs: dict[str, Run] = {}
        self.refusal: grpc.StatusCode | None = None
        self.has_revoked = False
        self.cut: grpc.StatusCode | None = None
        self.is_deaf = False
        self.can_stop = True
        self.takes_runs = asyncio.Event()
        self.takes_runs.set()
        self.asked_to_submit = 0
        self.total = pb.Resources(cpus=8, memory_mib=16384)
        self.free = pb.Resources(cpus=8, memory_mib=16384)
        self.takes_no_runs = ""
        self.images: tuple[str, ...] = ()
        self.used: pb.Resources | None = None
        self.start_delay_ms: int | None = None
        self.confirmed_lease_id = 0
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self._server = grpc.aio.server(options=server_options())
        add_AgentServicer_to_server(self, self._server)
        credentials = server_credentials(WatchedTls(self.certificates.files("site", "localhost", "127.0.0.1")))
        assert self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self._server.start()

    async def stop(self) -> None:
        """Go away at once, as a crash would; the runs stay."""
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def run(self) -> Run:
        """The only run."""
        (run,) = self.runs.values()
        return run

    async def Submit(self, request: pb.SubmitRequest, context: _Context) -> pb.SubmitResponse:  # noqa: N802
        await self._admit(context)
        if self.refusal is not None:
            await context.abort(self.refusal, "not here")
        self.asked_to_submit += 1
        await self.takes_runs.wait()
        key = _key(request.request_id)
        is_new = key not in self.runs
        if is_new:
            self.runs[key] = Run(f"run-{len(self.runs) + 1}", request.spec, request.request_id)
        return pb.SubmitResponse(run_id=self.runs[key].run_id, state=pb.RUN_STATE_RUNNING, is_new=is_new)

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AttachRequest], context: _Context
    ) -> AsyncIterator[pb.AttachResponse]:
        opening = (await anext(request_iterator)).open
        run = await self._run(opening.run_id, context)
        run.attaches += 1
        run.time_limit_s = opening.time_limit_s
        heard = _silence() if self.is_deaf else request_iterator
        listener = asyncio.create_task(_listen(run, heard))
        try:
            yield pb.AttachResponse(state=pb.StateChange(state=pb.RUN_STATE_RUNNING))
            if run.spec.has_stdin:
                yield pb.AttachResponse(stdin_offset=len(run.stdin))
            offsets = {pb.OUTPUT_STREAM_STDOUT: getattr(opening, "from").stdout}
            offsets[pb.OUTPUT_STREAM_STDERR] = getattr(opening, "from").stderr
            while True:
                for stream, buffer in ((pb.OUTPUT_STREAM_STDOUT, run.stdout), (pb.OUTPUT_STREAM_STDERR, run.stderr)):
                    while data := bytes(buffer[offsets[stream] : offsets[stream] + CHUNK_BYTES]):
                        yield pb.AttachResponse(output=pb.OutputChunk(stream=stream, offset=offsets[stream], data=data))
                        offsets[stream] += len(data)
                if self.cut is not None:
                    status, self.cut = self.cut, None
                    await context.abort(status, "cut")
                async with run.changed:
                    is_behind = sum(offsets.values()) < len(run.stdout) + len(run.stderr)
                    if not is_behind and run.ended is not None:
                        yield pb.AttachResponse(ended=run.ended)
                        return
                    if not is_behind:
                        await run.changed.wait()
        finally:
            listener.cancel()
            with suppress(asyncio.CancelledError):
                await listener

    async def Signal(self, request: pb.SignalRequest, context: _Context) -> pb.SignalResponse:  # noqa: N802
        run = await self._run(request.run_id, context)
        if request.signal_seq > len(run.signals):
            run.signals.append((request.signal, request.scope))
        return pb.SignalResponse()

    async def Stop(self, request: pb.StopRequest, context: _Context) -> pb.StopResponse:  # noqa: N802
        if not self.can_stop:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the disk is full")
        run = await self._run(request.run_id, context)
        run.stop_reason = request.reason
        if run.ended is None:
            await run.end("CANCELLED")
        return pb.StopResponse()

    async def Release(self, request: pb.ReleaseRequest, context: _Context) -> pb.ReleaseResponse:  # noqa: N802
        run = await self._run(request.run_id, context)
        if run.ended is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "the run has not ended")
        run.is_released = True
        return pb.ReleaseResponse()

    async def ListRuns(self, _: pb.ListRunsRequest, context: _Context) -> pb.ListRunsResponse:  # noqa: N802
        await self._admit(context)
        return pb.ListRunsResponse(
            runs=[
                pb.RunSummary(
                    run_id=run.run_id,
                    request_id=run.request_id,
                    state=pb.RUN_STATE_ENDED if run.ended else pb.RUN_STATE_RUNNING,
                )
                for run in self.runs.values()
                if not run.is_released
            ]
        )

    async def Capacity(self, request: pb.CapacityRequest, context: _Context) -> pb.CapacityResponse:  # noqa: N802
        await self._admit(context)
        self.confirmed_lease_id = request.confirmed_lease_id
        return pb.CapacityResponse(
            total=self.total,
            free=self.free,
            largest_free=self.free,
            lease_id=LEASE_ID,
            takes_no_runs=self.takes_no_runs,
            images=self.images,
            used=self.used,
            start_delay_ms=self.start_delay_ms,
        )

    async def Renew(self, _: pb.RenewRequest, context: _Context) -> pb.RenewResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not of this site's own authority")
        raise AssertionError("abort raises")

    async def _admit(self, context: _Context) -> None:
        if self.has_revoked:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the certificate is revoked")

    async def _run(self, run_id: str, context: _Context) -> Run:
        await self._admit(context)
        for run in self.runs.values():
            if run.run_id == run_id:
                return run
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such run")
        raise AssertionError("abort raises")


async def _silence() -> AsyncIterator[pb.AttachRequest]:
    await asyncio.Event().wait()
    yield pb.AttachRequest()


async def _listen(run: Run, requests: AsyncIterator[pb.AttachRequest]) -> None:
    async for request in requests:
        if request.HasField("acknowledged"):
            run.acknowledged = (request.acknowledged.stdout, request.acknowledged.stderr)
        elif request.HasField("time_limit_s"):
            run.time_limit_s = request.time_limit_s
        elif request.HasField("stdin"):
            assert request.stdin.offset <= len(run.stdin), "a hole in standard input"
            del run.stdin[request.stdin.offset :]
            run.stdin += request.stdin.data
            run.is_stdin_complete = request.stdin.is_last


def _key(request_id: pb.RequestId) -> str:
    task = request_id.array_task_id if request_id.HasField("array_task_id") else None
    return str(
        RequestId(
            request_id.slurm_cluster, request_id.slurm_job_id, task, request_id.submit_time_s, request_id.restart_count
        )
    )
