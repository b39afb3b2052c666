"""What only Slurm knows: read off a snapshot for one job, unknown where Slurm does not tell, and learned from."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from overspill_sidecar.accounting import Accounting, Association, Counted, Limits, Qos
from overspill_sidecar.cluster import Job, Node, Reservation, Snapshot
from overspill_sidecar.wait import OnlineModel, QueuedJob, SlurmFacts, WaitingJob
from overspill_sidecar.wait.features import NAMES
from overspill_sidecar.wait.following import Following
from overspill_sidecar.wait.knowledge import Knowledge
from tests.unit.sidecar_cluster import CONFIG, NOW_S, job, node, partition, running, snapshot

ALICE, BOB = 2001, 2002
_HOUR_S = 3600
_ENFORCING = replace(CONFIG, enforced=frozenset({"associations", "limits", "qos"}))
_NO_LIMITS = Limits(groups={}, job_tres={}, node_tres={}, job_minutes={}, wall_min=None)


def _accounting(of_alice: Limits = _NO_LIMITS, of_qos: Limits = _NO_LIMITS) -> Accounting:
    """Return one account with both users."""
    found: dict[tuple[str, int | None, str], Association] = {}
    for user, limits in ((ALICE, of_alice), (BOB, _NO_LIMITS), (None, _NO_LIMITS)):
        found["hpc", user, ""] = Association("hpc", user, "", "", is_default=user is not None, limits=limits)
    return Accounting(found, {ALICE: "hpc", BOB: "hpc"}, {"normal": Qos("normal", of_qos, {}, {})})


def _groups(**groups: tuple[float, float]) -> Limits:
    """Return limits, each with what is used of it; `_` stands for a slash."""
    return replace(_NO_LIMITS, groups={name.replace("_", "/"): Counted(*each) for name, each in groups.items()})


def _known(now: Snapshot) -> Knowledge:
    return Knowledge(now, [each for each in now.jobs if each.is_competing])


def _asked(cpus: int = 1, time_limit_s: int | None = _HOUR_S, **changes: Any) -> QueuedJob:
    return QueuedJob("batch", cpus, time_limit_s, ALICE, "hpc", "normal", 1)._replace(**changes)


def _of_new(now: Snapshot, priority: float | None = None, **asked: Any) -> SlurmFacts:
    return _known(now).of_new(_asked(**asked), priority)


def _planned(number: int, in_s: int, **changes: Any) -> Job:
    return job(number, **{"start_time_s": NOW_S + in_s, **changes})


def test_what_slurm_does_not_tell_is_unknown() -> None:
    untold = snapshot()
    assert _of_new(untold) == SlurmFacts(starts_jobs=True, usable_cpus=8, free_cpus=8, limited_cpus=0)
    assert _of_new(untold, partition="gone") == SlurmFacts()
    # Limits that nobody enforces, and jobs of nobody known, are kept back by none that we know.
    assert _of_new(replace(untold, accounting=_accounting(_groups(jobs=(1, 1))))).is_limited is None
    told = replace(untold, accounting=_accounting(_groups(jobs=(1, 1))), config=_ENFORCING)
    assert _of_new(told, user_id=None).is_limited is None
    assert _of_new(told, user_id=4711).limit_share is None


def test_a_new_job_goes_by_the_plans_of_those_that_ask_for_as_much_or_more() -> None:
    now = snapshot(
        _planned(1, 600, cpus=1, time_limit_s=600),
        _planned(2, 4000, cpus=4),
        _planned(3, 9000, cpus=8, time_limit_s=None),
        job(4, cpus=8),
        _planned(5, 100, cpus=8, reason="QOSMaxJobsPerUserLimit"),
    )
    assert _of_new(now, time_limit_s=600).planned_harder_s == 600
    assert _of_new(now, cpus=2).planned_harder_s == 4000
    assert _of_new(now, cpus=2, time_limit_s=None).planned_harder_s == 9000
    assert _of_new(now, cpus=9).planned_harder_s is None
    assert _of_new(now, partition="long").planned_harder_s is None


def test_those_with_at_least_its_priority_start_before_it() -> None:
    now = snapshot(_planned(1, 600, priority=900), _planned(2, 4000, priority=500), job(3, priority=100))
    told = [_of_new(now, priority) for priority in (1000, 900, 500, 50)]
    assert [facts.jobs_ahead for facts in told] == [0, 0, 1, 3]
    assert [facts.planned_ahead_s for facts in told] == [None, 600, 4000, 4000]
    assert _of_new(now, None).jobs_ahead is None
    assert _of_new(now, 7.0, partition="long").jobs_ahead == 0


def test_jobs_that_a_limit_keeps_back_are_in_nobodys_way() -> None:
    kept = _planned(1, 600, priority=900, cpus=4, reason="AssocGrpCpuLimit")
    facts = _of_new(snapshot(kept, job(2, priority=800)), 500)
    assert (facts.jobs_ahead, facts.planned_ahead_s, facts.limited_cpus) == (1, None, 4)


def test_a_pending_job_has_a_plan_and_a_priority_of_its_own() -> None:
    pending = _planned(1, 5000, priority=500, submit_time_s=NOW_S - 1000, eligible_time_s=NOW_S - 1000)
    facts = _known(snapshot(pending, job(2, priority=900))).of_pending(pending, "batch")
    assert facts.planned_wait_s == pytest.approx(6000, rel=0.06)  # its whole wait
    assert facts.priority == pytest.approx(500, rel=0.06)
    assert facts.jobs_ahead == pytest.approx(1, rel=0.06)
    overdue = _planned(1, -5000, submit_time_s=NOW_S - 9000, eligible_time_s=NOW_S - 9000)
    assert _known(snapshot(overdue)).of_pending(overdue, "batch").planned_wait_s == pytest.approx(9000, rel=0.06)
    assert _known(snapshot(job(2))).of_pending(job(2), "batch").planned_wait_s is None


def test_pending_jobs_that_hardly_differ_are_one_question() -> None:
    first, second = _planned(1, 5000, priority=50_000), _planned(2, 5010, priority=50_010)
    known = _known(snapshot(first, second))
    told = [known.of_pending(each, "batch") for each in (first, second)]
    assert told[0]._replace(jobs_ahead=0) == told[1]._replace(jobs_ahead=0)


def test_a_partition_that_is_down_starts_no_jobs() -> None:
    down = snapshot(partitions=(partition(is_up=False, starts_jobs=False),))
    assert _of_new(down).starts_jobs is False


def test_cpus_that_a_reservation_takes_before_the_job_would_be_over_are_not_open() -> None:
    reserved = (
        Reservation("maintenance", ("c1", "c2"), NOW_S + 7200, NOW_S + 9000),
        Reservation("course", ("c3",), NOW_S + 1800, NOW_S + 3600, cpus=1),
        Reservation("over", ("c4",), NOW_S - 7200, NOW_S - 3600),
        Reservation("elsewhere", ("x1",), NOW_S, NOW_S + 3600),
    )
    now = replace(snapshot(running(9, "c1")), reservations=reserved)
    told = [_of_new(now, time_limit_s=limit_s) for limit_s in (600, 3600, 8000, None)]
    assert [facts.reserved_cpus for facts in told] == [0, 1, 5, 5]
    assert [facts.open_cpus for facts in told] == [6, 5, 3, 3]
    assert {facts.free_cpus for facts in told} == {6}
    assert _of_new(replace(now, reservations=())).open_cpus == 6


class _Watched(Node):
    """A node that counts, for all of its kind, how often it is asked for what is free on it."""

    looks = 0

    def __getattribute__(self, name: str) -> Any:
        if name == "cpus_allocated":
            _Watched.looks += 1
        return object.__getattribute__(self, name)


def test_a_reservation_costs_looks_at_its_own_nodes_alone() -> None:
    names = tuple(f"n{number}" for number in range(100))
    nodes: dict[str, Node] = {
        name: _Watched(name, ("batch",), is_usable=True, cpus=4, cpus_allocated=1, memory_mib=1, memory_allocated_mib=0)
        for name in names
    }
    reserved = tuple(
        Reservation(f"r{number}", (names[number], "elsewhere"), NOW_S + 60 * number, NOW_S + 7200)
        for number in range(50)
    )
    now = replace(snapshot(partitions=(partition("batch", names),)), nodes=nodes, reservations=reserved)
    _Watched.looks = 0
    facts = _of_new(now, time_limit_s=7200)
    assert _Watched.looks < 5 * len(names)
    assert (facts.reserved_cpus, facts.open_cpus) == (200, 150)


def test_reservations_of_the_same_nodes_take_them_once() -> None:
    reserved = (
        Reservation("cores", ("c1", "c2"), NOW_S + 60, NOW_S + 7200, cpus=2),
        Reservation("all", ("c2", "c3"), NOW_S + 120, NOW_S + 7200),
        Reservation("again", ("c3",), NOW_S + 180, NOW_S + 7200, cpus=1),
    )
    facts = _of_new(replace(snapshot(running(9, "c1")), reservations=reserved))
    assert (facts.reserved_cpus, facts.open_cpus) == (5, 2)


def test_cpus_that_the_scheduler_keeps_for_a_planned_job_are_not_open() -> None:
    nodes = {"c1": node("c1"), "c2": node("c2", is_planned=True), "c3": node("c3", is_usable=False)}
    now = replace(snapshot(), nodes=nodes, reservations=())
    facts = _of_new(now)
    assert (facts.usable_cpus, facts.free_cpus, facts.open_cpus) == (4, 4, 2)


def _limited(accounting: Accounting, *jobs: Job, **changes: Any) -> Snapshot:
    return replace(snapshot(*jobs, **changes), accounting=accounting, config=_ENFORCING)


def test_a_limit_that_the_job_would_pass_keeps_it_back() -> None:
    now = _limited(_accounting(_groups(tres_cpu=(8, 6), submit=(1, 1))))
    assert (_of_new(now, cpus=2).limit_share, _of_new(now, cpus=2).is_limited) == (1.0, False)
    assert (_of_new(now, cpus=4).limit_share, _of_new(now, cpus=4).is_limited) == (1.25, True)
    assert _of_new(now, cpus=4, tasks=4).is_limited
    assert not _of_new(now, cpus=4, user_id=BOB).is_limited
    # The QOS and the account that a request leaves out are those that Slurm gives.
    of_qos = _limited(_accounting(of_qos=_groups(tres_mem=(1000, 900))))
    assert _of_new(of_qos, qos="", account="", memory_mib=200).is_limited
    assert not _of_new(of_qos, qos="", account="", memory_mib=100).is_limited
    spent = _limited(_accounting(_groups(minutes_cpu=(100, 101))))
    assert _of_new(spent).is_limited


def test_the_qos_of_the_partition_limits_its_jobs_too() -> None:
    accounting = _accounting()
    small = Qos("small", replace(_NO_LIMITS, job_tres={"cpu": 1}), {}, {})
    accounting = replace(accounting, qos={**accounting.qos, "small": small})
    now = _limited(accounting, partitions=(partition(qos="small"), partition("long", ("c1",))))
    assert _of_new(now, cpus=2).is_limited
    assert not _of_new(now, cpus=2, partition="long").is_limited


def test_it_is_known_how_many_jobs_limits_keep_back_now() -> None:
    kept = (
        job(1, reason="AssocGrpCpuLimit", qos="normal"),
        job(2, reason="QOSMaxJobsPerUserLimit", qos="normal", user_id=BOB, tasks=5),
        job(3, qos="normal"),
    )
    now = _limited(_accounting(), *kept)
    assert (_of_new(now).limited_of_user, _of_new(now, user_id=BOB).limited_of_user) == (1, 5)
    assert (_of_new(now, qos="").limited_of_qos, _of_new(now, qos="other").limited_of_qos) == (6, 0)
    known = _known(now)
    assert [known.of_pending(each, "batch").is_limited for each in kept] == [True, True, False]


def _at(after_s: float, *jobs: Job, **changes: Any) -> Snapshot:
    return replace(snapshot(*jobs, **changes), unix_time_s=NOW_S + after_s)


def _weighting() -> dict[str, Any]:
    return {"config": replace(CONFIG, priority_weight_age=1000, priority_max_age_s=10_000)}


def test_a_users_next_job_begins_with_the_priority_of_his_youngest_without_its_age() -> None:
    following = Following(OnlineModel(1), {"overspill"})
    mine: dict[str, Any] = {"account": "hpc", "qos": "normal"}
    old = job(1, priority=1900, submit_time_s=NOW_S - 9000, eligible_time_s=NOW_S - 9000, **mine)
    young = job(2, priority=1300, submit_time_s=NOW_S - 2000, eligible_time_s=NOW_S - 2000, **mine)
    following.take(_at(0, young, old, **_weighting()))
    assert following.facts_for(_asked()).priority == 1100
    assert following.facts_for(_asked(qos="")).priority == 1100
    assert following.facts_for(_asked(account="", qos="")).priority == 1100
    assert following.facts_for(_asked(qos="other")).priority is None
    # One that runs has gained by age until its start.
    started = running(3, "c1", priority=700, submit_time_s=NOW_S - 1060, eligible_time_s=NOW_S - 1060, **mine)
    following.take(_at(10, started, **_weighting()))
    assert following.facts_for(_asked()).priority == 600
    following.take(_at(20, **_weighting()))
    assert following.facts_for(_asked()).priority == 600


def test_what_is_learnt_of_a_job_is_what_was_known_before_it_came() -> None:
    model = OnlineModel(1)
    following = Following(model, {"overspill"})
    following.take(_at(0))
    whole = running(1, "c1", submit_time_s=NOW_S + 5, eligible_time_s=NOW_S + 5, start_time_s=NOW_S + 6)
    fills = [replace(whole, slurm_job_id=number, nodes=f"c{number}") for number in range(1, 5)]
    following.take(_at(10, *fills))
    known_free = model.samples.features[: model.samples.taken, _column("free")]
    assert np.expm1(known_free).tolist() == pytest.approx([6, 6, 6, 6])


def test_jobs_that_ask_for_more_than_their_partition_gives_do_not_wait_for_others() -> None:
    model = OnlineModel(1)
    following = Following(model, {"overspill"})
    over = job(1, reason="PartitionTimeLimit", submit_time_s=NOW_S, eligible_time_s=NOW_S)
    following.take(_at(0, over, replace(over, slurm_job_id=2, partitions=("batch", "long"))))
    assert list(model.queue.pending) == ["2.0"]


def _column(name: str) -> int:
    return NAMES.index(f"slurm_{name}")


#: What alone tells who waits: facts of a job that starts at once, and of one that does not.
_TELLING = [
    (SlurmFacts(is_limited=False, limit_share=0.5), SlurmFacts(is_limited=True, limit_share=1.2)),
    (SlurmFacts(planned_harder_s=0.0), SlurmFacts(planned_harder_s=9000.0)),
    (SlurmFacts(planned_ahead_s=0.0), SlurmFacts(planned_ahead_s=9000.0)),
    (SlurmFacts(priority=90_000, jobs_ahead=0), SlurmFacts(priority=90_000, jobs_ahead=40)),
    (SlurmFacts(open_cpus=64.0, reserved_cpus=0.0), SlurmFacts(open_cpus=0.0, reserved_cpus=64.0)),
    (SlurmFacts(limited_of_user=0), SlurmFacts(limited_of_user=20)),
]


@pytest.mark.parametrize(("prompt", "long"), _TELLING)
def test_who_waits_is_learned_from_what_slurm_alone_knows(prompt: SlurmFacts, long: SlurmFacts) -> None:
    model = _lived([prompt, long])
    assert _p_waits(model, prompt) < 0.3
    assert _p_waits(model, long) > 0.7


def test_a_pending_job_with_a_late_plan_of_its_own_is_reckoned_to_wait() -> None:
    model = _lived([SlurmFacts(planned_harder_s=0.0), SlurmFacts(planned_harder_s=9000.0)])
    assert _p_waits(model, SlurmFacts(planned_harder_s=0.0, planned_wait_s=9000.0)) > 0.7
    assert _p_waits(model, SlurmFacts(planned_harder_s=9000.0, planned_wait_s=0.0)) < 0.3


def test_facts_that_are_never_known_change_nothing() -> None:
    knowing, ignorant = _lived([SlurmFacts(is_limited=False), SlurmFacts(is_limited=True)]), _lived([SlurmFacts()])
    columns = [_column(name) for name in ("limited", "limit_share", "plan", "open", "up")]
    assert not ignorant.learner.weights[:, columns].any()
    assert not knowing.learner.weights[:, columns[1:]].any()
    assert knowing.learner.weights[:, columns[0]].any()


def _lived(kinds: list[SlurmFacts]) -> OnlineModel:
    """Return a model that has seen 600 like jobs of one user, by turns of each kind; the last kind waits for hours.

    Nothing but the facts tells one kind from the other: its user, size, hour and the queue that it meets are the same.
    """
    model = OnlineModel(64)
    random_numbers = np.random.default_rng(1)
    for number in range(600):
        kind = int(random_numbers.integers(len(kinds)))
        submit_s = NOW_S + number * 20_000.0
        model.submitted(_waiting(number, submit_s, kinds[kind]))
        started_s = submit_s + (5 if kind < len(kinds) - 1 else 9_000)
        model.started(number, started_s)
        model.ended(number, started_s + 600)
    return model


def _waiting(number: int, submit_s: float, facts: SlurmFacts) -> WaitingJob:
    return WaitingJob(number, submit_s, 4, 3600.0, "alice", "batch", facts=facts)


def _p_waits(model: OnlineModel, facts: SlurmFacts) -> float:
    now_s = NOW_S + 600 * 20_000.0
    return model.predict(_waiting(-1, now_s, facts), now_s).p_exceeds(1800)
