"""A policy on trial with a synthetic history."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from overspill_sidecar.history import PastJob
from overspill_sidecar.policy import parse_policy
from overspill_sidecar.simulation.foresight import Constant, Unaware
from overspill_sidecar.simulation.learned import Learned
from overspill_sidecar.simulation.local import Sizes, sizes_of
from overspill_sidecar.simulation.pool import Change
from overspill_sidecar.simulation.remote import RemoteSite
from overspill_sidecar.simulation.trial import Trial, TrialResult, Way, run_trial
from overspill_sidecar.simulation.workload import ReplayedJob, peak_cpus, workload_of
from overspill_sidecar.wait import WaitEstimate
from tests.unit.queue_simulation import CPUS, simulated_jobs

_BEGIN_S = 1_800_000_000.0
_SITE = RemoteSite("overspill", cpus=64, overhead_s=60)


@pytest.fixture(name="history", scope="module")
def _history() -> list[PastJob]:
    jobs = simulated_jobs(1500, load=1.1)
    return [replace(job, account=f"a{index % 3}", nodes=1) for index, job in enumerate(jobs)]


@pytest.fixture(name="compared", scope="module")
def _compared(history: list[PastJob]) -> TrialResult:
    """The usual policy beside the other ways."""
    return _run(_trial(history), tuple(Way))


def _trial(history: list[PastJob], words: str = "", **changes: object) -> Trial:
    workload = workload_of(history)
    policy, problems = parse_policy([f"overspill_from=batch,{words}"])
    assert not problems
    trial = Trial(
        workload=workload,
        policy=policy,
        sizes=sizes_of(workload, {}, CPUS),
        sites=[_SITE],
        is_history=False,
        warm_up=0.2,
        late_every_s=math.inf,
        model=lambda: Learned(CPUS),
    )
    return replace(trial, **changes)  # type: ignore[arg-type]


def _run(trial: Trial, ways: tuple[Way, ...] = (Way.NEVER, Way.POLICY)) -> TrialResult:
    return run_trial(trial, ways, lambda _way, _done: None)


def _always(history: list[PastJob], words: str, **changes: object) -> TrialResult:
    """Return what the words do with a model by which every job waits too long."""
    model = changes.pop("model", lambda: Constant(answer=True))
    explore = "" if "explore" in words else ",overspill_explore=0"
    return _run(_trial(history, words + explore, model=model, **changes))


def test_totals_add_up(compared: TrialResult) -> None:
    result, policy = compared, compared.of(Way.POLICY)
    assert sum(result.reasons.values()) == policy.tally.jobs == 1200
    assert 0 < result.reasons["wait_above_threshold"] == policy.tally.diverted < policy.tally.jobs
    for groups in (result.by_partition, result.by_account, result.by_user):
        for name in ("jobs", "diverted", "needless", "missed", "over_threshold"):
            assert sum(getattr(group, name) for group in groups.values()) == getattr(policy.tally, name)
        assert sum(group.wait_s for group in groups.values()) == pytest.approx(policy.tally.wait_s)
        assert sum(group.saved_s for group in groups.values()) == pytest.approx(policy.tally.saved_s)
    assert sum(span.diverted for span in result.spans) == policy.tally.diverted
    assert sum(span.jobs for span in result.spans) == policy.tally.jobs


def test_a_second_run_gives_the_same(history: list[PastJob], compared: TrialResult) -> None:
    assert _run(_trial(history), tuple(Way)) == compared


def test_who_knows_run_times_diverts_nobody_needlessly_and_the_model_lies_between(compared: TrialResult) -> None:
    never, policy, always, oracle = (compared.of(way).tally for way in (Way.NEVER, Way.POLICY, Way.ALWAYS, Way.ORACLE))
    assert (never.diverted, never.saved_s, oracle.needless) == (0, 0, 0)
    assert 0 < policy.needless < always.needless
    assert policy.missed < never.missed
    assert policy.saved_s > 0


def test_a_simulated_cluster_waits_as_the_recorded_one_did(compared: TrialResult) -> None:
    assert compared.of(Way.NEVER).tally.mean_wait_s == pytest.approx(compared.recorded_mean_wait_s, rel=0.05)


def test_needless_diversions_shrink_with_a_higher_threshold(history: list[PastJob], compared: TrialResult) -> None:
    half_an_hour = compared.of(Way.POLICY).tally
    hours, days = (
        _run(_trial(history, f"overspill_wait={text}")).of(Way.POLICY).tally for text in ("04:00:00", "1-12")
    )
    assert half_an_hour.diverted > hours.diverted > days.diverted > 0
    assert half_an_hour.needless > days.needless


def test_mode_off_diverts_nothing(history: list[PastJob]) -> None:
    result = _run(_trial(history, "overspill_mode=off"))
    policy = result.of(Way.POLICY)
    assert (policy.tally.diverted, policy.tally.saved_s, policy.need.peak_jobs) == (0, 0, 0)
    assert result.reasons == {"mode_off": 1200}


def test_mode_shadow_keeps_all_and_says_who_would_have_gone(history: list[PastJob]) -> None:
    result = _run(_trial(history, "overspill_mode=shadow"))
    policy = result.of(Way.POLICY)
    assert policy.tally.diverted == result.reasons["shadow_wait_above_threshold"] > 0
    assert policy.tally.needless < policy.tally.diverted
    assert (policy.tally.saved_s, policy.need.peak_jobs) == (0, 0)


def test_mode_always_sends_jobs_to_wait_at_a_full_site(history: list[PastJob]) -> None:
    site = RemoteSite("overspill", 32, 60)
    result = _always(history, "overspill_mode=always", sites=[site])
    policy = result.of(Way.POLICY)
    assert result.reasons.keys() == {"mode_always", "larger_than_site"}
    assert policy.need.peak_cpus <= 32
    assert policy.p95_wait_s > 60


def test_no_more_than_the_site_has_is_ever_in_use(compared: TrialResult) -> None:
    for way in (Way.POLICY, Way.ALWAYS, Way.ORACLE):
        need = compared.of(way).need
        assert 0 < need.mean_cpus < need.p95_cpus <= need.peak_cpus <= 64
    assert all(span.remote_cpus_mean <= span.remote_cpus_max <= 64 for span in compared.spans)


def test_a_job_that_goes_waits_for_the_overhead_only(history: list[PastJob]) -> None:
    result = _always(history, "", sites=[RemoteSite("overspill", None, 90)])
    policy = result.of(Way.POLICY)
    assert policy.tally.diverted == policy.tally.jobs
    assert policy.tally.wait_s == 90 * policy.tally.jobs


class _Witness(Unaware):
    """Says that every job of one user waits too long, and keeps what it is told of others."""

    def __init__(self) -> None:
        self.told: set[str] = set()

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:  # noqa: ARG002 - the Protocol's
        return job.past.user == "u0"

    def outlook(self, job: ReplayedJob, now_s: float) -> WaitEstimate | None:  # noqa: ARG002 - the Protocol's
        return None

    def submitted(self, job: ReplayedJob) -> None:
        self.told.add(job.past.user)

    def changed(self, job: ReplayedJob, change: Change) -> None:  # noqa: ARG002 - the Protocol's
        self.told.add(job.past.user)


def _told(history: list[PastJob], words: str, *, is_history: bool = False) -> set[str]:
    witness = _Witness()
    site = RemoteSite("overspill", None, 60)
    _always(history, words, model=lambda: witness, sites=[site], is_history=is_history)
    return witness.told


def test_a_model_is_told_of_jobs_at_home_only(history: list[PastJob]) -> None:
    assert "u0" not in _told(history, "")
    assert "u0" in _told(history, "overspill_mode=shadow")
    assert "u0" in _told(history, "overspill_explore=0.5")
    assert "u0" in _told(history, "", is_history=True)


def test_a_job_whose_wait_nobody_can_tell_stays(history: list[PastJob]) -> None:
    assert _always(history, "", model=lambda: Constant(answer=None)).reasons == {"wait_unknown": 1200}


def test_recorded_waits_are_the_truth_if_they_are_to_be(history: list[PastJob]) -> None:
    result = _run(_trial(history, is_history=True, sites=[RemoteSite("overspill", None, 0)]), tuple(Way))
    never, oracle = result.of(Way.NEVER).tally, result.of(Way.ORACLE).tally
    assert never.mean_wait_s == pytest.approx(result.recorded_mean_wait_s)
    assert 0 < oracle.diverted == never.over_threshold
    assert (oracle.needless, oracle.missed, oracle.over_threshold) == (0, 0, 0)
    assert result.of(Way.POLICY).tally.saved_s < oracle.saved_s


def test_a_partition_with_nodes_of_its_own_does_not_wait_for_the_others(history: list[PastJob]) -> None:
    split = [replace(job, partition="long" if job.user == "u0" else "batch") for job in history]
    workload = workload_of(split)
    sizes = sizes_of(workload, {"long": CPUS}, CPUS)
    assert sizes.cpus.keys() == {"long", ""}
    assert sizes.cpus[""] <= CPUS
    result = _run(_trial(split, sizes=Sizes({"long": 10_000, "": CPUS})))
    assert result.by_partition["long"].never_wait_s == 0 < result.by_partition["batch"].never_wait_s


def test_a_history_is_played_as_far_as_it_tells_what_ran() -> None:
    still_running = [_one(0, end_s=None, cpus=3), _one(1, end_s=None, cpus=4)]
    cancelled, pending = _one(2, start_s=None), _one(3, start_s=None, end_s=None)
    held = _one(4, eligible_s=1_800_005_000.0, start_s=1_800_005_100.0, end_s=1_800_005_400.0)
    workload = workload_of([held, cancelled, *still_running, pending])
    assert [job.past for job in workload.jobs] == [*still_running, held]
    assert [(job.recorded_wait_s, job.run_s) for job in workload.jobs] == [(0, 5401), (0, 5400), (100, 300)]
    assert (workload.never_ran, workload.waiting) == (1, 1)
    assert peak_cpus(workload.jobs) == 8


# What words do, with a history that is small enough to know what becomes of each job.


def _one(number: int = 0, **changes: Any) -> PastJob:
    """Return a job of an hour on one CPU, one of which comes each second."""
    at_s = _BEGIN_S + number
    job = PastJob(str(number), at_s, at_s, at_s + 3600, 1, 7200, "alice", "batch", account="physics", nodes=1)
    return replace(job, **changes)


def _reasons(words: str, *jobs: PastJob, **changes: object) -> Mapping[str, int]:
    return _always(list(jobs), words, warm_up=0.0, **changes).reasons


_WENT = "wait_above_threshold"


@pytest.mark.parametrize(
    ("words", "change", "reason"),
    [
        ("", {"partition": "debug"}, "partition_not_in_from"),
        ("", {"nodes": 2}, "several_nodes"),
        ("overspill_max_nodes=2", {"nodes": 2}, _WENT),
        ("overspill_allow_users=bob", {}, "policy_user"),
        ("overspill_deny_users=alice+eve", {}, "policy_user"),
        ("overspill_deny_users=eve", {}, _WENT),
        ("overspill_deny_accounts=physics", {}, "policy_account"),
        ("overspill_deny_accounts=physics", {"account": ""}, "policy_account"),
        ("overspill_deny_accounts@long=physics", {}, _WENT),
        ("overspill_max_time=01:59:00", {}, "policy_time"),
        ("overspill_max_time=02:00:00", {}, _WENT),
        ("overspill_max_time=02:00:00", {"time_limit_s": None}, "policy_time"),
        ("overspill_explore=1", {}, "explore"),
        ("overspill_to=ovs-b", {}, "no_such_site"),
        ("", {"cpus": 65}, "larger_than_site"),
    ],
)
def test_a_word_keeps_whom_it_keeps_in_the_router(words: str, change: dict[str, Any], reason: str) -> None:
    assert _reasons(words, _one(**change)) == {reason: 1}


def test_a_job_larger_than_a_slot_stays() -> None:
    site = RemoteSite("overspill", 64, 0, slot_cpus=8)
    assert _reasons("", _one(cpus=8), _one(1, cpus=9), sites=[site]) == {_WENT: 1, "larger_than_slot": 1}


def test_a_site_that_is_full_takes_nobody_until_a_job_has_ended() -> None:
    jobs = [_one(0), _one(1), _one(3700), _one(3800)]
    site = RemoteSite("overspill", 1, 60)
    assert _reasons("", *jobs, sites=[site]) == {_WENT: 2, "no_free_slot": 2}


def test_so_many_jobs_at_once_and_no_more() -> None:
    jobs = [_one(0), _one(1), _one(2), _one(4000)]
    assert _reasons("overspill_max_jobs=2", *jobs) == {_WENT: 3, "max_jobs": 1}
    assert _reasons("overspill_max_jobs@overspill=1", *jobs) == {_WENT: 2, "max_jobs": 2}
    assert _reasons("overspill_max_jobs@elsewhere=1", *jobs) == {_WENT: 4}


def test_an_account_has_so_many_jobs_at_once() -> None:
    jobs = [_one(0), _one(1), _one(2, account="maths"), _one(3, account=""), _one(4000)]
    reasons = _reasons("overspill_max_jobs_per_account=1", *jobs)
    assert reasons == {_WENT: 3, "max_jobs_per_account": 1, "account_unknown": 1}


def test_an_account_has_so_many_cpu_hours_a_day() -> None:
    hours, day = 3600, 86400
    jobs = [_one(0), _one(1), _one(2 * hours), _one(day + 2 * hours)]
    # Each claims two hours while it runs, and has had one when it is over.
    reasons = _reasons("overspill_max_cpu_hours=3", *jobs, sites=[RemoteSite("overspill", None, 0)])
    assert reasons == {_WENT: 3, "max_cpu_hours": 1}


def _sites_taken(words: str, *sites: RemoteSite, jobs: int = 1) -> list[int]:
    result = _always([_one(number) for number in range(jobs)], words, sites=sites, warm_up=0.0)
    return [result.of(Way.POLICY).tally.diverted, round(result.of(Way.POLICY).tally.wait_s)]


def test_sites_are_chosen_as_the_router_does() -> None:
    slow, quick, quicker = (RemoteSite(name, 1, delay_s) for name, delay_s in (("a", 600), ("b", 100), ("c", 60)))
    assert _sites_taken("", slow, quick, quicker) == [1, 100]
    assert _sites_taken("overspill_choose=order", slow, quick, quicker) == [1, 600]
    assert _sites_taken("overspill_to=c+a", slow, quick, quicker, jobs=3) == [2, 660]
    assert _sites_taken("overspill_to@batch=a", slow, quick, quicker) == [1, 600]


def test_of_sites_that_are_as_soon_the_cheapest_takes_the_job_and_costs_are_summed_up() -> None:
    sites = [
        RemoteSite(name, 1, delay_s, price=price)
        for name, delay_s, price in (("a", 60, 3), ("b", 90, 2), ("c", 600, 1))
    ]
    result = _always([_one(), _one(1)], "", sites=sites, warm_up=0.0)
    assert {name: (at_site.diverted, at_site.cost) for name, at_site in result.by_site.items()} == {
        "a": (1, 3),
        "b": (1, 2),
    }
    assert result.of(Way.POLICY).tally.cost == 5
    by_order = _always([_one()], "overspill_choose=order", sites=sites[::-1], warm_up=0.0)
    assert by_order.by_site.keys() == {"c"}


# Looks at jobs that wait: home has one CPU, a look is every five minutes, and one job comes each second.


class _Turning(Unaware):
    """Says of every job that it starts soon, and, as it waits, that it never will; keeps who went."""

    def __init__(self) -> None:
        self.gone: list[tuple[int, float]] = []

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:  # noqa: ARG002 - the Protocol's
        return False

    def outlook(self, job: ReplayedJob, now_s: float) -> WaitEstimate | None:  # noqa: ARG002 - the Protocol's
        return WaitEstimate(math.inf, is_upper_bound=False)

    def withdrawn(self, job: ReplayedJob, now_s: float) -> None:
        self.gone.append((job.key, now_s - _BEGIN_S))


def _looked_at(words: str, *jobs: PastJob, **changes: object) -> TrialResult:
    return _always(list(jobs), words, **{"warm_up": 0.0, "sizes": Sizes({"": 1}), "late_every_s": 300.0, **changes})


def _late(result: TrialResult) -> tuple[int, int, int]:
    tally = result.of(Way.POLICY).tally
    return tally.diverted, tally.late, tally.needless


_ONE_CPU = [RemoteSite("overspill", 1, 60)]
#: The first goes to a site of one CPU for an hour and a minute, the second starts at home for four hours.
_THREE = [_one(), _one(1, end_s=_BEGIN_S + 4 * 3600), _one(2)]


def test_a_job_that_found_no_slot_goes_late_when_there_is_one() -> None:
    result = _looked_at("", *_THREE, sites=_ONE_CPU)
    # The first would have started at home at once.
    assert _late(result) == (2, 1, 1)
    # The site is free 61 minutes after the first job came; the look after that is at 65.
    assert result.of(Way.POLICY).tally.wait_s == 60 + 0 + (65 * 60 - 2 + 60)
    assert sum(span.late for span in result.spans) == 1
    assert result.reasons == {_WENT: 2, "no_free_slot": 1}
    without = _looked_at("", *_THREE, sites=_ONE_CPU, late_every_s=math.inf)
    assert (_late(without), without.reasons) == ((1, 0, 1), {_WENT: 1, "no_free_slot": 2})


def test_a_job_that_goes_late_and_would_have_started_in_time_went_needlessly() -> None:
    assert _late(_looked_at("overspill_wait=03:59:00", *_THREE, sites=_ONE_CPU)) == (2, 1, 1)
    assert _late(_looked_at("overspill_wait=04:01:00", *_THREE, sites=_ONE_CPU)) == (2, 1, 2)


def test_a_job_whose_outlook_turns_bad_goes_late_and_those_behind_it_move_up() -> None:
    witness = _Turning()
    jobs = [_one(), _one(1), _one(2)]
    result = _looked_at("", *jobs, model=lambda: witness, sites=_ONE_CPU)
    assert (_late(result), witness.gone) == ((1, 1, 0), [(1, 300)])
    assert result.of(Way.POLICY).tally.wait_s == (300 - 1 + 60) + (3600 - 2)


def test_the_shadow_names_late_ones_and_keeps_them() -> None:
    witness = _Turning()
    result = _looked_at("overspill_mode=shadow", _one(), _one(1), model=lambda: witness)
    assert (_late(result), witness.gone) == ((1, 1, 0), [])
    assert result.reasons == {"wait_below_threshold": 1, "shadow_wait_above_threshold": 1}
    assert result.of(Way.POLICY).tally.saved_s == 0


def test_late_ones_are_drawn_to_stay_as_others_are_and_not_asked_again() -> None:
    result = _looked_at("overspill_explore=1", _one(), _one(1), model=_Turning)
    assert (_late(result), result.reasons) == ((0, 0, 0), {"wait_below_threshold": 1, "explore": 1})


@pytest.mark.parametrize("words", ["overspill_deny_users=alice", "overspill_mode=off", "overspill_max_jobs=0"])
def test_a_word_that_keeps_a_job_keeps_it_at_a_late_look(words: str) -> None:
    assert _late(_looked_at(words, _one(), _one(1), model=_Turning)) == (0, 0, 0)


def test_with_recorded_waits_nobody_moves_up_and_the_model_sees_all() -> None:
    witness = _Turning()
    jobs = [replace(job, start_s=_BEGIN_S + 3600, end_s=_BEGIN_S + 7200) for job in (_one(), _one(1))]
    result = _looked_at("", *jobs, model=lambda: witness, sites=_ONE_CPU, is_history=True)
    assert (_late(result), witness.gone) == ((1, 1, 0), [])
    assert result.of(Way.POLICY).tally.wait_s == (300 + 60) + (3600 - 1)


def test_with_late_looks_fewer_wait_too_long_and_who_knows_run_times_errs_least(
    history: list[PastJob], compared: TrialResult
) -> None:
    looked_at = _run(_trial(history, late_every_s=300.0), tuple(Way))
    never, policy, always, oracle = (looked_at.of(way).tally for way in Way)
    assert never == compared.of(Way.NEVER).tally
    assert policy.over_threshold < compared.of(Way.POLICY).tally.over_threshold
    assert 0 < policy.late < policy.diverted
    assert oracle.needless < policy.needless < always.needless
    assert sum(group.late for group in looked_at.by_user.values()) == policy.late


def test_a_threshold_may_be_a_partitions_own() -> None:
    jobs = [_one(number, partition=name, start_s=1_800_000_900.0) for number, name in enumerate(("batch", "long"))]
    words = "overspill_wait=00:10:00,overspill_wait@long=02:00:00"
    policy, _ = parse_policy([f"overspill_from=batch+long,{words}"])
    result = _run(_trial(jobs, policy=policy, is_history=True, warm_up=0.0), tuple(Way))
    assert result.of(Way.ORACLE).tally.diverted == 1
    assert {name: tally.over_threshold for name, tally in result.by_partition.items()} == {"batch": 1, "long": 0}
