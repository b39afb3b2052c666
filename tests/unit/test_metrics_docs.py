"""docs/observability.md, the alerts and the dashboard name what the daemons measure, and nothing else."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric

from overspill.events import AGENT_EVENTS, SIDECAR_EVENTS
from overspill.metrics import describe_process
from overspill_agent import metrics as agent_metrics
from overspill_agent.backends.fake import FakeBackend, World
from overspill_agent.gauges import AgentGauges
from overspill_agent.registry import Registry
from overspill_agent.spool import Reserve
from overspill_agent.store import Store
from overspill_sidecar import metrics as sidecar_metrics
from overspill_sidecar.gauges import BreakerGauges, PromiseGauges, WatchGauges
from overspill_sidecar.health.record import HealthRecord
from overspill_sidecar.watch import ClusterWatch
from tests.integration.sidecar_road import in_memory_view

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs/observability.md").read_text()
_RULES = _ROOT / "packaging/monitoring/overspill.rules.yml"
_DASHBOARD = _ROOT / "packaging/monitoring/grafana-dashboard.json"
_NAME = re.compile(r"\boverspill_[a-z_]+\b")


def _of_the_sidecar() -> Iterator[Metric]:
    yield from sidecar_metrics.REGISTRY.collect()
    yield from WatchGauges(ClusterWatch(in_memory_view(), 1.0), []).collect()
    yield from PromiseGauges(dict).collect()
    yield from BreakerGauges(HealthRecord(1.0), []).collect()


def _of_the_agent(directory: Path) -> Iterator[Metric]:
    yield from agent_metrics.REGISTRY.collect()
    reserve = Reserve(directory, 1)
    store = Store(directory / "agent.db")
    registry = Registry(store, directory / "spool", reserve)
    yield from AgentGauges(registry, FakeBackend(World()), reserve, lambda: True, "fake").collect()
    store.close()


def _of_both() -> Iterator[Metric]:
    registry = CollectorRegistry()
    describe_process(registry, [])
    yield from (metric for metric in registry.collect() if metric.name.startswith("overspill"))


def _rows(heading: str) -> list[list[str]]:
    """Return the cells of the table below a heading of the page."""
    part = _PAGE.split(f"\n{heading}\n")[1].split("\n#")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def _shown(metrics: Iterator[Metric]) -> dict[str, tuple[str, str]]:
    return {
        metric.name + ("_total" if metric.type == "counter" else ""): (metric.type, metric.documentation)
        for metric in metrics
    }


def _told(heading: str) -> dict[str, tuple[str, str]]:
    return {name.strip("`"): (kind, meaning) for name, kind, _, meaning in _rows(heading)}


def test_the_page_has_every_metric_with_its_type_and_meaning(tmp_path: Path) -> None:
    assert _told("### The sidecar's metrics") == _shown(_of_the_sidecar())
    assert _told("### The agent's metrics") == _shown(_of_the_agent(tmp_path))
    assert _told("### Both") == _shown(_of_both())


def test_the_page_has_every_event() -> None:
    assert {action.strip("`"): meaning for action, meaning in _rows("### At the cluster")} == SIDECAR_EVENTS
    assert {action.strip("`"): meaning for action, meaning in _rows("### At the site")} == AGENT_EVENTS


@pytest.mark.parametrize(
    ("package", "events"),
    [("agent/overspill_agent", AGENT_EVENTS), ("slurm_plugin/overspill_sidecar", SIDECAR_EVENTS)],
)
def test_whatever_is_logged_at_level_info_is_an_event(package: str, events: Mapping[str, str]) -> None:
    logged = {action for module in (_ROOT / package).rglob("*.py") for action in _info_actions(module)}
    assert logged
    assert logged <= events.keys()


def _info_actions(module: Path) -> Iterator[str]:
    """Yield the actions that a module logs at level info, as far as they stand there as they are."""
    for call in ast.walk(ast.parse(module.read_text())):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "info":
            for keyword in call.keywords:
                if keyword.arg == "action" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def _names_that_can_be_asked_for(directory: Path) -> set[str]:
    names = set()
    for metrics in (_of_the_sidecar(), _of_the_agent(directory), _of_both()):
        for name, (kind, _) in _shown(metrics).items():
            names |= {f"{name}_{end}" for end in ("bucket", "count", "sum")} if kind == "histogram" else {name}
    return names


def test_every_alert_is_about_a_metric_that_there_is_and_says_what_is_wrong(tmp_path: Path) -> None:
    known = _names_that_can_be_asked_for(tmp_path)
    rules = [rule for group in yaml.safe_load(_RULES.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(_NAME.findall(rule["expr"])) <= known, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]


def test_every_panel_asks_for_a_metric_that_there_is(tmp_path: Path) -> None:
    known = _names_that_can_be_asked_for(tmp_path)
    panels = json.loads(_DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        for target in panel["targets"]:
            asked = set(_NAME.findall(target["expr"]))
            assert asked, panel["title"]
            assert asked <= known, panel["title"]


def test_the_page_names_no_metric_that_there_is_not(tmp_path: Path) -> None:
    known = (
        _names_that_can_be_asked_for(tmp_path) | set(_shown(_of_the_agent(tmp_path))) | set(_shown(_of_the_sidecar()))
    )
    named = {name for name in _NAME.findall(_PAGE) if name not in {"overspill_sidecar", "overspill_agent"}}
    assert named <= known
