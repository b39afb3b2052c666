"""Boosted trees beside the wait model: fitted by LightGBM, asked without it."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest

from overspill.errors import UnavailableError
from overspill_sidecar.wait import OnlineModel, trees
from overspill_sidecar.wait.fitting import fit_apart
from overspill_sidecar.wait.forest import ANCHORS_S
from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.replay import replay, warm_up
from overspill_sidecar.wait.samples import TrainingSet
from tests.unit.queue_simulation import CPUS, simulated_jobs


@pytest.fixture(scope="module")
def training() -> TrainingSet:
    model = OnlineModel(CPUS)
    jobs = simulated_jobs(1_500)
    warm_up(model, jobs)
    assert model.wants_trees()
    return model.training_set(jobs[-1].submit_s)


def test_flat_trees_say_what_lightgbm_says(training: TrainingSet) -> None:
    known = (training.wait_s > ANCHORS_S[1]) | training.is_over
    data = lightgbm.Dataset(training.features[known], (training.wait_s[known] > ANCHORS_S[1]).astype(np.float32))
    booster = lightgbm.train(dict(trees.SETTINGS), data, trees.TREES)
    said = np.asarray(booster.predict(training.features[-50:], raw_score=True))
    forest = trees.fit(training)
    half_an_hour = GRID_S.index(ANCHORS_S[1])
    ours = [forest.logits(row.astype(np.float64))[half_an_hour] for row in training.features[-50:]]
    assert ours == pytest.approx(said.tolist(), abs=1e-6)


def test_the_same_jobs_give_the_same_trees(training: TrainingSet) -> None:
    row = training.features[-1].astype(np.float64)
    assert np.array_equal(trees.fit(training).logits(row), trees.fit(training).logits(row))


def test_where_almost_all_jobs_fare_alike_the_trees_say_so(training: TrainingSet) -> None:
    nobody_waited = TrainingSet(training.features, np.zeros_like(training.wait_s), training.is_over)
    assert (trees.fit(nobody_waited).logits(training.features[0].astype(np.float64)) < -5).all()


def test_trees_make_forecasts_better(training: TrainingSet) -> None:
    with_trees, alone = OnlineModel(CPUS), OnlineModel(CPUS)
    squares: dict[OnlineModel, list[float]] = {with_trees: [], alone: []}
    jobs = simulated_jobs(2_500)
    for model, errors in squares.items():
        for number, (job, outlook) in enumerate(replay(model, jobs)):
            if number > 1_000:
                errors.append((outlook.p_exceeds(1800) - ((job.wait_s or 0) > 1800)) ** 2)
            if model is with_trees and model.wants_trees():
                model.take_trees(trees.fit(model.training_set(job.submit_s)))
    assert np.mean(squares[with_trees]) < np.mean(squares[alone])


async def test_a_process_of_its_own_fits_the_same_trees(training: TrainingSet) -> None:
    row = training.features[-1].astype(np.float64)
    assert np.array_equal((await fit_apart(training)).logits(row), trees.fit(training).logits(row))


async def test_a_fit_that_fails_says_why(training: TrainingSet) -> None:
    broken = TrainingSet(training.features, training.wait_s[:-1], training.is_over)
    with pytest.raises(UnavailableError, match="fitting trees failed with 1: ValueError"):
        await fit_apart(broken)


async def test_a_fit_that_takes_too_long_is_ended(training: TrainingSet) -> None:
    with pytest.raises(UnavailableError, match=r"no answer within 0\.01 s"):
        await fit_apart(training, deadline_s=0.01)
