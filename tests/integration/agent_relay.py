"""A relay for tests: the smallest thing that uses the agent as the real relay does."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc.aio

from overspill import claims
from overspill.certificates import utc_now
from overspill.tls import open_channel
from overspill.v1 import agent_pb2 as pb
from overspill.v1.agent_pb2_grpc import AgentStub
from tests.integration.agent_site import ALICE_UID, CLUSTER, DEADLINE_S, Site

if TYPE_CHECKING:
    from overspill.v1.agent_pb2_grpc import AgentAsyncStub

SCRIPT_PATH = b"/var/spool/slurmd/ovs1/job00042/slurm_script"
CWD = b"/home/alice/project"
_JOB_IDS = itertools.count(1)


def spec_of(script: bytes, **changes: Any) -> pb.RunSpec:
    """Return the spec of a script as alice would submit it."""
    fields: dict[str, Any] = {
        "script": script,
        "argv": [SCRIPT_PATH],
        "environment": [b"PATH=/usr/bin:/bin", b"HOME=/home/alice", b"SLURM_JOB_ID=42"],
        "cwd": CWD,
        "umask": 0o022,
        "user_name": "alice",
        "user_id": ALICE_UID,
        "group_id": ALICE_UID,
        "kill_wait_s": 30,
        "resources": pb.Resources(cpus=1, memory_mib=100),
    }
    return pb.RunSpec(**{**fields, **changes})


@dataclass
class Followed:
    """What an Attach has brought so far."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    states: list[pb.RunState.ValueType] = field(default_factory=list)
    stdin_offsets: list[int] = field(default_factory=list)
    ended: pb.Ended | None = None
    _grew: asyncio.Event = field(default_factory=asyncio.Event)

    def take(self, response: pb.AttachResponse) -> None:
        """Apply a response; output must continue exactly where the last one ended."""
        kind = response.WhichOneof("kind")
        if kind == "output":
            buffer = self.stdout if response.output.stream == pb.OUTPUT_STREAM_STDOUT else self.stderr
            assert response.output.offset == len(buffer)
            buffer += response.output.data
        elif kind == "state":
            self.states.append(response.state.state)
        elif kind == "stdin_offset":
            self.stdin_offsets.append(response.stdin_offset)
        else:
            self.ended = response.ended
            assert (response.ended.output.stdout, response.ended.output.stderr) == (len(self.stdout), len(self.stderr))
        self._grew.set()

    async def next_response(self) -> None:
        self._grew.clear()
        await self._grew.wait()


async def until_output(followed: Followed, expected: bytes) -> None:
    """Wait until the output has it; fail if the run ends before."""
    async with asyncio.timeout(DEADLINE_S):
        while expected not in followed.stdout:
            assert followed.ended is None, followed.ended
            await followed.next_response()


def attach_open(run_id: str, offsets: pb.OutputOffsets) -> pb.AttachOpen:
    message = pb.AttachOpen(run_id=run_id)
    getattr(message, "from").CopyFrom(offsets)
    return message


class Relay:
    """One cluster's relay at one site."""

    def __init__(self, stub: AgentAsyncStub, cluster: str, signer: claims.Signer) -> None:
        self.stub = stub
        self._cluster = cluster
        self._signer = signer

    def request_id(self, **changes: Any) -> pb.RequestId:
        fields = {"slurm_cluster": self._cluster, "slurm_job_id": next(_JOB_IDS), "submit_time_s": 1_790_000_000}
        return pb.RequestId(**{**fields, **changes})

    async def submit(self, script: bytes, **changes: Any) -> str:
        return (await self.stub.Submit(self.request(spec_of(script, **changes)), timeout=10)).run_id

    def request(self, spec: pb.RunSpec, request_id: pb.RequestId | None = None) -> pb.SubmitRequest:
        """Return a request with its claim, by default for a new job."""
        request = pb.SubmitRequest(request_id=request_id or self.request_id(), spec=spec)
        request.claim = self._signer.sign(claims.claim_of(request), utc_now())
        return request

    async def follow(self, run_id: str, followed: Followed | None = None, stdin: bytes | None = None) -> Followed:
        """Attach from where `followed` is and follow to the end; raises what the stream ends with."""
        followed = followed or Followed()
        offsets = pb.OutputOffsets(stdout=len(followed.stdout), stderr=len(followed.stderr))
        call = self.stub.Attach()
        await call.write(pb.AttachRequest(open=attach_open(run_id, offsets)))
        if stdin is not None:
            await call.write(pb.AttachRequest(stdin=pb.StdinChunk(offset=0, data=stdin, is_last=True)))
        async for response in call:
            followed.take(response)
        return followed

    async def follow_acknowledging(self, run_id: str, followed: Followed) -> Followed:
        """Follow to the end and acknowledge what came, as the real relay does once it is in the user's files.

        An acknowledgement that meets the end of the stream breaks it (INTERNAL): what is left comes at the next attach.
        """
        while followed.ended is None:
            try:
                await self._follow_acknowledging(run_id, followed)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.INTERNAL:
                    raise
        return followed

    async def _follow_acknowledging(self, run_id: str, followed: Followed) -> None:
        call = self.stub.Attach()
        offsets = pb.OutputOffsets(stdout=len(followed.stdout), stderr=len(followed.stderr))
        await call.write(pb.AttachRequest(open=attach_open(run_id, offsets)))
        async for response in call:
            followed.take(response)
            offsets = pb.OutputOffsets(stdout=len(followed.stdout), stderr=len(followed.stderr))
            # A stream that the agent has closed takes no more; what it has sent before is still to be read.
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(pb.AttachRequest(acknowledged=offsets))

    async def follow_through(self, run_id: str, followed: Followed, deadline_s: float = 30) -> Followed:
        """Follow to the end through every failure of the agent, as the real relay does."""
        deadline = time.monotonic() + deadline_s
        while followed.ended is None:
            try:
                await self.follow(run_id, followed)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.05)
        return followed

    async def run(self, script: bytes, **changes: Any) -> Followed:
        """Submit and follow to the end."""
        return await self.follow(await self.submit(script, **changes))


@asynccontextmanager
async def relay_of(site: Site, certificate: str = "cluster", cluster: str = CLUSTER) -> AsyncIterator[Relay]:
    tls = site.tls(certificate).read()
    async with open_channel(f"localhost:{site.grpc_port}", tls) as channel:
        stub: AgentAsyncStub = AgentStub(channel)
        yield Relay(stub, cluster, claims.Signer(tls.certificate, tls.private_key))
