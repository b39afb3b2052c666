"""A relay between a fake agent and hand-driven proxies: everything real but Slurm and the remote script."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from overspill.proxy_framing import HEADER, OFFSET, OFFSETS, OUTPUT, SIGNAL, FrameType, decode_header, encode
from overspill.tls import TlsFiles
from overspill_sidecar.cluster import Job, Trail
from overspill_sidecar.config import HealthConfig, RelayConfig, SiteConfig, TlsConfig
from overspill_sidecar.health import HealthRecord, NodeKeeper
from overspill_sidecar.listening import SocketPath
from overspill_sidecar.reconcile import Reconciler
from overspill_sidecar.relay import Relay
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import InMemoryView
from overspill_sidecar.watch import ClusterWatch
from tests.integration.sidecar_agent import Certificates, FakeAgent
from tests.unit.sidecar_cluster import CONFIG, running, snapshot

DEADLINE_S = 60.0
#: The proxies of these tests run as the tests do.
OWN_UID = 0
ADMIN_COMMENT = '{"overspill":{"decision":"d-1","site":"site-a","partition":"batch"}}'


async def eventually(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition` holds; fail after the deadline, saying what did not happen."""

    async def ask() -> bool:
        return bool(condition())

    await eventually_async(ask, what, deadline_s)


async def eventually_async(condition: Callable[[], Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Do as `eventually` for a condition that takes a question to find out."""
    deadline = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {deadline_s} s: {what}"
        await asyncio.sleep(0.01)


def diverted_job(slurm_job_id: int = 7, **changes: Any) -> Job:
    """Return a job that runs on the virtual node since a moment ago and came from `batch`."""
    plain = running(slurm_job_id, "ovs1", cpus=1, partitions=("overspill",), user_id=OWN_UID)
    trail = Trail("d-1", "site-a", "batch")
    started = {"start_time_s": int(time.time()) + 60, "admin_comment": ADMIN_COMMENT, "trail": trail}
    return replace(plain, **{**started, **changes})


def in_memory_view(*jobs: Job) -> InMemoryView:
    of = snapshot(*jobs)
    return InMemoryView(CONFIG, dict(of.partitions), dict(of.nodes), *jobs)


def site_config(agent: FakeAgent, tls: TlsFiles, **changes: Any) -> SiteConfig:
    fields: dict[str, Any] = {
        "name": "site-a",
        "partition": "overspill",
        "agent": f"localhost:{agent.port}",
        "nodes": "ovs1",
        "tls": TlsConfig(certificate=tls.certificate, private_key=tls.private_key, ca=tls.ca),
        "poll_s": 0.1,
    }
    return SiteConfig(**{**fields, **changes})


class Proxy:
    """One connection as a proxy makes it, moved by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.output = {1: bytearray(), 2: bytearray()}

    async def open(self, slurm_job_id: int = 7, script: bytes = b"#!/bin/sh\n", **hello: Any) -> None:
        fields = {
            "protocol": 1,
            "slurm_job_id": slurm_job_id,
            "restart_count": 0,
            "cwd": base64.b64encode(b"/home/alice").decode(),
            "umask": 0o022,
            "rlimits": {},
            "has_stdin": False,
            "is_output_joined": False,
            "stdout": 0,
            "stderr": 0,
            **hello,
        }
        self.writer.write(encode(FrameType.HELLO, json.dumps(fields).encode()))
        self.writer.write(encode(FrameType.SCRIPT, script))
        self.writer.write(encode(FrameType.ARGV, b"/spool/slurm_script\0one\0"))
        self.writer.write(encode(FrameType.ENV, b"A=1\0B=2"))
        await self.writer.drain()

    async def send(self, frame_type: FrameType, payload: bytes) -> None:
        self.writer.write(encode(frame_type, payload))
        await self.writer.drain()

    async def signal(self, sequence: int, number: int) -> None:
        await self.send(FrameType.SIGNAL, SIGNAL.pack(sequence, number))

    async def next(self) -> tuple[FrameType, bytes]:
        """Return the relay's next frame.

        Raises:
            asyncio.IncompleteReadError: if the relay closes.
        """
        async with asyncio.timeout(DEADLINE_S):
            frame_type, length = decode_header(await self.reader.readexactly(HEADER.size))
            return frame_type, await self.reader.readexactly(length)

    async def until(self, wanted: FrameType) -> bytes:
        """Take frames until one of this type comes; check and keep output, acknowledging it."""
        while True:
            frame_type, payload = await self.next()
            if frame_type is FrameType.OUTPUT:
                stream, offset = OUTPUT.unpack_from(payload)
                assert offset == len(self.output[stream]), "output with a hole, or twice"
                self.output[stream] += payload[OUTPUT.size :]
                await self.send(FrameType.ACK, OFFSETS.pack(len(self.output[1]), len(self.output[2])))
            if frame_type is wanted:
                return payload

    async def end(self) -> dict[str, Any]:
        """Take everything up to END and close, as a proxy does when it exits."""
        ended = json.loads(await self.until(FrameType.END))
        self.close()
        return dict(ended)

    async def is_turned_away(self) -> bool:
        """Tell whether the relay closes without a word."""
        try:
            await self.next()
        except (asyncio.IncompleteReadError, OSError):
            return True
        return False

    def close(self) -> None:
        self.writer.close()

    async def stdin(self, offset: int, data: bytes) -> None:
        await self.send(FrameType.STDIN, OFFSET.pack(offset) + data)


@dataclass
class Road:
    """Everything between a proxy and the agent."""

    agent: FakeAgent
    view: InMemoryView
    watch: ClusterWatch
    site: Site
    path: Path
    reconciler: Reconciler
    relay: asyncio.Task[None]
    config: RelayConfig
    health: HealthRecord
    proxies: list[Proxy] = field(default_factory=list)

    async def proxy(self) -> Proxy:
        reader, writer = await asyncio.open_unix_connection(self.path, limit=4 * 1024 * 1024)
        self.proxies.append(Proxy(reader, writer))
        return self.proxies[-1]

    async def opened(self, slurm_job_id: int = 7, **hello: Any) -> Proxy:
        proxy = await self.proxy()
        await proxy.open(slurm_job_id, **hello)
        return proxy

    async def running(self, **hello: Any) -> Proxy:
        """Return a proxy whose run the agent has and follows."""
        proxy = await self.opened(**hello)
        await eventually(lambda: self.agent.runs and self.agent.run.attaches, "the run is followed")
        return proxy

    async def restart_relay(self) -> None:
        await self.stop_relay()
        self.relay = await _start(Relay(self.watch, self.view, [self.site], self.config, self.health), self.path)

    @asynccontextmanager
    async def nodes_kept(self) -> AsyncIterator[asyncio.Task[None]]:
        """Have the virtual nodes looked after by a relay that knows nothing yet, with short times."""
        config = HealthConfig(drain_after_s=0.2, resume_after_s=0.2)
        keeper = NodeKeeper(self.watch, self.view, [self.site], self.health, config)
        task = asyncio.create_task(keeper.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def stop_relay(self) -> None:
        self.relay.cancel()
        await asyncio.wait([self.relay])


async def _start(relay: Relay, path: Path) -> asyncio.Task[None]:
    started = asyncio.Event()
    task = asyncio.create_task(relay.run(path, started))
    waiter = asyncio.create_task(started.wait())
    await asyncio.wait([task, waiter], return_when=asyncio.FIRST_COMPLETED)
    assert started.is_set()
    return task


@asynccontextmanager
async def road(
    directory: Path,
    *jobs: Job,
    is_agent_up: bool = True,
    grace_s: float = 60.0,
    certificate: TlsFiles | None = None,
    **site_changes: Any,
) -> AsyncIterator[Road]:
    """Stand everything up in `directory`; take it down without a task left."""
    certificates = Certificates(directory / "tls")
    agent = FakeAgent(certificates)
    if is_agent_up:
        await agent.start()
    view = in_memory_view(*(jobs or (diverted_job(),)))
    watch = ClusterWatch(view, refresh_s=0.2)
    at_site = site_config(agent, certificate or certificates.files("cluster", "rig"), **site_changes)
    site = Site(at_site, watch.slurm_cluster, "home")
    config = RelayConfig(socket=directory / "relay.sock", unreachable_grace_s=grace_s)
    health = HealthRecord(first_pause_s=60.0)
    loops = [asyncio.create_task(watch.run()), asyncio.create_task(site.run())]
    with SocketPath(config.socket):
        relay = await _start(Relay(watch, view, [site], config, health), config.socket)
        on_the_way = Road(
            agent, view, watch, site, config.socket, Reconciler(watch, [site], 0.2), relay, config, health
        )
        try:
            yield on_the_way
        finally:
            for proxy in on_the_way.proxies:
                proxy.close()
            await on_the_way.stop_relay()
            for loop in loops:
                loop.cancel()
            await asyncio.wait(loops)
            await site.close()
            await agent.stop()
