"""The planned queue."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.cluster import Job
from overspill_sidecar.wait import PlanModel, QueuedJob, WaitEstimate
from overspill_sidecar.wait.profile import Profile
from tests.unit.sidecar_cluster import full_batch, job, node, running, snapshot

_HOUR = 3600


def _wait_s(*jobs: Job, cpus: int = 1, time_limit_s: int | None = 600, partition: str = "batch") -> float:
    estimate = PlanModel(snapshot(*jobs)).predict(QueuedJob(partition, cpus, time_limit_s))
    assert estimate is not None
    return estimate.median_s


def test_an_idle_partition_starts_a_job_at_once() -> None:
    assert _wait_s() == 0
    assert _wait_s(running(1, "c1"), cpus=6) == 0


def test_a_full_partition_makes_a_job_wait_until_the_first_limit_is_over() -> None:
    assert _wait_s(*full_batch(600)) == pytest.approx(600, rel=0.03)
    assert _wait_s(*full_batch(600)) >= 600


def test_jobs_ahead_are_waited_for_too() -> None:
    ahead = [job(number, cpus=8, time_limit_s=_HOUR) for number in (1, 2)]
    assert _wait_s(*full_batch(600), *ahead, cpus=8) == pytest.approx(600 + 2 * _HOUR, rel=0.03)


def test_a_short_job_slips_into_a_hole_before_a_wide_one() -> None:
    wide = job(1, cpus=8, time_limit_s=_HOUR)
    half_full = [running(100 + number, f"c{number}", 2, 1000) for number in (1, 2)]
    assert _wait_s(*half_full, wide, cpus=2, time_limit_s=500) == 0
    assert _wait_s(*half_full, wide, cpus=2, time_limit_s=_HOUR) > 1000


def test_held_dependent_deferred_and_limited_jobs_are_not_ahead() -> None:
    reasons = ("JobHeldUser", "Dependency", "BeginTime", "AssocGrpCpuLimit", "QOSMaxJobsPerUserLimit")
    waiting = [job(n, cpus=8, reason=reason) for n, reason in enumerate(reasons)]
    assert _wait_s(*waiting) == 0


def test_an_array_is_ahead_with_all_its_tasks() -> None:
    assert _wait_s(job(1, cpus=8, tasks=3, time_limit_s=100), cpus=8) == pytest.approx(300)


def test_jobs_of_another_partition_count_where_nodes_are_shared() -> None:
    elsewhere = running(1, "c1", 2, 1000, partitions=("batch",))
    assert _wait_s(elsewhere, running(2, "c2", 2, 1000), partition="long") == pytest.approx(1000, rel=0.03)
    assert _wait_s(running(1, "c3"), running(2, "c4"), partition="long", cpus=4) == 0


def test_no_end_in_sight_is_an_endless_wait() -> None:
    assert _wait_s(*full_batch(None)) == math.inf
    assert _wait_s(cpus=9) == math.inf


def test_nodes_that_are_down_offer_nothing() -> None:
    down = {name: node(name, is_usable=False) for name in ("c1", "c2", "c3", "c4")}
    assert PlanModel(snapshot(nodes=down)).predict(QueuedJob("batch", 1, 60)) == WaitEstimate(math.inf, True)


def test_an_unknown_partition_has_no_estimate() -> None:
    model = PlanModel(snapshot())
    model.observe(QueuedJob("nowhere", 1, 60))
    assert model.predict(QueuedJob("nowhere", 1, 60)) is None


def test_a_burst_of_submissions_sees_itself() -> None:
    model, asked = PlanModel(snapshot()), QueuedJob("batch", 4, _HOUR)
    waits = []
    for _ in range(5):
        waits.append(model.predict(asked))
        model.observe(asked)
    assert [wait.median_s for wait in waits if wait] == pytest.approx([0, 0, _HOUR, _HOUR, 2 * _HOUR])


def test_a_pending_job_waits_for_its_own_place_in_the_queue_and_an_array_for_that_of_its_last_task() -> None:
    first, array = job(1, cpus=8, time_limit_s=600), job(2, cpus=8, tasks=3, time_limit_s=600)
    model = PlanModel(snapshot(*full_batch(left_s=3600), first, array))
    waits = [model.pending(each, "batch") for each in (first, array)]
    passed_s = 100
    rests = [wait.median_s - passed_s for wait in waits if wait is not None]
    assert rests == [pytest.approx(3600, rel=0.03), pytest.approx(3600 + 3 * 600, rel=0.03)]
    assert model.pending(first, "nowhere") is None


def test_who_comes_after_a_pending_job_that_stands_far_behind_does_not_move_it() -> None:
    far = job(400, cpus=1)
    queue = snapshot(*(running(number, f"c{number}") for number in range(1, 5)), *map(job, range(5, 400)), far)
    alone, followed = PlanModel(queue), PlanModel(queue)
    followed.observe(QueuedJob("batch", 8, 24 * 3600))
    assert followed.pending(far, "batch") == alone.pending(far, "batch")


def test_a_queue_too_long_to_plan_still_counts_as_work() -> None:
    few = [job(number, cpus=8, time_limit_s=100) for number in range(250)]
    many = [job(number, cpus=8, time_limit_s=100) for number in range(1000)]
    assert _wait_s(*few, cpus=8) == pytest.approx(25_000)
    assert _wait_s(*many, cpus=8) == pytest.approx(100_000)


def test_the_probability_passes_one_half_where_the_median_passes_the_threshold() -> None:
    estimate = WaitEstimate(600, is_upper_bound=True)
    assert estimate.p_exceeds(599) > 0.5 > estimate.p_exceeds(601)
    assert WaitEstimate(0, is_upper_bound=True).p_exceeds(0) == 0
    assert WaitEstimate(math.inf, is_upper_bound=True).p_exceeds(1e9) == 1


_releases = st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 64)), max_size=30)
_jobs = st.lists(st.tuples(st.integers(1, 64), st.integers(1, 100_000)), max_size=20)


@given(st.integers(0, 64), _releases, _jobs, st.integers(1, 64), st.integers(1, 100_000))
def test_more_queue_never_shortens_a_wait_and_a_hole_that_is_found_is_there(
    free: int, releases: list[tuple[float, int]], ahead: list[tuple[int, int]], cpus: int, duration_s: int
) -> None:
    profile = Profile(free, releases)
    before = 0.0
    for taken, taken_s in ahead:
        wait_s = profile.earliest_s(cpus, duration_s)
        assert wait_s >= before
        before = wait_s
        at_s = profile.earliest_s(taken, taken_s)
        if math.isfinite(at_s):
            profile.take(at_s, taken, taken_s)
            assert profile.earliest_s(taken, taken_s) >= at_s
    profile.pour(1000)
    assert profile.earliest_s(cpus, duration_s) >= before
