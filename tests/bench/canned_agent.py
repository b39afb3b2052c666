"""An agent that runs nothing: what the cluster's side costs by itself. Serves inside a site's network namespace.

A run whose script says `sleep` lasts until it is stopped or signalled; any other has ended, with 0, as soon as it is
asked for. What is common with the real agent: gRPC, mutual TLS, one Attach stream per run.

    python -m tests.bench.canned_agent LISTEN PAIR CA CPUS MEMORY_MIB
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from overspill.daemon import raise_open_files
from overspill.tls import TlsFiles, WatchedTls, server_credentials, server_options
from overspill.v1 import agent_pb2 as pb
from overspill.v1.agent_pb2_grpc import AgentServicer, add_AgentServicer_to_server

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(slots=True)
class _Run:
    request_id: pb.RequestId
    has_ended: asyncio.Event = field(default_factory=asyncio.Event)
    signal: int = 0


class CannedAgent(AgentServicer):
    """Has room for everything; forgets a run when it is released."""

    def __init__(self, resources: pb.Resources) -> None:
        self._resources = resources
        self._runs: dict[str, _Run] = {}

    async def Submit(self, request: pb.SubmitRequest, _context: _Context) -> pb.SubmitResponse:  # noqa: N802
        run_id = request.request_id.SerializeToString(deterministic=True).hex()
        is_new = run_id not in self._runs
        if is_new:
            self._runs[run_id] = _Run(request.request_id)
            if b"sleep" not in request.spec.script:
                self._runs[run_id].has_ended.set()
        return pb.SubmitResponse(run_id=run_id, state=pb.RUN_STATE_RUNNING, is_new=is_new)

    async def Attach(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.AttachRequest], _context: _Context
    ) -> AsyncIterator[pb.AttachResponse]:
        run = self._runs[(await anext(request_iterator)).open.run_id]
        yield pb.AttachResponse(state=pb.StateChange(state=pb.RUN_STATE_RUNNING))
        await run.has_ended.wait()
        outcome = pb.RUN_OUTCOME_SIGNALED if run.signal else pb.RUN_OUTCOME_COMPLETED
        yield pb.AttachResponse(ended=pb.Ended(outcome=outcome, signal=run.signal))

    async def Signal(self, request: pb.SignalRequest, _context: _Context) -> pb.SignalResponse:  # noqa: N802
        self._end(request.run_id, request.signal)
        return pb.SignalResponse()

    async def Stop(self, request: pb.StopRequest, _context: _Context) -> pb.StopResponse:  # noqa: N802
        self._end(request.run_id, 9)
        return pb.StopResponse()

    async def Release(self, request: pb.ReleaseRequest, _context: _Context) -> pb.ReleaseResponse:  # noqa: N802
        self._runs.pop(request.run_id, None)
        return pb.ReleaseResponse()

    async def ListRuns(self, _request: pb.ListRunsRequest, _context: _Context) -> pb.ListRunsResponse:  # noqa: N802
        runs = self._runs.items()
        summaries = [pb.RunSummary(run_id=name, request_id=run.request_id, state=_state(run)) for name, run in runs]
        return pb.ListRunsResponse(runs=summaries)

    async def Capacity(self, _request: pb.CapacityRequest, _context: _Context) -> pb.CapacityResponse:  # noqa: N802
        return pb.CapacityResponse(total=self._resources, free=self._resources, largest_free=self._resources)

    async def Renew(self, _request: pb.RenewRequest, context: _Context) -> pb.RenewResponse:  # noqa: N802
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "certificates are not renewed here")
        raise AssertionError

    def _end(self, run_id: str, number: int) -> None:
        if (run := self._runs.get(run_id)) is not None and number in {9, 15}:
            run.signal = number
            run.has_ended.set()


def _state(run: _Run) -> pb.RunState.ValueType:
    return pb.RUN_STATE_ENDED if run.has_ended.is_set() else pb.RUN_STATE_RUNNING


async def serve(listen: str, files: TlsFiles, resources: pb.Resources) -> None:
    """Serve until killed; print a line once relays can connect."""
    server = grpc.aio.server(options=server_options())
    add_AgentServicer_to_server(CannedAgent(resources), server)
    if not server.add_secure_port(listen, server_credentials(WatchedTls(files))):
        sys.exit(f"cannot listen on {listen}")
    await server.start()
    print("listening", flush=True)
    await server.wait_for_termination()


def main(listen: str, pair: str, ca: str, cpus: str, memory_mib: str) -> None:
    """Serve with this certificate and key, of a site with this much of everything."""
    raise_open_files()
    resources = pb.Resources(cpus=int(cpus), memory_mib=int(memory_mib))
    asyncio.run(serve(listen, TlsFiles(Path(pair), Path(pair), Path(ca)), resources))


if __name__ == "__main__":
    main(*sys.argv[1:])
