"""Two snapshots make events: what the wait model is told, and what it must not be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from overspill_sidecar.cluster import Job, Snapshot, Trail
from overspill_sidecar.history import PastJob
from overspill_sidecar.wait import OnlineModel
from overspill_sidecar.wait.following import Following
from overspill_sidecar.wait.replay import warm_up
from overspill_sidecar.wait.scenarios import opinion_on
from overspill_sidecar.wait.state import dump, restore
from overspill_sidecar.wait.waiting import WaitingJob
from tests.unit.sidecar_cluster import NOW_S, job, running, snapshot

_TRAIL = Trail("d1", "site-a", "batch")


@pytest.fixture
def model() -> OnlineModel:
    return OnlineModel(1)


@pytest.fixture
def following(model: OnlineModel) -> Following:
    started = Following(model, {"overspill"})
    started.take(_at(0))
    return started


def _at(after_s: float, *jobs: Job) -> Snapshot:
    return replace(snapshot(*jobs), unix_time_s=NOW_S + after_s)


def _new(number: int, after_s: int = 5, **changes: Any) -> Job:
    at_s = NOW_S + after_s
    return job(number, **{"submit_time_s": at_s, "eligible_time_s": at_s, **changes})


def _running(number: int, start_s: int, after_s: int = 5, **changes: Any) -> Job:
    at_s = NOW_S + after_s
    times = {"submit_time_s": at_s, "eligible_time_s": at_s, "start_time_s": NOW_S + start_s}
    return running(number, "c1", **{**times, **changes})


def test_a_job_is_followed_from_its_submission_to_its_end(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(1)))
    assert list(model.queue.pending) == ["1.0"]
    following.take(_at(20, _running(1, start_s=17)))
    assert (list(model.queue.pending), list(model.queue.running)) == ([], ["1.0"])
    assert model.queue.running["1.0"].waited_s(0) == 12
    following.take(_at(30))
    assert not model.queue.running
    assert model.training_set(NOW_S + 30.0).wait_s.tolist() == [12]


def test_a_start_between_two_looks_is_learnt_with_slurms_own_times(following: Following, model: OnlineModel) -> None:
    following.take(_at(60, _running(1, start_s=7, after_s=5)))
    assert model.training_set(NOW_S + 60.0).wait_s.tolist() == [2]


def test_jobs_that_were_there_before_the_first_look_stand_in_the_queue_and_teach_nothing(model: OnlineModel) -> None:
    Following(model, ()).take(
        _at(0, job(1, submit_time_s=NOW_S - 5000, eligible_time_s=NOW_S - 5000), running(2, "c2"))
    )
    assert (list(model.queue.pending), list(model.queue.running)) == (["1.0"], ["2.0"])
    assert model.samples.taken == 1  # the running one had been submitted just before


def test_a_job_that_vanishes_from_the_queue_teaches_nothing(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(1)))
    following.take(_at(20))
    assert not model.queue.pending
    assert len(model.training_set(NOW_S + 20.0).wait_s) == 0


@pytest.mark.parametrize("reason", ["Dependency", "BeginTime", "JobHeldUser", "Licenses"])
def test_a_job_that_waits_by_its_own_wish_is_not_in_the_queue(
    following: Following, model: OnlineModel, reason: str
) -> None:
    following.take(_at(10, _new(1, reason=reason, eligible_time_s=None)))
    assert not model.queue.pending
    following.take(_at(5000, _new(1, eligible_time_s=NOW_S + 4990)))
    following.take(_at(5020, _running(1, start_s=5002, eligible_time_s=NOW_S + 4990)))
    assert model.training_set(NOW_S + 5020.0).wait_s.tolist() == [12]


def test_a_job_that_is_held_while_it_waits_leaves_the_queue_untaught(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(1)))
    following.take(_at(20, _new(1, reason="JobHeldAdmin")))
    assert not model.queue.pending
    assert len(model.training_set(NOW_S + 20.0).wait_s) == 0


@pytest.mark.parametrize(
    "diverted",
    [
        {"trail": _TRAIL, "partitions": ("batch", "overspill")},
        {"trail": _TRAIL, "partitions": ("batch",)},
        {"partitions": ("batch", "overspill")},
    ],
)
def test_a_diverted_job_is_never_learnt_from(
    following: Following, model: OnlineModel, diverted: dict[str, Any]
) -> None:
    following.take(_at(10, _new(1, **diverted)))
    assert not model.queue.pending
    following.take(_at(20, _new(2), _new(1, **diverted)))
    following.take(_at(30, _new(2, **diverted), _running(1, start_s=25, **{**diverted, "partitions": ("overspill",)})))
    assert (list(model.queue.pending), list(model.queue.running)) == ([], [])
    assert len(model.training_set(NOW_S + 30.0).wait_s) == 0


def test_a_diverted_job_that_starts_at_home_after_all_takes_its_cpus_here(
    following: Following, model: OnlineModel
) -> None:
    following.take(_at(10, _new(1, trail=_TRAIL, partitions=("batch", "overspill"))))
    following.take(_at(300, _running(1, start_s=250, trail=_TRAIL)))
    assert model.queue.everybody.running_cpus == 2
    assert model.samples.taken == 0


def test_a_diverted_job_that_starts_at_home_soon_is_not_learnt_from(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(1, trail=_TRAIL, partitions=("batch", "overspill"))))
    following.take(_at(20, _running(1, start_s=15, trail=_TRAIL)))
    assert list(model.queue.running) == ["1.0"]
    assert model.samples.taken == 0


def test_who_left_while_no_router_ran_is_not_taken_to_have_waited_or_run_until_the_next_one(
    following: Following, model: OnlineModel
) -> None:
    following.take(_at(10, _new(1), _new(2), _running(3, start_s=8), _new(4)))
    before = model.learner.weights.copy()
    assert model.waiting["2.0"].passed == 0
    Following(restore(dump(model)), {"overspill"}).take(_at(10))  # a state can be taken up at once
    later = Following(model, {"overspill"})
    later.take(_at(36_000, _running(2, start_s=40)))
    user = model.queue.users.get("alice")
    assert user is not None
    assert list(user.run_times_s) == [2.0]
    # 2 has waited for 35 s: not for any wait of the grid. What became of 1 and 4, nobody knows.
    assert model.training_set(NOW_S + 36_000.0).wait_s.tolist() == [35, 3]
    assert (model.learner.weights[:, -1] <= before[:, -1]).all()


def test_each_task_of_an_array_is_a_job(following: Following, model: OnlineModel) -> None:
    def array(tasks: int) -> Job:
        return _new(7, tasks=tasks, all_tasks=tasks)

    def task(number: int, start_s: int) -> Job:
        return _running(100 + number, start_s, array_job_id=7, array_task_id=number)

    following.take(_at(10, array(3)))
    assert len(model.queue.pending) == 3
    following.take(_at(20, array(2), task(1, 15)))
    assert (len(model.queue.pending), len(model.queue.running)) == (2, 1)
    last = _running(7, 28, array_job_id=7, array_task_id=3)
    following.take(_at(30, task(1, 15), task(2, 27), last))
    assert (len(model.queue.pending), len(model.queue.running)) == (0, 3)
    following.take(_at(40, last))
    assert len(model.queue.running) == 1
    assert sorted(model.training_set(NOW_S + 40.0).wait_s) == [10, 22, 23]


def test_of_a_huge_array_a_few_tasks_stand_for_all(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(7, tasks=9_000, all_tasks=9_000)))
    assert len(model.queue.pending) == 64
    following.take(_at(20, _new(7, tasks=8_999, all_tasks=8_999), _running(100, 15, array_job_id=7, array_task_id=1)))
    assert (len(model.queue.pending), len(model.queue.running)) == (64, 1)
    assert model.training_set(NOW_S + 20.0).is_over.sum() == 1


def test_a_requeued_job_is_a_new_one(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(1)))
    following.take(_at(20, _running(1, start_s=12)))
    following.take(_at(30, _new(1, after_s=25, restart_count=1)))
    assert (list(model.queue.pending), list(model.queue.running)) == (["1.1"], [])


def test_a_gap_between_looks_ends_nobody_who_is_still_there(following: Following, model: OnlineModel) -> None:
    following.take(_at(10, _new(1)))
    following.take(_at(90_000, _running(1, start_s=20)))
    assert list(model.queue.running) == ["1.0"]
    assert model.training_set(NOW_S + 90_000.0).wait_s.tolist() == [15]


def test_what_the_model_may_use_is_counted_without_virtual_nodes(following: Following, model: OnlineModel) -> None:
    local = sum(node.cpus for node in snapshot().nodes.values() if "overspill" not in node.partitions)
    assert model.queue.cpus == local


def test_jobs_of_a_replayed_past_that_wait_still_are_followed_on(model: OnlineModel) -> None:
    submit_s = NOW_S - 400.0
    warm_up(model, [PastJob("1", submit_s, None, None, 1, 3600, "alice", "batch")])
    Following(model, ()).take(_at(0, _running(1, start_s=-100, after_s=-400)))
    assert model.training_set(float(NOW_S)).wait_s.tolist() == [300]


def test_a_requeued_job_of_a_replayed_past_is_followed_on(model: OnlineModel) -> None:
    first = PastJob("1", NOW_S - 900.0, NOW_S - 800.0, NOW_S - 500.0, 1, 3600, "alice", "batch")
    again = PastJob("1", NOW_S - 400.0, None, None, 1, 3600, "alice", "batch")
    warm_up(model, [first, again])
    Following(model, ()).take(_at(0, _running(1, start_s=-100, after_s=-400, restart_count=1)))
    assert list(model.queue.running) == ["1.1"]
    assert sorted(model.training_set(float(NOW_S)).wait_s) == [100, 300]


def test_arrays_are_followed_on_after_a_restart(following: Following, model: OnlineModel) -> None:
    def array(tasks: int) -> Job:
        return _new(7, tasks=tasks, all_tasks=tasks)

    def task(number: int, start_s: int) -> Job:
        return _running(100 + number, start_s, array_job_id=7, array_task_id=number)

    following.take(_at(10, array(4)))
    following.take(_at(20, array(3), task(1, 15)))
    restored = restore(dump(model))
    later = Following(restored, {"overspill"})
    later.take(_at(30, array(3), task(1, 15)))
    assert (len(restored.queue.pending), len(restored.queue.running)) == (3, 1)
    later.take(_at(40, array(1), task(1, 15), task(2, 35), task(3, 35)))
    later.take(_at(50, array(1)))
    assert (len(restored.queue.pending), len(restored.queue.running)) == (1, 0)
    user = restored.queue.users.get("alice")
    assert user is not None
    assert list(user.run_times_s) == [5, 5]
    assert sorted(restored.training_set(NOW_S + 50.0).wait_s) == [10, 30, 30, 45]  # the last one waits still


def test_jobs_that_came_while_nobody_looked_teach_nothing(following: Following, model: OnlineModel) -> None:
    following.take(_at(3600, _new(1, after_s=1800)))
    assert list(model.queue.pending) == ["1.0"]
    assert model.samples.taken == 0


def test_jobs_that_a_limit_keeps_back_now_are_known(following: Following, model: OnlineModel) -> None:
    told = []
    for after_s, reason in ((10, "AssocGrpCpuLimit"), (20, "Priority"), (30, "QOSMaxCpuPerUserLimit")):
        following.take(_at(after_s, _new(1, reason=reason)))
        told.append(model.queue.pending["1.0"].is_limited)
    assert told == [True, False, True]


def test_a_job_starts_on_what_jobs_that_a_limit_keeps_back_leave_free(following: Following, model: OnlineModel) -> None:
    kept = [_new(10 + number, cpus=2, reason="AssocGrpCpuLimit", user_name="bob") for number in range(50)]
    following.take(_at(10, *kept))
    asked = model.queue.look_at(WaitingJob("", NOW_S + 10, 1, 3600, "alice", "batch"))
    assert max(opinion_on(asked, model.queue, NOW_S + 10)) < -3
    following.take(_at(20, *(replace(each, reason="Priority") for each in kept)))
    assert max(opinion_on(asked, model.queue, NOW_S + 20)) > 0
