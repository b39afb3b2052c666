"""Jobs that stayed by lot are known again by what they are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overspill_sidecar.cluster import Job
from overspill_sidecar.decision.explored import Explored, ExploredJobs, shown_cpus
from tests.unit.sidecar_cluster import NOW_S, job

_STAYED = Explored(NOW_S + 0.7, 2001, frozenset({"batch"}), frozenset({2}), 3600)


def _job(slurm_job_id: int = 7, submit_time_s: int = NOW_S + 1, cpus: int = 2) -> Job:
    return job(slurm_job_id, submit_time_s=submit_time_s, cpus=cpus)


@pytest.fixture(name="explored")
def _explored() -> ExploredJobs:
    explored = ExploredJobs()
    explored.note(_STAYED)
    return explored


def test_the_job_that_stayed_is_known_whenever_it_is_asked_about(explored: ExploredJobs) -> None:
    assert [explored.has(_job()) for _ in range(3)] == [True, True, True]


def test_of_jobs_that_are_alike_as_many_are_taken_for_it_as_have_stayed(explored: ExploredJobs) -> None:
    explored.note(replace(_STAYED, decided_at_unix_s=NOW_S + 0.9))
    assert [explored.has(_job(number)) for number in (7, 8, 9, 7)] == [True, True, False, True]


@pytest.mark.parametrize(
    "other",
    [
        _job(submit_time_s=NOW_S - 1),
        _job(submit_time_s=NOW_S + 12),
        _job(cpus=3),
        replace(_job(), user_id=2002),
        replace(_job(), partitions=("batch", "long")),
        replace(_job(), time_limit_s=None),
    ],
)
def test_another_job_is_not_taken_for_it(explored: ExploredJobs, other: Job) -> None:
    assert not explored.has(other)
    assert explored.has(_job())


def test_the_tasks_of_an_array_that_stayed_stay(explored: ExploredJobs) -> None:
    assert explored.has(_job(7))
    assert explored.has(replace(_job(8), array_job_id=7, array_task_id=3))


def test_it_forgets_what_is_old_rather_than_grow() -> None:
    explored = ExploredJobs()
    for number in range(11_000):
        explored.note(_STAYED)
        assert explored.has(_job(number))
    assert not explored.has(_job(0))
    assert explored.has(_job(10_999))


@pytest.mark.parametrize(
    ("cpus", "parts", "threads", "shown"),
    [
        (3, (1, 1), {1}, {3}),
        (3, (1, 1), {2}, {3, 4}),
        (3, (1, 3), {2}, {3, 4, 6}),
        (6, (2, 6), {2}, {6, 8, 12}),
        (1, (1, 1), {1, 2, 4}, {1, 2, 4}),
        (5, (1, 1), set(), {5}),
    ],
)
def test_slurm_shows_the_cpus_asked_for_or_whole_cores(
    cpus: int, parts: tuple[int, ...], threads: set[int], shown: set[int]
) -> None:
    assert shown_cpus(cpus, parts, threads) == shown


def test_a_job_that_has_been_given_whole_cores_is_known_again() -> None:
    explored = ExploredJobs()
    explored.note(replace(_STAYED, cpus=shown_cpus(3, (1,), {2})))
    assert not explored.has(_job(7, cpus=5))
    assert explored.has(_job(8, cpus=4))
