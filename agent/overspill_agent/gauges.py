"""What the agent holds at the moment it is asked for its metrics."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overspill.states import RunState
from overspill_agent.backends.base import Backend
from overspill_agent.capacity import left
from overspill_agent.registry import Registry
from overspill_agent.runs import Resources
from overspill_agent.spool import Reserve

_MIB = 1024 * 1024


class AgentGauges(Collector):
    """Runs, room and disk. Asked on the event loop, where these are written."""

    def __init__(
        self,
        registry: Registry,
        backend: Backend,
        reserve: Reserve,
        takes_runs: Callable[[], bool],
        backend_name: str,
    ) -> None:
        self._registry = registry
        self._backend = backend
        self._reserve = reserve
        self._takes_runs = takes_runs
        self._backend_name = backend_name

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("overspill_agent_serving", "1 while new runs are taken.", float(self._takes_runs()))
        live = self._registry.live()
        states = Counter(run.run.state for run in live)
        runs = GaugeMetricFamily(
            "overspill_runs", "Runs that the clusters have not taken note of as ended, by state.", labels=["state"]
        )
        for state in RunState:
            runs.add_metric([state.value], states[state])
        yield runs
        yield GaugeMetricFamily(
            "overspill_runner_uploads", "Runners that are connected.", sum(run.uploads for run in live)
        )
        yield GaugeMetricFamily(
            "overspill_spool_bytes",
            "Bytes of runs' streams that are kept on disk.",
            sum(run.spool.kept_bytes() for run in live),
        )
        yield from self._slots()
        yield from self._room()
        yield from self._disk()

    def _slots(self) -> Iterator[Metric]:
        slots = GaugeMetricFamily(
            "overspill_capacity_slots",
            "Slots of the back end: all, and those of which nothing is used or promised.",
            labels=["backend", "amount"],
        )
        capacity = self._backend.capacity()
        idle = sum(slot.usable == slot.size for slot in left(capacity, self._registry.promised()))
        for amount, count in (("total", len(capacity.slots)), ("idle", idle)):
            slots.add_metric([self._backend_name, amount], count)
        yield slots

    def _room(self) -> Iterator[Metric]:
        gpus = GaugeMetricFamily(
            "overspill_capacity_gpus", "GPUs that the site offers, and those promised to runs.", labels=["amount"]
        )
        cpus = GaugeMetricFamily(
            "overspill_capacity_cpus",
            "CPUs that the site offers, and those promised to runs.",
            labels=["amount"],
        )
        memory = GaugeMetricFamily(
            "overspill_capacity_memory_bytes",
            "Memory that the site offers in all, and what is promised to runs.",
            labels=["amount"],
        )
        promised = sum((holding.resources for holding in self._registry.promised()), Resources())
        for amount, value in (("total", self._backend.capacity().total), ("promised", promised)):
            cpus.add_metric([amount], value.cpus)
            memory.add_metric([amount], value.memory_mib * _MIB)
            gpus.add_metric([amount], value.gpus)
        yield from (cpus, memory, gpus)

    def _disk(self) -> Iterator[Metric]:
        disk = os.statvfs(self._reserve.directory)
        yield GaugeMetricFamily(
            "overspill_disk_free_bytes", "Free space where the agent keeps its store.", disk.f_bavail * disk.f_frsize
        )
        yield GaugeMetricFamily(
            "overspill_disk_reserve_bytes",
            "Free space below which no new run and no output is taken.",
            self._reserve.size_bytes,
        )
