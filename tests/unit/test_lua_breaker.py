"""The shim's circuit breaker and its deadline, under clocks that behave and clocks that do not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.unit.lua_runtime import VERSIONS, failure_of, module, new_runtime, to_lua

FIRST_PAUSE_S = 1
LONGEST_PAUSE_S = 4
LONGEST_PAUSE_AFTER_DEADLINE_S = 30
CHEAP_FAILURES = ["unavailable", "protocol", "status"]


@pytest.fixture(params=VERSIONS)
def runtime(request: pytest.FixtureRequest) -> Any:
    return new_runtime(request.param)


@pytest.fixture
def breaker(runtime: Any) -> Any:
    return module(runtime, "breaker").new()


def test_a_new_breaker_allows_every_call(breaker: Any) -> None:
    assert all(breaker.allows(breaker, now) for now in (0, 0, 1, 1))


def test_one_deadline_pauses_for_a_second(breaker: Any) -> None:
    assert breaker.record_failure(breaker, "deadline", 100) == "opened"
    assert not breaker.allows(breaker, 100)
    assert not breaker.allows(breaker, 100.9)
    assert breaker.allows(breaker, 101)


def test_probes_that_meet_the_deadline_double_the_pause_up_to_half_a_minute(breaker: Any) -> None:
    assert _pauses_of_a_hung_sidecar(breaker, 8) == [1, 2, 4, 8, 16, 30, 30, 30]


def _pauses_of_a_hung_sidecar(breaker: Any, count: int) -> list[float]:
    now, pauses = 0.0, []
    for _ in range(count):
        assert breaker.allows(breaker, now)
        breaker.record_failure(breaker, "deadline", now)
        pauses.append(breaker.pause_s)
        now += breaker.pause_s
    return pauses


def test_a_sidecar_that_was_late_once_is_asked_as_before_and_late_again_gets_the_short_pause(breaker: Any) -> None:
    _pauses_of_a_hung_sidecar(breaker, 3)
    breaker.record_success(breaker)
    assert breaker.allows(breaker, 100)
    breaker.record_failure(breaker, "deadline", 100)
    assert breaker.pause_s == FIRST_PAUSE_S


@pytest.mark.parametrize("kind", CHEAP_FAILURES)
def test_the_third_cheap_failure_in_a_row_pauses_for_a_second(breaker: Any, kind: str) -> None:
    assert [breaker.record_failure(breaker, kind, 100) for _ in range(2)] == [None, None]
    assert breaker.allows(breaker, 100)
    assert breaker.record_failure(breaker, kind, 100) == "opened"
    assert not breaker.allows(breaker, 100.9)
    assert breaker.allows(breaker, 101)


def test_a_success_between_cheap_failures_starts_the_count_anew(breaker: Any) -> None:
    for _ in range(5):
        breaker.record_failure(breaker, "unavailable", 0)
        breaker.record_failure(breaker, "unavailable", 0)
        assert breaker.record_success(breaker) is None
    assert breaker.allows(breaker, 0)


def test_after_a_pause_there_is_one_probe_even_if_nobody_records_its_outcome(breaker: Any) -> None:
    breaker.record_failure(breaker, "deadline", 0)
    assert breaker.allows(breaker, 40)
    assert not breaker.allows(breaker, 40)
    assert not breaker.allows(breaker, 40 + FIRST_PAUSE_S - 0.1)
    assert breaker.allows(breaker, 40 + FIRST_PAUSE_S)


def test_a_probe_that_succeeds_closes_and_says_so_once(breaker: Any) -> None:
    breaker.record_failure(breaker, "deadline", 0)
    assert breaker.allows(breaker, FIRST_PAUSE_S)
    assert breaker.record_success(breaker) == "closed"
    assert breaker.record_success(breaker) is None
    assert breaker.allows(breaker, FIRST_PAUSE_S)


def test_probes_that_fail_cheaply_double_the_pause_up_to_a_limit_and_say_nothing(breaker: Any) -> None:
    for _ in range(3):
        breaker.record_failure(breaker, "unavailable", 0)
    now, pauses = 0.0, []
    for _ in range(6):
        now += breaker.pause_s
        pauses.append(breaker.pause_s)
        assert breaker.allows(breaker, now)
        assert breaker.record_failure(breaker, "unavailable", now) is None
    assert pauses == [1, 2, 4, 4, 4, 4]


def test_a_probe_that_meets_the_deadline_doubles_whatever_pause_there_was(breaker: Any) -> None:
    for _ in range(3):
        breaker.record_failure(breaker, "unavailable", 0)
    assert breaker.allows(breaker, 1)
    assert breaker.record_failure(breaker, "deadline", 1) is None
    assert not breaker.allows(breaker, 2.9)
    assert breaker.allows(breaker, 3)


def test_a_sidecar_that_is_absent_after_it_hung_is_probed_at_the_short_interval(breaker: Any) -> None:
    _pauses_of_a_hung_sidecar(breaker, 6)
    assert breaker.allows(breaker, 1000)
    breaker.record_failure(breaker, "unavailable", 1000)
    assert not breaker.allows(breaker, 1000 + LONGEST_PAUSE_S - 0.1)
    assert breaker.allows(breaker, 1000 + LONGEST_PAUSE_S)


def test_a_clock_set_back_during_a_pause_does_not_lengthen_it(breaker: Any) -> None:
    breaker.record_failure(breaker, "deadline", 10_000)
    assert breaker.allows(breaker, 9_000)
    assert not breaker.allows(breaker, 9_000.9)
    assert breaker.allows(breaker, 9_001)


class BreakerUnderAnyClock(RuleBasedStateMachine):
    """Whatever happens, the breaker is never stuck: at any time it allows a call within the longest pause."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = module(new_runtime("lua51"), "breaker").new()
        self.now = 1000.0

    @rule(step=st.floats(-1e6, 1e6))
    def the_clock_moves(self, step: float) -> None:
        self.now += step

    @rule(kind=st.sampled_from(["deadline", *CHEAP_FAILURES]))
    def a_call_fails(self, kind: str) -> None:
        if self.breaker.allows(self.breaker, self.now):
            self.breaker.record_failure(self.breaker, kind, self.now)

    @rule()
    def a_call_succeeds(self) -> None:
        if self.breaker.allows(self.breaker, self.now):
            self.breaker.record_success(self.breaker)
            assert self.breaker.allows(self.breaker, self.now)

    @rule()
    def jobs_come_every_second(self) -> None:
        seconds = [self.now + second for second in range(LONGEST_PAUSE_AFTER_DEADLINE_S + 1)]
        assert any(self.breaker.allows(self.breaker, second) for second in seconds)
        self.now = seconds[-1]

    @invariant()
    def no_pause_is_longer_than_the_longest(self) -> None:
        assert self.breaker.pause_s <= LONGEST_PAUSE_AFTER_DEADLINE_S


TestBreakerUnderAnyClock = BreakerUnderAnyClock.TestCase


def _deadline(runtime: Any, budget_s: float, readings: list[float]) -> Any:
    clock = runtime.eval("function(list) local i = 0; return function() i = i + 1; return list[i] end end")
    return module(runtime, "deadline").start(budget_s, clock(to_lua(runtime, readings)))


def test_a_deadline_counts_down_and_then_raises(runtime: Any) -> None:
    deadline = _deadline(runtime, 0.05, [10, 10.02, 10.05])
    assert deadline.left_s(deadline) == pytest.approx(0.03)
    assert failure_of(runtime, deadline.left_s, deadline) == "deadline"


def test_a_clock_set_back_ends_the_deadline_for_good(runtime: Any) -> None:
    deadline = _deadline(runtime, 0.05, [10_000, 10_000.01, 6_400, 10_000.02])
    assert deadline.left_s(deadline) == pytest.approx(0.04)
    assert failure_of(runtime, deadline.left_s, deadline) == "deadline"
    assert failure_of(runtime, deadline.left_s, deadline) == "deadline"


@given(budget_s=st.floats(0.001, 1), readings=st.lists(st.floats(0, 1e9), min_size=2, max_size=20))
def test_under_any_clock_what_is_left_is_positive_and_never_grows(budget_s: float, readings: list[float]) -> None:
    runtime = new_runtime("lua51")
    deadline = _deadline(runtime, budget_s, readings)
    left = budget_s + 1e-6  # a sum of seconds since 1970 and milliseconds is no finer
    for _ in readings[1:]:
        if failure_of(runtime, deadline.left_s, deadline) is not None:
            break
        assert 0 < deadline.ends_at - deadline.latest <= left
        left = deadline.ends_at - deadline.latest
