"""What the wait model knows survives a restart, and only if it is whole and its own."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from overspill.errors import InvalidRequestError
from overspill_sidecar.history import PastJob
from overspill_sidecar.wait import OnlineModel, Outlook, WaitingJob, trees
from overspill_sidecar.wait import state as wait_state
from overspill_sidecar.wait.replay import replay, warm_up
from tests.unit.queue_simulation import CPUS, simulated_jobs


@pytest.fixture(scope="module")
def jobs() -> list[PastJob]:
    """The last ones pending or running still."""
    return [
        job if number < 680 else PastJob(str(number), job.submit_s, None, None, job.cpus, 600, job.user, job.partition)
        for number, job in enumerate(simulated_jobs(700))
    ]


@pytest.fixture
def model(jobs: list[PastJob]) -> OnlineModel:
    warm = OnlineModel(CPUS)
    warm_up(warm, jobs)
    warm.take_trees(trees.fit(warm.training_set(jobs[-1].submit_s)))
    assert len(warm.queue.pending) == len(warm.waiting) == 20
    return warm


def test_a_restored_model_goes_on_as_the_saved_one_would(model: OnlineModel, tmp_path: Path) -> None:
    wait_state.save(model, tmp_path / "wait.state")
    restored, reason = wait_state.load(tmp_path / "wait.state", cpus=1)
    assert reason == ""
    later = [job for job in simulated_jobs(900, seed=2) if job.submit_s > 0]
    assert list(replay(restored, later)) == list(replay(model, later))
    assert wait_state.dump(restored) == wait_state.dump(model)


def test_a_job_that_stands_in_several_places_stands_there_again_as_one(model: OnlineModel) -> None:
    restored = wait_state.restore(wait_state.dump(model))
    for key, job in restored.queue.pending.items():
        assert restored.waiting[key].job is job
        user = restored.queue.users.get(job.user)
        assert user is not None
        assert user.pending[key] is job


def test_a_model_that_is_asked_while_it_is_saved_is_saved_as_if_it_were_not(model: OnlineModel) -> None:
    quiet = wait_state.restore(wait_state.dump(model))
    model.queue.limits.sums_known = model.queue.estimates.sums_known = False
    is_over, answers = threading.Event(), list[Outlook]()
    asked = WaitingJob("asked", 1.0, cpus=4, time_limit_s=600, user="user1", partition="p1")

    def ask() -> None:
        while not is_over.is_set():
            answers.append(model.outlook_of(asked, 1e6 + len(answers)))

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        saved = [wait_state.dump(model) for _ in range(5)]
    finally:
        is_over.set()
        asking.join(30)
    assert answers
    assert set(saved) == {wait_state.dump(quiet)}


def test_a_state_that_is_damaged_anywhere_is_refused(model: OnlineModel) -> None:
    data = wait_state.dump(model)
    for at in (25, 60, 100, len(data) // 2, len(data) - 1):
        broken = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(InvalidRequestError, match="damaged"):
            wait_state.restore(broken)
    with pytest.raises(InvalidRequestError, match="damaged"):
        wait_state.restore(data[: len(data) // 2])


def test_a_foreign_file_is_refused() -> None:
    for data in (b"", b"\x80\x04pickled", b"overspill"):
        with pytest.raises(InvalidRequestError, match="no state of the wait model"):
            wait_state.restore(data)


def test_a_state_of_another_version_is_refused(model: OnlineModel) -> None:
    data = wait_state.dump(model)
    magic, payload = data[:21], b"x" * 32 + data[21 + 64 :]
    with pytest.raises(InvalidRequestError, match="another version"):
        wait_state.restore(magic + hashlib.sha256(payload).digest() + payload)


def test_a_file_that_cannot_be_used_gives_a_new_model_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "wait.state"
    model, reason = wait_state.load(path, CPUS)
    assert (model.samples.taken, reason) == (0, f"{path} is not there yet")
    path.write_text("something else")
    model, reason = wait_state.load(path, CPUS)
    assert (model.queue.cpus, reason) == (CPUS, f"{path} is not used: it is no state of the wait model")
    path.unlink()
    path.mkdir()
    assert wait_state.load(path, CPUS)[1] == f"{path} cannot be read: Is a directory"


def test_saving_replaces_what_was_there_and_leaves_nothing_beside_it(model: OnlineModel, tmp_path: Path) -> None:
    path = tmp_path / "wait.state"
    path.write_text("old")
    wait_state.save(model, path)
    assert [file.name for file in tmp_path.iterdir()] == ["wait.state"]
    assert wait_state.load(path, 1)[0].samples.taken == model.samples.taken
