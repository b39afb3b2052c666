"""The agent as one process: everything made, started, and stopped in the right order."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from overspill.daemon import raise_open_files, tell_ready
from overspill.errors import AdminError
from overspill.metrics import MetricsServer, describe_process
from overspill.tls import WatchedTls
from overspill_agent import metrics
from overspill_agent.backend import backend_of
from overspill_agent.backends.base import Backend
from overspill_agent.catalogue import Catalogue
from overspill_agent.config import AgentConfig, Docker, Local
from overspill_agent.drain import Drain
from overspill_agent.gauges import AgentGauges
from overspill_agent.homes import Homes
from overspill_agent.leftovers import Leftovers
from overspill_agent.pki import Authority
from overspill_agent.pki.renewal import keep_agent_certificate
from overspill_agent.reconcile import Reconciler, RunnerAccess
from overspill_agent.registry import Registry
from overspill_agent.service.agent_service import AgentService
from overspill_agent.service.callers import Callers
from overspill_agent.service.enrolment import Enrolment
from overspill_agent.service.health import Health
from overspill_agent.service.runner_channel import RunnerChannel, RunnerTerms
from overspill_agent.service.servers import GrpcServer, HttpsServer
from overspill_agent.service.terms import Terms
from overspill_agent.spool import Reserve
from overspill_agent.store import Store

log = structlog.get_logger(__name__)

#: Threads for what blocks: disk, user database, starting processes.
_THREADS = 32


def run(config: AgentConfig, make_backend: Callable[[AgentConfig], Backend] = backend_of) -> None:
    """Run the agent until SIGTERM or SIGINT. Its runs outlive it.

    Raises:
        AdminError: it cannot start; says why and what to do.
    """
    os.umask(0o077)
    raise_open_files()
    with _only_agent(config.store.path.parent):
        asyncio.run(_serve(config, make_backend))


async def _serve(config: AgentConfig, make_backend: Callable[[AgentConfig], Backend]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="blocking"))
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)

    backend = make_backend(config)
    await backend.open()
    if section := config.local or config.docker:
        _warn_of_directories(config, section)
    reserve = Reserve(config.store.path.parent, config.store.reserve_mib * 1024 * 1024)
    registry = Registry(Store(config.store.path), config.store.spool_directory, reserve)
    await registry.load()
    relay_tls, runner_tls = WatchedTls(config.server_files()), WatchedTls(config.runner_files())
    authority = Authority(config.pki)
    access = RunnerAccess(config.runner_channel.url, runner_tls.current().ca, config.runner_channel.lease_s)
    homes = Homes(config.store.path.with_name("homes.json"))
    catalogue = Catalogue(config.images)
    shortage_s = config.reconcile.shortage_s
    reconciler = Reconciler(registry, backend, access, catalogue, silence_s=homes.silence_s, shortage_s=shortage_s)
    leftovers = Leftovers(registry, backend, access.lease_s)
    runner_terms = RunnerTerms(config.runner_channel.lease_s, config.runner_channel.spool_mib << 20)
    channel = RunnerChannel(registry, runner_terms)
    runners = HttpsServer(channel.app(Enrolment(authority).routes()), config.runner_channel.listen, runner_tls)
    drain = Drain(config.store.path.parent)
    callers = Callers(relay_tls, authority)
    terms = Terms(config.accounts, catalogue, config.backend, config.clusters)
    service = AgentService(registry, backend, terms, callers, authority, homes, drain)
    health = Health(registry, drain)
    relays = GrpcServer(service, health, config.server.listen, relay_tls)

    await health.look()
    await runners.start()
    await relays.start()
    log.info("agent started", action="agent_started", listen=config.server.listen, runs=len(registry.live()))
    tell_ready()
    gauges = CollectorRegistry()
    gauges.register(AgentGauges(registry, backend, reserve, lambda: health.takes_runs, config.backend))
    beside = [
        asyncio.create_task(_serve_metrics(config, gauges), name="metrics"),
        asyncio.create_task(health.run(), name="health"),
        asyncio.create_task(_keep_certificate(config, authority), name="renew certificate"),
        asyncio.create_task(leftovers.run(), name="leftovers"),
    ]
    reconciling = asyncio.create_task(reconciler.run(), name="reconcile")
    stopping = asyncio.create_task(stopped.wait(), name="stop")
    await asyncio.wait({reconciling, stopping}, return_when=asyncio.FIRST_COMPLETED)
    log.info("agent stops", action="agent_stopping", runs=len(registry.live()))
    registry.end_waits()
    for task in beside:
        await _cancelled(task)
    await asyncio.gather(relays.stop(), runners.stop())
    await _cancelled(stopping)
    await _cancelled(reconciling)
    await backend.close()
    await registry.close()
    log.info("agent stopped", action="agent_stopped")


async def _keep_certificate(config: AgentConfig, authority: Authority) -> None:
    """Renew the agent's own certificate, if it uses one of the site's authority, until cancelled."""
    if config.pki.agent_files in (config.server_files(), config.runner_files()):
        await keep_agent_certificate(authority)


async def _serve_metrics(config: AgentConfig, gauges: CollectorRegistry) -> None:
    """Serve what the agent measures, if it is to, until cancelled."""
    section = config.metrics
    if section.listen is None:
        return
    metrics.begin_at_zero(config.accounts)
    own = section.tls.files if section.tls else None
    served = [config.server_files(), config.runner_files(), *([own] if own else [])]
    describe_process(gauges, (path for tls in served for path in (tls.certificate, tls.ca)))
    await MetricsServer((metrics.REGISTRY, gauges), section.listen, own).run()


def _warn_of_directories(config: AgentConfig, section: Local | Docker) -> None:
    """Tell the operator if a job that fills its disk fills the agent's, and where no run can write.

    Shared directories are read-only where systemd confines the agent, and the local back end's runs with it.
    """
    runs, store = section.directory, config.store.path.parent
    if runs.stat().st_dev == store.stat().st_dev:
        log.warning(
            "runs and store share a file system: one job can fill the agent's disk",
            action="shared_file_system",
            runs_directory=str(runs),
            store_directory=str(store),
        )
    for path in section.shared if isinstance(section, Local) else ():
        if path.exists() and os.statvfs(path).f_flag & os.ST_RDONLY:
            log.warning(
                "a shared directory is read-only here: `systemctl edit overspill-agent` and add ReadWritePaths=",
                action="shared_directory_read_only",
                directory=str(path),
            )


async def _cancelled(task: asyncio.Task[object] | asyncio.Task[None]) -> None:
    """Cancel a task and wait for it; what it has failed with is raised."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@contextmanager
def _only_agent(directory: Path) -> Iterator[None]:
    """Hold the state directory for as long as the agent lives.

    Raises:
        AdminError: another agent has it, or it cannot be made.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(directory / "agent.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AdminError(f"cannot use {directory}: {error.strerror}; correct [store] path") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise AdminError(f"another agent has {directory}; stop it first") from None
    finally:
        os.close(descriptor)
