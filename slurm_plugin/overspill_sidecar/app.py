"""The sidecar's life: startup, main loop, shutdown."""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from overspill import __version__
from overspill.daemon import raise_open_files, tell_ready
from overspill.metrics import MetricsServer, describe_process
from overspill_sidecar import metrics
from overspill_sidecar.admin import RelayAdmin, RouterAdmin, serve_relay_admin, serve_router_admin
from overspill_sidecar.config import SidecarConfig
from overspill_sidecar.forecast import Forecast
from overspill_sidecar.gauges import BreakerGauges, PromiseGauges, WatchGauges
from overspill_sidecar.health import HealthRecord, NodeKeeper
from overspill_sidecar.late import LateLook
from overspill_sidecar.listening import SocketPath
from overspill_sidecar.probe import RouterHealth
from overspill_sidecar.reconcile import Reconciler
from overspill_sidecar.records.journal import Journal
from overspill_sidecar.records.ledger import Ledger
from overspill_sidecar.records.tally import Tally
from overspill_sidecar.relay import Relay
from overspill_sidecar.relay.stranded import Strandings
from overspill_sidecar.router import Router, server_of
from overspill_sidecar.sites.renewal import Renewal
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import view_of
from overspill_sidecar.wait import UnknownWaits
from overspill_sidecar.watch import ClusterWatch

_log = structlog.get_logger(__name__)

_Loop = Callable[[], Coroutine[None, None, None]]

#: A relay of its own asks slurmctld for the whole queue so much less often than a router: it decides nothing by it.
_RELAY_REFRESH_FACTOR = 3
#: What shutdown may take: calls under way end, sockets close.
_DRAIN_S = 3.0
#: Parsing a long queue happens in a thread; a decision must not wait 5 ms, Python's default, for each of its turns.
_THREAD_SWITCH_S = 0.0001


class Role(StrEnum):
    """What this process serves. The router must be on each slurmctld's host, the relay on the virtual nodes' host."""

    ROUTER = "router"
    RELAY = "relay"
    ALL = "all"


def _spare_garbage_collector() -> None:
    """Take what lives for ever out of the collector's sight and have it look at the rest more rarely.

    A collection stops all threads, the deciding one too, for as long as it takes to walk what it looks at: of all
    objects two in three are modules, and a save makes thousands that go again. Pictures of the queue hold no cycles and
    go by themselves.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 100, 100)


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a router remembers beside its decisions, and the next one after it."""

    tally: Tally
    forecast: Forecast

    @classmethod
    def of(cls, config: SidecarConfig) -> _Memory:
        partitions = [site.partition for site in config.sites]
        forecast = Forecast(config.router.waits, partitions, config.router.learned_after_jobs)
        return cls(Tally(config.router.accounts), forecast)


class Sidecar:
    """One process. Everything that lives as long as it does is made here."""

    def __init__(self, config: SidecarConfig, role: Role) -> None:
        self._config = config
        self._role = role
        self._view = view_of(config.slurm)
        is_relay_alone = role is Role.RELAY
        refresh_s = config.slurm.refresh_s * (_RELAY_REFRESH_FACTOR if is_relay_alone else 1)
        self._memory = None if is_relay_alone else _Memory.of(config)
        if self._memory is None:
            self._watch = ClusterWatch(self._view, refresh_s, model_of=lambda _: UnknownWaits())
        else:
            tally, forecast = self._memory.tally, self._memory.forecast
            self._watch = ClusterWatch(self._view, refresh_s, tally, forecast.model_of)
        self._stop = asyncio.Event()
        self._listening: list[asyncio.Event] = []

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            ConfigError: if a socket or a certificate cannot be used.
        """
        sys.setswitchinterval(_THREAD_SWITCH_S)
        raise_open_files()
        os.umask(0o077)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        # The policy is read at every refresh; a hang-up must not end the service.
        loop.add_signal_handler(signal.SIGHUP, lambda: _log.info("nothing to reload", action="hangup"))
        async with AsyncExitStack() as stack:
            if self._memory is not None:
                stack.enter_context(self._memory.tally)
            home = "" if self._role is Role.ROUTER else socket.gethostname()
            sites = [Site(config, self._watch.slurm_cluster, home) for config in self._config.sites]
            for site in sites:
                stack.push_async_callback(site.close)
            stack.push_async_callback(self._view.close)
            tasks = await self._startup(stack, sites)
            await self._main_loop(tasks)
        _log.info("stopped", action="stopped")

    async def _startup(self, stack: AsyncExitStack, sites: list[Site]) -> dict[str, _Loop]:
        """Take the sockets and return the loops to run, by name."""
        tasks: dict[str, _Loop] = {"watch": self._watch.run}
        tasks |= {f"site {site.name}": site.run for site in sites}
        for site in sites:
            if enrolled := site.config.enrolled:
                tasks[f"certificate of {site.name}"] = Renewal(site, enrolled).run
        gauges = CollectorRegistry()
        gauges.register(WatchGauges(self._watch, sites))
        if (memory := self._memory) is not None:
            path = stack.enter_context(SocketPath(self._config.router.socket)).path
            ledger = stack.enter_context(Ledger(self._config.router.records, self._config.router.keep_records))
            router = Router(self._watch, sites, self._config.router.promise_s, ledger)
            self._watch.misses_jobs = router.misses_jobs
            gauges.register(PromiseGauges(router.promised))
            self._listening.append(asyncio.Event())
            tasks["router"] = functools.partial(
                server_of(router, RouterHealth(self._watch), path).run, self._listening[-1]
            )
            path = stack.enter_context(SocketPath(self._config.router.admin_path)).path
            service = RouterAdmin(router, self._watch, sites, ledger, memory.tally, memory.forecast)
            admin = await serve_router_admin(service, path)
            stack.push_async_callback(admin.stop, _DRAIN_S)
            tasks["decision records"] = ledger.run
            tasks["wait model"] = memory.forecast.run
            tasks["pending jobs"] = LateLook(
                self._watch, self._view, sites, router, self._config.router.late_every_s, host=socket.gethostname()
            ).run
        if self._role in {Role.RELAY, Role.ALL}:
            path = stack.enter_context(SocketPath(self._config.relay.socket)).path
            ledger = stack.enter_context(Ledger(self._config.relay.records, self._config.relay.keep_records))
            stack.enter_context(Journal(ledger))
            health = HealthRecord(self._config.health.first_pause_s)
            gauges.register(BreakerGauges(health, sites))
            relay = Relay(self._watch, self._view, sites, self._config.relay, health)
            admin_path = stack.enter_context(SocketPath(self._config.relay.admin_path)).path
            admin = await serve_relay_admin(RelayAdmin(sites, ledger, relay.count_jobs), admin_path)
            stack.push_async_callback(admin.stop, _DRAIN_S)
            tasks["event records"] = ledger.run
            self._listening.append(asyncio.Event())
            tasks["relay"] = functools.partial(relay.run, path, self._listening[-1])
            tasks["virtual nodes"] = NodeKeeper(self._watch, self._view, sites, health, self._config.health).run
            tasks["stranded jobs"] = Strandings(self._watch, self._view, sites, self._config.relay).run
            tasks["reconcile"] = Reconciler(self._watch, sites, self._config.relay.reconcile_s).run
        if listen := self._metrics_address():
            tls = self._config.metrics.tls
            metrics.begin_at_zero(site.name for site in sites)
            describe_process(gauges, self._certificates())
            server_of_metrics = MetricsServer((metrics.REGISTRY, gauges), listen, tls.files if tls else None)
            tasks["metrics"] = server_of_metrics.run
        return tasks

    def _metrics_address(self) -> str | None:
        config = self._config.metrics
        return (config.relay_listen if self._role is Role.RELAY else None) or config.listen

    def _certificates(self) -> list[Path]:
        metrics_tls = self._config.metrics.tls
        used = [*([metrics_tls.files] if metrics_tls else []), *(site.tls_files for site in self._config.sites)]
        return [path for files in used for path in (files.certificate, files.ca)]

    async def _main_loop(self, tasks: dict[str, _Loop]) -> None:
        """Run all loops until told to stop. A loop that ends by itself is a defect: the whole process ends with it."""
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(loop(), name=name) for name, loop in tasks.items()]
            for listening in self._listening:
                await listening.wait()
            _spare_garbage_collector()
            _log.info("started", action="started", version=__version__, role=self._role, sites=len(self._config.sites))
            tell_ready()
            await self._stop.wait()
            _log.info("stopping", action="stopping")
            for task in running:
                task.cancel()
