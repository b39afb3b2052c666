"""The queue played forward, the run times that it draws, and what it counts beside other opinions."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
import pytest

from overspill_sidecar.wait import scenarios
from overspill_sidecar.wait.accounts import UserShare
from overspill_sidecar.wait.blend import Blend
from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.run_times import RunTimes
from overspill_sidecar.wait.scenarios import WAITS_S, opinion_on
from overspill_sidecar.wait.tracked import Tracked, track
from overspill_sidecar.wait.waiting import WaitingJob

_CPUS, _NOW_S = 10, 100_000.0
_HALF_AN_HOUR = WAITS_S.index(1800.0)


def _job(key: int, cpus: int, limit_s: float, user: str = "alice", submit_s: float = _NOW_S) -> Tracked:
    return track(WaitingJob(key, submit_s, cpus, limit_s, user, "batch"), None, usual_share=0.5)


def _run(queue: QueueState, job: Tracked, start_s: float) -> None:
    queue.submitted(job)
    queue.started(job, start_s, job.key)


def _queue(run_time_s: float) -> QueueState:
    """Return a full machine: the job that runs, limit 10 hours, is one like those that ran for so long."""
    queue = QueueState(_CPUS)
    for number in range(8):
        past = _job(-number, _CPUS, 36_000.0, submit_s=0.0)
        _run(queue, past, 0.0)
        queue.ended(past, run_time_s)
    _run(queue, _job(1, _CPUS, 36_000.0, submit_s=_NOW_S - 600), _NOW_S - 600)
    return queue


def _p_long(job: Tracked, queue: QueueState) -> float:
    return 1 / (1 + math.exp(-opinion_on(job, queue, _NOW_S)[_HALF_AN_HOUR]))


def test_a_job_that_fits_an_empty_machine_starts_at_once() -> None:
    assert max(opinion_on(_job(2, _CPUS, 3600.0), QueueState(_CPUS), _NOW_S)) < -3


@pytest.mark.parametrize(("run_time_s", "is_long"), [(1200.0, False), (7200.0, True)])
def test_a_job_waits_as_long_as_jobs_like_those_that_run_took_whatever_their_limits_say(
    run_time_s: float, *, is_long: bool
) -> None:
    assert (_p_long(_job(2, 1, 3600.0), _queue(run_time_s)) > 0.5) is is_long


def test_a_job_waits_for_those_before_it() -> None:
    queue = _queue(1200.0)
    queue.submitted(_job(2, _CPUS, 36_000.0, submit_s=_NOW_S - 60))
    assert _p_long(_job(3, 1, 40_000.0), _queue(1200.0)) < 0.5
    queue.submitted(_job(4, _CPUS, 36_000.0, submit_s=_NOW_S - 30))
    queue.submitted(_job(5, _CPUS, 36_000.0, submit_s=_NOW_S - 20))
    assert _p_long(_job(3, 1, 40_000.0), queue) > 0.5


@pytest.mark.parametrize(("limit_s", "starts"), [(3600.0, True), (40_000.0, False)])
def test_only_a_job_that_delays_nobody_by_its_limit_starts_before_its_turn(limit_s: float, *, starts: bool) -> None:
    queue = QueueState(_CPUS)
    _run(queue, _job(1, _CPUS - 2, 36_000.0, submit_s=_NOW_S - 10), _NOW_S - 10)
    queue.submitted(_job(2, _CPUS, 3600.0, submit_s=_NOW_S - 5))
    assert (opinion_on(_job(3, 1, limit_s), queue, _NOW_S)[0] < -3) is starts


def test_the_same_queue_has_the_same_answer() -> None:
    queue = QueueState(_CPUS)
    for number in range(20):
        _run(queue, _job(number, 1, 3600.0 * (number + 1), f"user{number}", _NOW_S - 60 * number), _NOW_S - 60 * number)
    assert opinion_on(_job(99, 4, 60.0), queue, _NOW_S) == opinion_on(_job(99, 4, 60.0), queue, _NOW_S)


def test_a_queue_too_long_to_be_played_gives_no_opinion() -> None:
    queue = _queue(1200.0)
    for number in range(2, 400):
        queue.submitted(_job(number, 1, 3600.0))
    assert all(math.isnan(logit) for logit in opinion_on(_job(999, 1, 60.0), queue, _NOW_S))


def _busy(running: int, pending: int) -> QueueState:
    """Return a queue in which each end lets jobs backfill, but not all of them: the first is as wide as the machine."""
    queue = QueueState(running)
    for number in range(running):
        start_s = _NOW_S - running + number
        _run(queue, _job(number, 1, 14_400.0, f"user{number % 20}", start_s), start_s)
    for number in range(running, running + pending):
        queue.submitted(_job(number, running if number == running else 1 + number % 3, 3600.0, f"user{number % 20}"))
    return queue


def _lines_of(question: Callable[[], object]) -> int:
    """Return how many lines of `scenarios` are run for an answer: its cost, as far as it is the same everywhere."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename == scenarios.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        question()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize(("running", "pending"), [(150, 149), (250, 49), (60, 239), (290, 9)])
def test_no_queue_costs_more_than_so_much(running: int, pending: int) -> None:
    queue = _busy(running, pending)
    assert _lines_of(lambda: opinion_on(_job(999, 3, 14_400.0), queue, _NOW_S)) < 40_000


def test_a_scenario_that_is_too_much_is_given_up_and_without_any_there_is_no_opinion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    queue, job = _busy(20, 20), _job(999, 20, 14_400.0)
    assert not any(map(math.isnan, opinion_on(job, queue, _NOW_S)))
    monkeypatch.setattr(scenarios, "_MOST_LOOKS", 2_500)
    assert all(map(math.isnan, opinion_on(job, queue, _NOW_S)))


def test_of_a_job_that_a_limit_keeps_back_scenarios_say_nothing() -> None:
    job = replace(_job(2, 1, 3600.0), is_limited=True)
    assert all(map(math.isnan, opinion_on(job, QueueState(_CPUS), _NOW_S)))


def test_a_job_that_no_limit_fits_and_nobody_ends_is_beyond_every_wait() -> None:
    assert min(opinion_on(_job(2, 2 * _CPUS, 3600.0), QueueState(_CPUS), _NOW_S)) > 3


def test_run_times_of_its_own_kind_count_most_and_none_is_longer_than_the_limit() -> None:
    run_times = RunTimes()
    for _ in range(8):
        run_times.ended(_job(1, 2, 3600.0), 3700.0)
        run_times.ended(_job(2, 1, 60.0), 30.0)
    likely = run_times.likely(_job(3, 2, 3600.0))
    assert max(likely) == 3600.0
    assert likely.count(3600.0) > 2 * likely.count(30.0) > 0


@pytest.mark.parametrize("ran_s", [0.0, 50.0, 3000.0, 9000.0])
def test_a_job_runs_for_longer_than_it_has_already(ran_s: float) -> None:
    run_times = RunTimes()
    assert all(run_time_s > ran_s for run_time_s in run_times.likely(_job(1, 1, 3600.0), ran_s))
    run_times.ended(_job(2, 1, 100.0), 80.0)
    assert all(run_time_s > ran_s for run_time_s in run_times.likely(_job(1, 1, 3600.0), ran_s))


def test_a_user_without_a_past_is_likened_to_all_by_shares_of_limits() -> None:
    run_times = RunTimes()
    run_times.ended(_job(1, 1, 1000.0), 250.0)
    assert run_times.likely(_job(2, 4, 4000.0, "bob")) == [1000.0]


def _taught(*, scenarios_are_right: bool) -> Blend:
    blend = Blend()
    for number in range(2_000):
        exceeded = float(number % 2)
        right = np.full(len(GRID_S), 3.0 if exceeded else -3.0)
        undecided = np.zeros(len(GRID_S))
        opinions = (undecided, None, right) if scenarios_are_right else (right, None, -right)
        blend.learn(opinions, 0, len(GRID_S), exceeded)
    return blend


def test_scenarios_count_where_they_are_right_and_not_where_they_mislead() -> None:
    yes, undecided = np.full(len(GRID_S), 3.0), np.zeros(len(GRID_S))
    assert (_taught(scenarios_are_right=True).logits((undecided, None, yes)) > 2).all()
    misled = _taught(scenarios_are_right=False).logits((undecided, None, yes))
    assert (abs(misled) < 1).all()


def test_before_anything_is_learned_scenarios_count_as_much_as_all_else() -> None:
    yes, no = np.full(len(GRID_S), 2.0), np.full(len(GRID_S), -2.0)
    assert Blend().logits((no, None, 3 * yes)) == pytest.approx(2.0, abs=0.7)


def test_where_none_were_played_the_others_answer_and_learn_alone() -> None:
    blend, yes, unknown = Blend(), np.full(len(GRID_S), 2.0), np.full(len(GRID_S), np.nan)
    assert blend.logits((yes, None, unknown)) == pytest.approx(yes)
    before = blend.weights[1].copy()
    blend.learn((yes, None, unknown), 0, len(GRID_S), 0.0)
    assert (blend.weights[1] == before).all()
    assert (blend.logits((yes, None, unknown)) < yes).all()


def _served(*, lighter_first: bool) -> QueueState:
    """Return a queue from which jobs like each other were started in one of the orders: bob has used much more."""
    queue = QueueState(_CPUS)
    queue.users.made("bob", UserShare).usage.add(1e6, 0.0)
    for number in range(0, 60, 2):
        at_s = float(number)
        older, younger = _job(number, 1, 60.0, "bob", at_s), _job(number + 1, 1, 60.0, "alice", at_s + 1)
        queue.submitted(older)
        queue.submitted(younger)
        for job in (younger, older) if lighter_first else (older, younger):
            queue.started(job, at_s + 2, job.key)
            queue.ended(job, at_s + 52)
    return queue


@pytest.mark.parametrize("lighter_first", [True, False])
def test_the_order_in_which_jobs_start_tells_whose_turn_comes_first(*, lighter_first: bool) -> None:
    older, younger = _job(98, 1, 60.0, "bob", _NOW_S - 5), _job(99, 1, 60.0, "alice")
    ordered = _served(lighter_first=lighter_first).order.sort([older, younger], _NOW_S)
    assert ordered == ([younger, older] if lighter_first else [older, younger])


def test_jobs_that_could_not_have_started_tell_nothing_of_the_order() -> None:
    queue = QueueState(_CPUS)
    queue.users.made("bob", UserShare).usage.add(1e6, 0.0)
    wide, small = _job(1, _CPUS, 60.0, "bob", 0.0), _job(2, 1, 60.0, "alice", 1.0)
    queue.submitted(wide)
    queue.submitted(small)
    queue.started(small, 2.0, small.key)
    assert queue.order.by_usage.weight == 0


def test_where_the_light_users_turn_comes_first_their_jobs_are_played_before_the_others() -> None:
    waits = []
    for lighter_first in (True, False):
        queue = _served(lighter_first=lighter_first)
        _run(queue, _job(100, _CPUS, 1200.0, "carol", _NOW_S), _NOW_S)
        for number in range(101, 141):
            queue.submitted(_job(number, _CPUS, 60.0, "bob", _NOW_S))
        waits.append(_p_long(_job(200, _CPUS, 60.0, "alice"), queue))
    assert waits[0] < 0.5 < waits[1]
