"""The learned wait model: what it promises, on a queue that is simulated with a fixed seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overspill_sidecar.history import PastJob
from overspill_sidecar.wait import OnlineModel, Outlook, WaitingJob
from overspill_sidecar.wait.features import NAMES
from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.replay import replay, warm_up
from overspill_sidecar.wait.samples import ROOM, Samples
from overspill_sidecar.wait.waiting import SlurmFacts
from tests.unit.queue_simulation import CPUS, simulated_jobs

_THRESHOLD_S = 1800.0


@cache
def _jobs() -> list[PastJob]:
    return simulated_jobs(4_000)


@cache
def _forecasts() -> list[tuple[PastJob, Outlook]]:
    return list(replay(OnlineModel(CPUS), _jobs()))


def _job(key: int, submit_s: float = 0.0, cpus: int = 1, partition: str = "batch") -> WaitingJob:
    return WaitingJob(key, submit_s, cpus, 3600.0, "alice", partition)


def _warm(count: int = 600) -> OnlineModel:
    model = OnlineModel(CPUS)
    warm_up(model, _jobs()[:count])
    return model


def _auc(scores: list[float], labels: list[bool]) -> float:
    """Return how often a job that waited long was given a higher score than one that did not."""
    high = np.array([score for score, label in zip(scores, labels, strict=True) if label])
    low = np.array([score for score, label in zip(scores, labels, strict=True) if not label])
    return float((high[:, None] > low).mean() + (high[:, None] == low).mean() / 2)


def test_it_tells_long_waits_from_short_ones() -> None:
    known = _forecasts()[1000:]
    labels = [(job.wait_s or 0) > _THRESHOLD_S for job, _ in known]
    assert 0.1 < sum(labels) / len(labels) < 0.9
    assert _auc([outlook.p_exceeds(_THRESHOLD_S) for _, outlook in known], labels) > 0.9


def test_its_probabilities_are_as_often_right_as_they_say() -> None:
    known = _forecasts()[1000:]
    said = np.array([outlook.p_exceeds(_THRESHOLD_S) for _, outlook in known])
    came = np.array([(job.wait_s or 0) > _THRESHOLD_S for job, _ in known])
    assert abs(said.mean() - came.mean()) < 0.05
    assert ((said - came) ** 2).mean() < 0.6 * came.mean() * (1 - came.mean())


def test_the_bound_holds_as_often_as_promised_while_the_load_drifts() -> None:
    known = _forecasts()[600:]
    held = [(job.wait_s or 0) <= outlook.upper_s for job, outlook in known]
    assert 0.93 <= sum(held) / len(held) <= 0.97


def test_the_same_history_gives_the_same_forecasts() -> None:
    again = [outlook for _, outlook in replay(OnlineModel(CPUS), _jobs()[:800])]
    assert again == [outlook for _, outlook in _forecasts()[:800]]


def test_a_model_that_knows_nothing_sends_no_job_away() -> None:
    outlook = OnlineModel(CPUS).predict(_job(1, cpus=CPUS), 0.0)
    assert outlook.p_exceeds(300) < 0.5
    assert outlook.p_exceeds(86400) < 0.1


@given(
    exceeds=st.lists(st.floats(0, 1), min_size=len(GRID_S), max_size=len(GRID_S)),
    waits=st.tuples(st.floats(0, 1e7), st.floats(0, 1e7)),
    waited_s=st.sampled_from([0.0, 30.0, 400.0, 1e5, 1e7]),
)
def test_a_longer_wait_is_never_more_probable(
    exceeds: list[float], waits: tuple[float, float], waited_s: float
) -> None:
    outlook = Outlook(sorted(exceeds, reverse=True), waited_s, 0.0)
    short, long = (outlook.p_exceeds(wait_s) for wait_s in sorted(waits))
    assert 0 <= long <= short <= 1
    assert outlook.p_exceeds(waited_s) == 1.0


@given(
    exceeds=st.lists(st.floats(0.001, 0.999), min_size=len(GRID_S), max_size=len(GRID_S)),
    share=st.floats(0.01, 0.99),
    waited_s=st.sampled_from([0.0, 30.0, 400.0, 1e5]),
)
def test_a_quantile_is_the_wait_that_has_its_probability(exceeds: list[float], share: float, waited_s: float) -> None:
    outlook = Outlook(sorted(exceeds, reverse=True), waited_s, 0.0)
    at_s = outlook.quantile_s(share)
    assert at_s >= waited_s
    assert outlook.p_exceeds(at_s * 0.999) >= 1 - share - 1e-3
    assert outlook.p_exceeds(at_s * 1.001 + 1e-9) <= 1 - share + 1e-3


def test_a_job_that_has_waited_is_likelier_to_wait_longer_still() -> None:
    model, job = _warm(), _job(1, 1e6, cpus=64)
    now = max(job.submit_s, _jobs()[599].submit_s)
    fresh, late = model.predict(job, now), model.predict(job, now, waited_s=1200.0)
    assert late.p_exceeds(_THRESHOLD_S) > fresh.p_exceeds(_THRESHOLD_S)
    assert late.median_s >= 1200
    assert late.upper_s >= 1200


def test_pending_jobs_teach_as_soon_as_they_have_waited_too_long() -> None:
    model = OnlineModel(CPUS)
    for number in range(10):
        model.submitted(_job(number, float(number), cpus=CPUS))
    asked = _job(10, 10.0, cpus=CPUS)
    before = model.predict(asked, 10.0).p_exceeds(_THRESHOLD_S)
    model.advance(_THRESHOLD_S + 20)
    assert model.predict(asked, 10.0).p_exceeds(_THRESHOLD_S) > before


@pytest.mark.parametrize("leave", [OnlineModel.removed, OnlineModel.ended])
def test_a_job_that_leaves_without_starting_teaches_nothing(leave: Callable[[OnlineModel, int, float], None]) -> None:
    model = _warm()
    now = _jobs()[599].submit_s
    weights, level = model.learner.weights.copy(), model.bound.logit
    model.submitted(_job(1, now))
    leave(model, 1, now + 30)
    assert np.array_equal(model.learner.weights, weights)
    assert model.bound.logit == level
    assert 1 not in model.queue.pending
    assert len(model.training_set(now + 1e6).wait_s) == model.samples.taken - 1


def test_events_about_unknown_jobs_and_repeated_ones_change_nothing() -> None:
    model = _warm()
    now = _jobs()[599].submit_s
    model.submitted(_job(1, now))
    model.started(1, now)
    weights = model.learner.weights.copy()
    model.submitted(_job(1, now))
    model.started(1, now)
    for event in (model.started, model.ended, model.removed):
        event(99, now)
    assert np.array_equal(model.learner.weights, weights)
    model.ended(1, now)
    model.ended(1, now)
    assert 1 not in model.queue.running


def test_a_job_first_heard_of_long_after_its_submission_stands_in_the_queue_but_teaches_nothing() -> None:
    model = OnlineModel(CPUS)
    model.submitted(_job(1, 0.0), now_s=4000.0)
    assert model.samples.taken == 0
    model.started(1, 5000.0)
    assert 1 in model.queue.running


def test_an_empty_queue_is_exactly_empty_again() -> None:
    model = OnlineModel(CPUS)
    warm_up(model, _jobs()[:500])
    everybody = model.queue.everybody
    assert not everybody.pending
    assert (everybody.pending_cpus, everybody.pending_work, everybody.running, everybody.running_cpus) == (0, 0, 0, 0)
    assert not model.queue.crowd.sums.any()
    assert model.queue.limits.count == model.queue.estimates.count == 0


def test_facts_that_slurm_knows_change_the_forecast_once_they_have_told_something() -> None:
    model, now, random_numbers = OnlineModel(CPUS), 0.0, random.Random(1)  # noqa: S311
    for number in range(400):
        is_far_behind = random_numbers.random() < 0.5
        facts = SlurmFacts(priority=10.0 if is_far_behind else 1e6, jobs_ahead=50 if is_far_behind else 0)
        now += 100
        model.submitted(WaitingJob(number, now, 4, 3600.0, "alice", "batch", facts=facts))
        if not is_far_behind:
            model.started(number, now + 1)
    now += 100
    bad, good = (
        model.predict(WaitingJob(-1, now, 4, 3600.0, "alice", "batch", facts=facts), now).p_exceeds(_THRESHOLD_S)
        for facts in (SlurmFacts(priority=10.0, jobs_ahead=50), SlurmFacts(priority=1e6, jobs_ahead=0))
    )
    assert bad > 0.7
    assert good < 0.3


def test_memory_does_not_grow_with_the_jobs_that_were() -> None:
    model = OnlineModel(CPUS)
    for number in range(50_000):
        heard_of_s = float(number) if number % 25 == 0 else number + 200.0
        model.submitted(WaitingJob(number, float(number), 1, 60.0, f"user{number}", f"p{number}"), heard_of_s)
        model.started(number, float(number))
        model.ended(number, number + 0.5)
    queue = model.queue
    assert len(model.samples.submit_s) == ROOM
    assert model.samples.taken == 2_000
    assert len(queue.users.entries) <= queue.users.room
    assert len(queue.partitions.entries) <= queue.partitions.room
    assert len(queue.lookalikes.recent.entries) <= queue.lookalikes.recent.room
    assert not model.waiting
    assert len(model.due) < 200


def test_samples_that_fell_out_of_the_ring_are_not_known_any_more() -> None:
    samples = Samples(features=2, room=4)
    grid = np.zeros(len(GRID_S))
    numbers = [samples.add(np.array([n, n]), grid, None, submit_s=float(n)) for n in range(6)]
    assert [samples.slot_of(number) for number in numbers] == [None, None, 2, 3, 0, 1]
    samples.ended(0, 100.0)
    samples.ended(3, 10.0)
    samples.ended(4, math.inf)
    training = samples.training_set(20.0)
    assert training.features[:, 0].tolist() == [2, 3, 5]
    assert training.wait_s.tolist() == [18, 7, 15]
    assert training.is_over.tolist() == [False, True, False]


def test_features_have_names_and_are_numbers() -> None:
    features = _warm().predict(_job(1, 1e6), 1e6)
    assert all(math.isfinite(value) for value in features.exceeds)
    assert len(NAMES) == len(set(NAMES)) == _warm(5).samples.features.shape[1]
