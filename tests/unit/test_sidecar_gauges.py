"""What the sidecar's gauges say of a cluster and its sites."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from overspill_sidecar.decision.capacity import Amount
from overspill_sidecar.gauges import BreakerGauges, PromiseGauges, WatchGauges
from overspill_sidecar.health.breaker import FAILURES_IN_A_ROW
from overspill_sidecar.health.record import HealthRecord
from overspill_sidecar.sites.site import Site
from overspill_sidecar.watch import ClusterWatch
from tests.integration.sidecar_agent import Certificates, FakeAgent
from tests.integration.sidecar_road import in_memory_view, site_config


def _value(collector: Collector, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    registry.register(collector)
    return registry.get_sample_value(name, labels)


@pytest.fixture(name="site")
async def _site(tmp_path: Path) -> AsyncIterator[Site]:
    agent = FakeAgent(Certificates(tmp_path))
    site = Site(site_config(agent, agent.certificates.files("cluster", "rig")), lambda: "rig")
    yield site
    await site.close()


async def test_an_unseen_queue_has_no_age_and_a_seen_one_has(site: Site) -> None:
    watch = ClusterWatch(in_memory_view(), 1.0)
    assert _value(WatchGauges(watch, [site]), "overspill_queue_age_seconds") is None
    await watch.refresh()
    age_s = _value(WatchGauges(watch, [site]), "overspill_queue_age_seconds")
    assert age_s is not None
    assert 0 <= age_s < 60


async def test_a_site_that_was_never_heard_is_unreachable_and_has_no_size(site: Site) -> None:
    gauges = WatchGauges(ClusterWatch(in_memory_view(), 1.0), [site])
    assert _value(gauges, "overspill_site_reachable", site="site-a") == 0
    assert _value(gauges, "overspill_site_cpus", site="site-a", amount="total") is None


@pytest.mark.parametrize(
    ("reason", "drained", "unusable"), [("overspill: site-a unreachable", 1, 1), ("disk swap", 0, 1), ("", 0, 0)]
)
async def test_our_drains_are_told_from_an_admins(site: Site, reason: str, drained: int, unusable: int) -> None:
    view = in_memory_view()
    node = view.nodes_by_name["ovs1"]
    view.nodes_by_name["ovs1"] = replace(node, is_usable=not reason, is_drained=bool(reason), reason=reason)
    watch = ClusterWatch(view, 1.0)
    await watch.refresh()
    gauges = WatchGauges(watch, [site])
    assert _value(gauges, "overspill_virtual_nodes_drained", site="site-a") == drained
    assert _value(gauges, "overspill_virtual_nodes_unusable", site="site-a") == unusable


async def test_a_breaker_is_open_and_then_half_open(site: Site) -> None:
    now_s = 100.0
    record = HealthRecord(first_pause_s=10.0, clock=lambda: now_s)
    gauges = BreakerGauges(record, [site], clock=lambda: now_s)
    assert _value(gauges, "overspill_site_breaker_open", site="site-a") == 0
    for _ in range(FAILURES_IN_A_ROW):
        record.note_end("site-a", speaks_for_site=False)
    assert _value(gauges, "overspill_site_breaker_open", site="site-a") == 1
    now_s += 11
    assert _value(gauges, "overspill_site_breaker_open", site="site-a") == 0.5


def test_promises_are_told_in_bytes() -> None:
    gauges = PromiseGauges(lambda: {"site-a": Amount(4, 2048)})
    assert _value(gauges, "overspill_promised_cpus", site="site-a") == 4
    assert _value(gauges, "overspill_promised_memory_bytes", site="site-a") == 2 * 1024**3
