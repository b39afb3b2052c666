"""The breaker, whose drain a node's is, when a site counts as gone, and what a run's end says about its site."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill.errors import InvalidRequestError, NotPermittedError, UnrunnableError
from overspill.states import Outcome
from overspill_sidecar.cluster import Node
from overspill_sidecar.health import does_end_speak_for_site, does_refusal_speak_for_site
from overspill_sidecar.health.breaker import FAILURES_IN_A_ROW, SUCCESSES_TO_CLOSE, Breaker, Phase
from overspill_sidecar.health.wanted import Changes, Reachability, changes, failing, next_try, unreachable
from tests.unit.sidecar_cluster import NOW_S, node

_PAUSE_S = 60.0


def _opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(_PAUSE_S)
    for _ in range(FAILURES_IN_A_ROW):
        breaker.count(now, is_success=False)
    return breaker


def test_a_few_failures_in_a_row_open_the_breaker_whatever_was_before() -> None:
    breaker = Breaker(_PAUSE_S)
    for _ in range(100):
        breaker.count(0.0, is_success=True)
    opened = [breaker.count(1.0, is_success=False) for _ in range(FAILURES_IN_A_ROW)]
    assert opened == [False] * (FAILURES_IN_A_ROW - 1) + [True]
    assert (breaker.phase(1.0), breaker.tally) == (Phase.OPEN, (FAILURES_IN_A_ROW, 100 + FAILURES_IN_A_ROW))


def test_half_of_the_runs_failing_opens_it_though_never_many_in_a_row() -> None:
    breaker = Breaker(_PAUSE_S)
    opened = [breaker.count(0.0, is_success=number % 2 == 0) for number in range(6)]
    assert opened == [False] * 5 + [True]


def test_failures_of_long_ago_do_not_count() -> None:
    breaker = Breaker(_PAUSE_S)
    for number in range(20):
        breaker.count(number * 1000.0, is_success=False)
    assert breaker.phase(20_000.0) is Phase.CLOSED


def test_after_the_pause_the_first_failure_opens_it_for_twice_as_long() -> None:
    breaker, now, pauses = _opened(), 0.0, []
    for _ in range(8):
        assert breaker.phase(breaker.retry_at - 0.1) is Phase.OPEN
        pauses.append(breaker.retry_at - now)
        now = breaker.retry_at
        assert breaker.phase(now) is Phase.HALF_OPEN
        assert breaker.count(now, is_success=False)
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]


def test_successes_after_the_pause_close_it_and_the_next_pause_is_short_again() -> None:
    breaker = _opened()
    breaker.phase(_PAUSE_S)
    breaker.count(_PAUSE_S, is_success=False)
    now = breaker.retry_at
    for _ in range(SUCCESSES_TO_CLOSE):
        assert breaker.phase(now) is Phase.HALF_OPEN
        breaker.count(now, is_success=True)
    assert breaker.phase(now) is Phase.CLOSED
    for _ in range(FAILURES_IN_A_ROW + SUCCESSES_TO_CLOSE):
        breaker.count(now, is_success=False)
    assert breaker.retry_at == now + _PAUSE_S


def test_what_ends_while_it_is_open_changes_nothing() -> None:
    breaker = _opened()
    assert not breaker.count(1.0, is_success=False)
    for _ in range(10):
        breaker.count(1.0, is_success=True)
    assert (breaker.phase(2.0), breaker.retry_at) == (Phase.OPEN, _PAUSE_S)


@given(st.lists(st.tuples(st.floats(0, 5000), st.booleans())))
def test_a_breaker_is_never_open_beyond_the_longest_pause_and_never_opens_without_a_failure(
    steps: list[tuple[float, bool]],
) -> None:
    breaker, now = Breaker(_PAUSE_S), 0.0
    for after, is_success in steps:
        now += after
        has_opened = breaker.count(now, is_success=is_success)
        assert not (has_opened and is_success)
        assert breaker.retry_at <= now + 3600
    assert breaker.phase(now + 3600) is not Phase.OPEN


@pytest.mark.parametrize(
    ("outcome", "has_started", "speaks"),
    [
        (Outcome.COMPLETED, True, True),
        (Outcome.SIGNALED, True, True),
        (Outcome.TIMEOUT, True, True),
        (Outcome.CANCELLED, True, True),
        (Outcome.CANCELLED, False, None),
        (Outcome.OUT_OF_MEMORY, True, True),
        (Outcome.REJECTED, False, False),
        (Outcome.NODE_FAIL, True, False),
        (Outcome.LOST, True, False),
    ],
)
def test_a_run_speaks_against_its_site_only_where_the_site_failed(
    outcome: Outcome, *, has_started: bool, speaks: bool | None
) -> None:
    assert does_end_speak_for_site(outcome, has_started=has_started) is speaks


def test_a_user_who_is_refused_does_not_speak_against_the_site() -> None:
    assert does_refusal_speak_for_site(NotPermittedError("no account")) is None
    assert does_refusal_speak_for_site(InvalidRequestError("no script")) is None
    assert does_refusal_speak_for_site(UnrunnableError("no slot")) is False


def _drained(reason: str, **more: Any) -> Node:
    return node("ovs1", is_usable=False, is_drained=True, reason=reason, **more)


_OUTAGE = unreachable("site-a", NOW_S)


def test_nodes_of_a_closed_site_are_drained_once() -> None:
    assert changes([node("ovs1")], _OUTAGE) == Changes(drain=("ovs1",))
    assert changes([_drained(_OUTAGE.reason)], _OUTAGE) == Changes()
    assert changes([_drained(unreachable("site-a", NOW_S - 500).reason)], _OUTAGE) == Changes()


def test_a_drain_of_ours_gets_the_reason_that_holds_now() -> None:
    assert changes([_drained(failing("site-a", (3, 3), NOW_S).reason)], _OUTAGE) == Changes(drain=("ovs1",))


def test_drains_of_ours_end_with_their_cause() -> None:
    nodes = [_drained(_OUTAGE.reason), node("ovs2")]
    assert changes(nodes, None) == Changes(undrain=("ovs1",))


@pytest.mark.parametrize("reason", ["kernel update", "Overspill: away", "", "not overspill: "])
@pytest.mark.parametrize("closure", [None, _OUTAGE])
def test_a_drain_of_somebody_else_is_never_touched(reason: str, closure: Any) -> None:
    assert changes([_drained(reason)], closure) == Changes()


def test_a_node_that_could_not_hand_over_rests_and_is_then_used_again() -> None:
    nodes = [_drained("overspill: cannot hand over: /opt/proxy: No such file or directory")]
    assert changes(nodes, None, frozenset({"ovs1"})) == Changes()
    assert changes(nodes, None) == Changes(undrain=("ovs1",))
    assert changes(nodes, _OUTAGE) == Changes()


def test_the_reason_of_a_failing_site_tells_a_later_relay_when_to_try_again() -> None:
    retry_at = float(int(time.time()) + 90)
    reason = failing("site-a", (5, 6), retry_at).reason
    assert reason.startswith("overspill: site-a fails its jobs (5 of 6), next try at ")
    assert next_try(_drained(reason), "site-a") == retry_at
    assert next_try(_drained(reason), "site-b") is None
    assert next_try(node("ovs1", reason=reason), "site-a") is None
    assert next_try(_drained(_OUTAGE.reason), "site-a") is None


def test_a_site_counts_as_gone_and_as_back_only_after_a_while() -> None:
    reachability = Reachability(drain_after_s=10, resume_after_s=10)
    seen = []
    for now, is_reachable in [(0, False), (9, False), (10, False), (11, True), (15, False), (16, True), (26, True)]:
        reachability.observe(now, NOW_S + now, is_reachable=is_reachable)
        seen.append(reachability.is_out)
    assert seen == [None, None, True, True, True, True, False]
    assert reachability.out_since_unix_s == NOW_S
