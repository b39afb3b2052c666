"""What is logged at level info is an event of the list, and each of the list is logged."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspill.events import AGENT_EVENTS, SIDECAR_EVENTS

_SOURCE = Path(__file__).resolve().parents[2]
#: Both sides are built on it.
_SHARED = _SOURCE / "proto/overspill"


def _info_actions(directory: Path) -> Iterator[str]:
    """Yield the `action` of each call of an `info` method, or of one chosen between `info` and others as `log`."""
    for path in directory.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _may_be_info(node.func):
                for keyword in node.keywords:
                    if keyword.arg == "action":
                        yield from _values(keyword.value)


def _may_be_info(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr == "info"
    return isinstance(function, ast.Name) and function.id == "inform"


def _values(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.IfExp):
        yield from _values(value.body)
        yield from _values(value.orelse)
    else:
        assert isinstance(value, ast.Constant), f"an action that the source does not spell out: {ast.unparse(value)}"
        yield str(value.value)


@pytest.mark.parametrize(
    ("package", "events"),
    [("slurm_plugin/overspill_sidecar", SIDECAR_EVENTS), ("agent/overspill_agent", AGENT_EVENTS)],
)
def test_the_events_are_exactly_what_is_logged_at_level_info(package: str, events: dict[str, str]) -> None:
    logged = {*_info_actions(_SOURCE / package), *_info_actions(_SHARED)}
    assert logged == set(events)
