"""A site that has failed its jobs is tried with a few of them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from overspill_sidecar.cluster import Node
from overspill_sidecar.decision.capacity import Room, rooms_in
from overspill_sidecar.decision.trial import Trials
from overspill_sidecar.health.wanted import drained_there, failing, unreachable
from tests.unit.sidecar_cluster import NOW_S, node, snapshot

_UP = node("ovs1", 8, 16384)
_FAILING = failing("site-a", (3, 3), NOW_S).reason


def _rooms(virtual_node: Node) -> Mapping[str, Room]:
    return rooms_in(snapshot(nodes={"ovs1": virtual_node, "c1": node("c1")}))


def _drained(reason: str) -> Node:
    return node("ovs1", 8, 16384, is_drained=True, is_usable=False, reason=reason)


def _trials(*seen: tuple[float, Node]) -> Trials:
    trials = Trials()
    for asked_at, virtual_node in seen:
        trials.observe(_rooms(virtual_node), asked_at)
    return trials


def test_a_site_is_on_trial_for_a_minute_once_its_nodes_are_used_again() -> None:
    trials = _trials((0, _drained(_FAILING)))
    assert trials.at(1) == frozenset()
    trials.observe(_rooms(_UP), 10)
    assert trials.at(69) == {"overspill"}
    assert trials.at(70) == frozenset()
    trials.observe(_rooms(_UP), 71)
    assert trials.at(72) == frozenset()


def test_a_site_that_fails_its_trial_is_on_trial_anew_after_the_next_pause() -> None:
    trials = _trials((0, _drained(_FAILING)), (10, _UP), (20, _drained(_FAILING)))
    assert trials.at(21) == frozenset()
    trials.observe(_rooms(_UP), 40)
    assert trials.at(99) == {"overspill"}


def test_a_failing_site_that_goes_away_is_on_trial_when_it_is_back() -> None:
    away = _drained(unreachable("site-a", NOW_S).reason)
    assert _trials((0, _drained(_FAILING)), (10, away), (20, _UP)).at(21) == {"overspill"}


@pytest.mark.parametrize(
    "reason",
    [unreachable("site-a", NOW_S).reason, drained_there("site-a", "new disks").reason, "site-a fails its jobs", ""],
)
def test_who_was_away_for_another_reason_is_not_on_trial(reason: str) -> None:
    assert _trials((0, _drained(reason)), (10, _UP)).at(11) == frozenset()
