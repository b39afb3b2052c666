"""An agent in this process, but for its service to clusters: real store, real runner channel, real loop, any back end.

Without the loop a test calls the back end's verbs itself; what it starts is a real run all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import Signals

import trustme
from starlette.types import ASGIApp, Receive, Scope, Send

from overspill.request_id import RequestId
from overspill.runner_protocol import INSTANCE_HEADER, KEEPALIVE_S
from overspill.tls import TlsFiles, WatchedTls
from overspill.v1.agent_pb2 import RunSpec
from overspill_agent import runs
from overspill_agent.backends.base import Image, Launch
from overspill_agent.catalogue import Catalogue
from overspill_agent.config import ImageSection
from overspill_agent.launches import launch_of
from overspill_agent.reconcile import Reconciler, RunnerAccess
from overspill_agent.registry import LiveRun, Registry, now_ms
from overspill_agent.runs import Ending, Resources, Run
from overspill_agent.service.runner_channel import RunnerChannel, RunnerTerms
from overspill_agent.service.servers import HttpsServer
from overspill_agent.spool import Reserve, Stream
from overspill_agent.store import Store
from overspill_agent.store.store import StoredSignal
from tests.conformance.backends.place import MARK, Place
from tests.integration.agent_site import free_port

#: For anything that is to happen: queues with negotiation cycles and slow engines are among the places.
DEADLINE_S = 90.0
LEASE_S = int(2 * KEEPALIVE_S)
TIME_LIMIT_GRACE_S = 1
SPOOL_BYTES = 64 << 20
SMALL = Resources(cpus=1, memory_mib=128)
_POLL_S = 0.05


async def until(what: str, condition: Callable[[], Awaitable[bool]], deadline_s: float = DEADLINE_S) -> None:
    """Wait until `condition` holds; fail after the deadline, saying what did not happen."""
    deadline = time.monotonic() + deadline_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {deadline_s:.0f} s: {what}"
        await asyncio.sleep(_POLL_S)


class _Instances:
    """The runner channel's application, and which runners have asked it for a spec."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None
        self.by_run: defaultdict[str, set[str]] = defaultdict(set)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        if scope["path"].endswith("/spec"):
            headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
            self.by_run[scope["path"].split("/")[3]].add(headers[INSTANCE_HEADER.lower()])
        await self.app(scope, receive, send)


class Site:
    """The agent of one place. `restart` is what a crash and a new start make of it."""

    def __init__(self, place: Place, directory: Path, *, has_loop: bool) -> None:
        self.place = place
        self._directory = directory
        self._has_loop = has_loop
        self._port = free_port()
        self._catalogue = _catalogue_of(place.image)
        self._tls = _certificates(directory, place.agent_host)
        self._instances = _Instances()
        self._numbers = iter(range(1, 1_000_000))
        self.told: list[str] = []

    async def open(self) -> None:
        self.backend = self.place.backend()
        store = Store(self._directory / "agent.db")
        self.registry = Registry(store, self._directory / "spool", Reserve(self._directory, 0))
        channel = RunnerChannel(self.registry, RunnerTerms(LEASE_S, SPOOL_BYTES, TIME_LIMIT_GRACE_S))
        self._instances.app = channel.app()
        tls = WatchedTls(self._tls)
        self._server = HttpsServer(self._instances, f"{self.place.listen}:{self._port}", tls, drain_s=0)
        self._access = RunnerAccess(f"https://{self.place.agent_host}:{self._port}", tls.current().ca, LEASE_S)
        await self.backend.open()
        await self.registry.load()
        await self._server.start()
        self.backend.on_change(self.told.append)
        self._loop: asyncio.Task[None] | None = None
        if self._has_loop:
            reconciler = Reconciler(
                self.registry,
                self.backend,
                self._access,
                self._catalogue,
                find_account=lambda _name: self.place.account,
            )
            self._loop = asyncio.create_task(reconciler.run(), name="reconcile")

    async def close(self) -> None:
        """End the agent; its runs go on."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        self.registry.end_waits()
        await self._server.stop()
        await self.backend.close()
        await self.registry.close()

    async def restart(self, *, has_loop: bool | None = None) -> None:
        self._has_loop = self._has_loop if has_loop is None else has_loop
        await self.close()
        await self.open()

    def starts_of(self, live: LiveRun) -> int:
        """Return how many runners have ever asked for this run's spec."""
        return len(self._instances.by_run[live.run.run_id])

    # Runs

    async def accept(self, script: bytes, resources: Resources = SMALL, time_limit_s: int = 0) -> LiveRun:
        """Store a new run of the place's account."""
        run_id, number = uuid.uuid4().hex, next(self._numbers)
        home = f"/home/{self.place.account.name}"
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, MARK: run_id}
        spec = RunSpec(
            script=script,
            argv=[f"/var/spool/slurmd/job{number:05}/slurm_script".encode()],
            environment=[f"{name}={value}".encode() for name, value in environment.items()],
            cwd=f"{home}/project".encode(),
            umask=0o022,
            time_limit_s=time_limit_s,
            kill_wait_s=1,
        )
        run = Run(
            run_id=run_id,
            request_id=RequestId("conformance", number, None, 1_790_000_000, 0),
            account=self.place.account.name,
            resources=resources,
            image=self.place.image.name if self.place.image else "",
            has_stdin=False,
            accepted_at_ms=now_ms(),
            state_at_ms=now_ms(),
        )
        await self.registry.accept(run, spec.SerializeToString())
        return await self.registry.get(run_id)

    async def find(self, live: LiveRun) -> LiveRun:
        """Return the run as this agent has it: after a restart it is another object."""
        return await self.registry.get(live.run.run_id)

    async def prepare(self, live: LiveRun) -> Launch:
        """Begin an attempt, as the loop does, and return what the back end is to be given."""
        token = secrets.token_urlsafe()
        digest = hashlib.sha256(token.encode()).digest()
        run = await self.registry.change(
            live,
            lambda run: runs.attempt_begun(run, now_ms()),
            save=lambda run: self.registry.store.begin_attempt(run, digest),
        )
        spec = RunSpec.FromString(await self.registry.store.spec(run.run_id) or b"")
        demand = self._catalogue.demand(run.resources, run.gpu_type, image=run.image, constraint="")
        access = self._access
        return launch_of(run, spec, self.place.account, demand, token=token, url=access.url, ca_pem=access.ca_pem)

    async def signal(self, live: LiveRun, number: Signals, scope: str) -> None:
        """Ask for a signal, as the service does for a relay."""
        signal = StoredSignal(live.run.signal_seq + 1, number, scope)

        async def save(run: Run) -> None:
            await self.registry.store.add_signal(run, signal)
            live.signals.append(signal)

        is_for_all = scope == "tree"
        await self.registry.change(
            live,
            lambda run: runs.signal_asked(run, signal.signal_seq, number, is_for_all=is_for_all, may_run=True),
            save=save,
        )

    async def stop(self, live: LiveRun) -> None:
        """Ask for the run's stop, as the service does for a relay."""
        await self.registry.change(live, lambda run: runs.stop_wanted(run, "the suite has enough of it"))

    # What is waited for

    def output(self, live: LiveRun, stream: Stream = Stream.STDOUT) -> bytes:
        length = live.spool.length(stream)
        return live.spool.read(stream, 0, length) if length else b""

    async def until_said(self, live: LiveRun, line: str, times: int = 1) -> None:
        async def is_said() -> bool:
            assert not live.run.has_ended, live.run.ending
            return self.output(live).splitlines().count(line.encode()) >= times

        await until(f"the script says {line!r}", is_said)

    async def until_said_anything(self, live: LiveRun) -> None:
        async def is_said() -> bool:
            assert not live.run.has_ended, live.run.ending
            return self.output(live).endswith(b"\n")

        await until("the script says a line", is_said)

    async def ending(self, live: LiveRun, deadline_s: float = DEADLINE_S) -> Ending:
        """Wait until the run has ended, and return how."""

        async def has_ended() -> bool:
            return live.run.has_ended

        await until("the run ends", has_ended, deadline_s)
        assert live.run.ending is not None
        return live.run.ending

    async def until_cleaned(self, live: LiveRun) -> None:
        async def is_clean() -> bool:
            return live.run.is_cleaned and not await self.place.leftovers()

        await until("nothing is left of the run", is_clean)


def _catalogue_of(image: Image | None) -> Catalogue:
    if image is None:
        return Catalogue({})
    pull = "missing" if image.may_be_pulled else "never"
    return Catalogue({image.name: ImageSection(reference=image.reference, python=Path(image.python), pull=pull)})


def _certificates(directory: Path, agent_host: str) -> TlsFiles:
    authority = trustme.CA()
    issued = authority.issue_cert(agent_host)
    files = TlsFiles(directory / "agent.crt", directory / "agent.key", directory / "ca.crt")
    issued.cert_chain_pems[0].write_to_path(str(files.certificate))
    issued.private_key_pem.write_to_path(str(files.private_key))
    authority.cert_pem.write_to_path(str(files.ca))
    return files


@asynccontextmanager
async def site_of(place: Place, directory: Path, *, has_loop: bool) -> AsyncIterator[Site]:
    """Give a place its agent; afterwards no run of it lives, and nothing of any is left."""
    site = Site(place, directory, has_loop=has_loop)
    await site.open()
    try:
        yield site
    finally:
        for live in site.registry.live():
            await site.stop(live)
        await site.restart(has_loop=True)
        for live in site.registry.live():
            await site.until_cleaned(live)
        await site.close()
