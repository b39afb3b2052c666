"""What the sidecar holds at the moment it is asked for its metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overspill_sidecar.cluster import OURS
from overspill_sidecar.decision.capacity import Amount
from overspill_sidecar.health.breaker import Phase
from overspill_sidecar.health.record import HealthRecord
from overspill_sidecar.sites.site import Site
from overspill_sidecar.watch import ClusterWatch, Picture

_MIB = 1024 * 1024
_OPENNESS = {Phase.CLOSED: 0.0, Phase.HALF_OPEN: 0.5, Phase.OPEN: 1.0}


class WatchGauges(Collector):
    """What is known of Slurm and of the sites. Asked on the event loop, where these are written."""

    def __init__(self, watch: ClusterWatch, sites: Sequence[Site]) -> None:
        self._watch = watch
        self._sites = sites

    def collect(self) -> Iterator[Metric]:
        now = time.monotonic()
        picture = self._watch.picture
        age = GaugeMetricFamily("overspill_queue_age_seconds", "Age of what the router knows of Slurm's queue.")
        if picture is not None:
            age.add_metric([], now - picture.snapshot.asked_at)
        yield age
        problems = len(self._watch.problems)
        yield GaugeMetricFamily(
            "overspill_policy_problems", "Policy words in slurm.conf that are wrong and ignored.", problems
        )
        yield from self._sites_now(now)
        yield from self._virtual_nodes(picture)

    def _sites_now(self, now: float) -> Iterator[Metric]:
        reachable = GaugeMetricFamily("overspill_site_reachable", "1 while the site's agent answers.", labels=["site"])
        cpus = GaugeMetricFamily(
            "overspill_site_cpus", "CPUs that the site offers in all, and those free now.", labels=["site", "amount"]
        )
        memory = GaugeMetricFamily(
            "overspill_site_memory_bytes",
            "Memory that the site offers in all, and what is free now; 0 where it is not managed.",
            labels=["site", "amount"],
        )
        for site in self._sites:
            view = site.view(now)
            reachable.add_metric([site.name], float(view.is_reachable))
            if view.capacity is not None:
                for amount, value in (("total", view.capacity.total), ("free", view.capacity.free)):
                    cpus.add_metric([site.name, amount], value.cpus)
                    memory.add_metric([site.name, amount], value.memory_mib * _MIB)
        yield from (reachable, cpus, memory)

    def _virtual_nodes(self, picture: Picture | None) -> Iterator[Metric]:
        unusable = GaugeMetricFamily(
            "overspill_virtual_nodes_unusable",
            "Virtual nodes that Slurm starts no job on, whoever drained them: drained, down or not answering.",
            labels=["site"],
        )
        drained = GaugeMetricFamily(
            "overspill_virtual_nodes_drained",
            "Virtual nodes that Overspill has drained and will undrain by itself.",
            labels=["site"],
        )
        if picture is not None:
            for site in self._sites:
                seen = {node.name: node for node in picture.snapshot.nodes_of(site.config.partition)}
                nodes = [seen[name] for name in site.config.virtual_nodes(seen) if name in seen]
                unusable.add_metric([site.name], sum(not node.is_usable for node in nodes))
                drained.add_metric([site.name], sum(node.is_drained and node.reason.startswith(OURS) for node in nodes))
        yield from (unusable, drained)


class BreakerGauges(Collector):
    """Which sites the relay has closed because their runs fail."""

    def __init__(
        self, record: HealthRecord, sites: Sequence[Site], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._record = record
        self._sites = sites
        self._clock = clock

    def collect(self) -> Iterator[Metric]:
        opened = GaugeMetricFamily(
            "overspill_site_breaker_open",
            "1 while the site is not used because its runs failed; one half while it is tried again.",
            labels=["site"],
        )
        for site in self._sites:
            phase = self._record.site(site.name).phase(self._clock())
            opened.add_metric([site.name], _OPENNESS[phase])
        yield opened


class PromiseGauges(Collector):
    """What the router has promised of each site to jobs that Slurm does not show yet."""

    def __init__(self, promised: Callable[[], Mapping[str, Amount]]) -> None:
        self._promised = promised

    def collect(self) -> Iterator[Metric]:
        cpus = GaugeMetricFamily(
            "overspill_promised_cpus",
            "CPUs promised to jobs that Slurm does not show yet.",
            labels=["site"],
        )
        memory = GaugeMetricFamily(
            "overspill_promised_memory_bytes",
            "Memory promised to jobs that Slurm does not show yet.",
            labels=["site"],
        )
        for site, amount in self._promised().items():
            cpus.add_metric([site], amount.cpus)
            memory.add_metric([site], amount.memory_mib * _MIB)
        yield from (cpus, memory)
