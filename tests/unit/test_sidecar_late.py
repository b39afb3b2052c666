"""Pending jobs that are looked at again: who may go after all, who is called back, and who is left alone."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overspill.errors import UnavailableError, UnrunnableError
from overspill.v1.router_pb2 import DecideRequest, DecideResponse
from overspill_sidecar.cluster import Job, JobRequest
from overspill_sidecar.decision.capacity import Amount
from overspill_sidecar.late import LateLook
from overspill_sidecar.pending.candidates import Outlook
from overspill_sidecar.slurm.queries import parse_trail
from overspill_sidecar.wait import WaitEstimate, WaitGoingOn
from overspill_sidecar.watch import Picture
from tests.unit.late_place import HOUR_S, Place, diverted, slots, waiting
from tests.unit.sidecar_cluster import NOW_S, running

BOTH = "batch,overspill"


def _trail(place: Place, slurm_job_id: int = 1) -> dict[str, Any]:
    return dict(json.loads(place.view.jobs[slurm_job_id].admin_comment)["overspill"])


# Letting go


def test_a_job_whose_outlook_turns_bad_may_start_at_the_site_as_well() -> None:
    place = Place(waiting(admin_comment='{"site":{"ticket":7}}', time_limit_s=86400))
    place.looks()
    assert place.partitions(1) == BOTH
    comment = json.loads(place.view.jobs[1].admin_comment)
    assert comment["site"] == {"ticket": 7}
    trail = comment["overspill"]
    assert (trail["site"], trail["partition"], trail["added_at_s"]) == ("site-a", "batch", NOW_S)
    assert (trail["time_limit_s"], trail["wait_s"] >= HOUR_S) == ("86400", True)
    assert dict(place.router.late_counts()) == {("site-a", "added"): 1}


def test_a_job_that_will_start_soon_at_home_is_left_there() -> None:
    place = Place(waiting())
    place.say(wait="02:00:00")
    place.looks()
    assert place.partitions(1) == "batch"


def test_what_has_passed_counts_and_a_job_that_is_over_its_time_goes_however_soon_it_may_start() -> None:
    place = Place(waiting(submit_time_s=NOW_S - 2 * HOUR_S), waiting(2, submit_time_s=NOW_S - 1800))
    place.say(wait="01:45:00")
    place.looks()
    assert (place.partitions(1), place.partitions(2)) == (BOTH, "batch")


def test_a_wait_that_goes_on_is_never_shorter_than_it_is_already() -> None:
    wait = WaitGoingOn(150, is_upper_bound=True, waited_s=100)
    assert wait.p_exceeds(99) == wait.p_exceeds(100) == 1.0
    assert wait.p_exceeds(200) == WaitEstimate(50, is_upper_bound=True).p_exceeds(100)


def test_a_hold_or_a_dependency_is_no_wait_for_others() -> None:
    released = waiting(1, submit_time_s=NOW_S - 10 * HOUR_S, eligible_time_s=NOW_S - 5)
    place = Place(released)
    place.say(wait="02:00:00")
    place.looks()
    assert place.partitions(1) == "batch"


@pytest.mark.parametrize("reason", ["JobHeldUser", "Dependency", "BeginTime", "JobArrayTaskLimit", "Reservation"])
def test_a_job_that_waits_for_itself_is_not_looked_at(reason: str) -> None:
    place = Place(waiting(reason=reason))
    place.looks()
    assert place.partitions(1) == "batch"


def test_a_job_that_becomes_eligible_is_looked_at() -> None:
    place = Place(waiting(reason="Dependency"))
    place.looks()
    place.view.jobs[1] = replace(place.view.jobs[1], reason="Resources")
    place.looks()
    assert place.partitions(1) == BOTH


@pytest.mark.parametrize(
    "asked",
    [
        {"licenses": "l:1"},
        {"required_nodes": "c1"},
        {"excluded_nodes": "ovs1"},
        {"dependency": "afterok:5"},
        {"burst_buffer": "#BB x"},
        {"container": "/c"},
        {"features": "fast"},
        {"has_script": False},
        {"is_het": True},
        {"is_cron": True},
        {"is_held": True},
        {"is_exclusive": True},
        {"asks_all_memory": True},
        {"odd_options": ("switches",)},
        {"min_nodes": 2},
        {"tres": ("gres:fpga:1",), "tres_scopes": ("node",)},
    ],
)
def test_what_keeps_a_submission_keeps_a_pending_job(asked: dict[str, Any]) -> None:
    place = Place(waiting())
    place.view.requests[1] = JobRequest(**{"num_tasks": 2, "memory_per_cpu_mib": 100, **asked})
    place.looks()
    assert place.partitions(1) == "batch"


@pytest.mark.parametrize(
    "comment",
    [
        '{"overspill":{"option":"never"}}',
        '{"overspill":{"option":"site-z"}}',
        '{"overspill":{"image":"bench"}}',
        '{"overspill":{"stays":"odd_option"}}',
        '{"overspill":7}',
        "see ticket 7",
    ],
)
def test_a_users_wish_and_a_comment_that_is_not_ours_are_respected(comment: str) -> None:
    place = Place(waiting(admin_comment=comment))
    place.looks()
    assert (place.partitions(1), place.view.jobs[1].admin_comment) == ("batch", comment)


def test_a_reservation_keeps_a_pending_job() -> None:
    place = Place(waiting(reservation="r"))
    place.looks()
    assert place.partitions(1) == "batch"


def test_a_record_that_can_be_read_in_two_ways_keeps_the_job() -> None:
    place = Place(waiting())
    place.view.request = _nothing  # type: ignore[method-assign]
    place.looks()
    assert place.partitions(1) == "batch"


async def _nothing(job: Job) -> JobRequest | None:
    return None


def test_a_job_of_another_partition_or_a_hidden_option_or_a_second_attempt_is_not_looked_at() -> None:
    place = Place(
        waiting(1, partitions=("batch", "other")),
        waiting(2, hidden_options=("deadline",)),
        waiting(3, restart_count=1),
    )
    place.looks()
    assert [place.partitions(number) for number in (1, 2, 3)] == ["batch,other", "batch", "batch"]


def test_defaults_of_the_jobs_own_partition_are_pinned() -> None:
    place = Place(waiting(time_limit_s=600))
    batch = replace(place.view.partitions["batch"], default_time_s=600)
    place.view.partitions["batch"] = batch
    seen: dict[str, str] = {}

    async def update(job: str, **fields: str) -> None:
        seen.update(fields, job=job)

    place.view.update = update  # type: ignore[method-assign]
    place.looks()
    assert (seen["TimeLimit"], seen["MinMemoryCPU"]) == ("10", "100")
    assert (seen["Partition"], "MinMemoryNode" in seen) == (BOTH, False)


def test_a_job_that_stayed_by_lot_is_left_at_home_to_measure_by() -> None:
    place = Place()
    place.say(explore="1")
    asyncio.run(place.watch.refresh())
    assert place.decide(num_tasks=2, user_id=2001, time_limit_min=60, partition="batch").reason == "explore"
    now_s = int(time.time())
    place.view.jobs[1] = waiting(submit_time_s=now_s, eligible_time_s=now_s)
    place.say(explore="0")
    place.view.jobs[2] = waiting(2, submit_time_s=now_s - 100, eligible_time_s=now_s - 100)
    place.looks(2)
    assert (place.partitions(1), place.partitions(2)) == ("batch", BOTH)


def test_no_slot_is_given_away_twice() -> None:
    place = Place(*(waiting(number) for number in range(1, 9)))
    place.site.free = slots(4)
    place.looks()
    assert Counter(place.partitions(number) for number in range(1, 9)) == {BOTH: 2, "batch": 6}
    assert place.decide(num_tasks=2).reason == "no_free_slot"


def test_what_a_submission_was_promised_no_pending_job_gets() -> None:
    place = Place(waiting())
    asyncio.run(place.watch.refresh())
    assert place.decide(num_tasks=7).verdict == DecideResponse.VERDICT_DIVERT
    place.looks()
    assert place.partitions(1) == "batch"


def test_submissions_and_pending_jobs_that_are_decided_at_once_never_get_the_same_slot() -> None:
    place = Place(*(waiting(number, cpus=1) for number in range(1, 41)))
    asyncio.run(place.watch.refresh())
    asked = DecideRequest(has_script=True, num_tasks=1, time_limit_min=10, memory_per_cpu_mib=100).SerializeToString()
    given: list[int] = []

    def submit() -> None:
        answers = [DecideResponse.FromString(place.router.decide(asked)) for _ in range(40)]
        given.append(sum(answer.verdict == DecideResponse.VERDICT_DIVERT for answer in answers))

    submitting = [threading.Thread(target=submit) for _ in range(2)]
    for thread in submitting:
        thread.start()
    place.looks()
    for thread in submitting:
        thread.join()
    late = sum(place.partitions(number) == BOTH for number in range(1, 41))
    assert sum(given) + late == 8


def test_nobody_waits_for_an_answer_about_a_pending_job_but_the_look_itself() -> None:
    asked_in: list[threading.Thread] = []

    def outlook_of(_: Picture) -> Outlook:
        def outlook(job: Job, _: str) -> WaitEstimate:
            asked_in.append(threading.current_thread())
            return WaitEstimate(HOUR_S if job.slurm_job_id == 1 else 1, is_upper_bound=True)

        return outlook

    place = Place(waiting(1), diverted(2), outlook=outlook_of)
    place.looks()
    assert (place.partitions(1), place.partitions(2)) == (BOTH, "batch")
    assert asked_in
    assert threading.current_thread() not in asked_in


@pytest.mark.parametrize("what", ["unreachable", "full"])
def test_a_site_that_cannot_start_a_job_now_gets_none(what: str) -> None:
    place = Place(waiting(admin_comment='{"overspill":{"option":"always"}}'))
    if what == "unreachable":
        place.site.is_reachable = False
    else:
        place.site.free = Amount()
    place.looks()
    assert place.partitions(1) == "batch"


def test_the_worst_outlook_comes_first_and_then_the_highest_priority() -> None:
    place = Place(
        waiting(1, priority=1, submit_time_s=NOW_S),
        waiting(2, priority=10, submit_time_s=NOW_S - 2000),
        waiting(3, priority=20, submit_time_s=NOW_S - 2000),
        waiting(4, priority=99, submit_time_s=NOW_S),
    )
    place.say(wait="00:30:00")
    place.site.free = slots(2)
    place.looks()
    assert place.partitions(3) == BOTH
    assert {place.partitions(number) for number in (1, 2, 4)} == {"batch"}


def test_jobs_that_a_limit_would_keep_back_at_a_site_too_take_nobodys_turn() -> None:
    limited = [waiting(number, cpus=1, reason="AssocGrpCpuLimit", priority=10**9) for number in range(1, 31)]
    place = Place(*limited, waiting(99, cpus=1))
    place.looks()
    assert place.partitions(99) == BOTH
    assert {place.partitions(job.slurm_job_id) for job in limited} == {"batch"}


def test_a_limit_of_its_partitions_own_qos_keeps_no_job_from_a_site() -> None:
    place = Place(waiting(1, cpus=1, reason="QOSMaxJobsPerUserLimit"))
    place.view.partitions["batch"] = replace(place.view.partitions["batch"], qos="small")
    place.looks()
    assert place.partitions(1) == BOTH


def test_one_look_changes_a_bounded_number_of_jobs_and_the_next_goes_on() -> None:
    place = Place(*(waiting(number, cpus=1) for number in range(1, 51)))
    asked: list[int] = []
    ask = place.view.request

    async def count(job: Job) -> JobRequest | None:
        asked.append(job.slurm_job_id)
        return await ask(job)

    place.view.request = count  # type: ignore[method-assign]
    place.looks()
    assert len(asked) == 20
    place.looks()
    assert len(set(asked)) == 40
    assert Counter(each.partitions[-1] for each in place.view.jobs.values())["overspill"] == 8


def test_an_array_that_did_not_fit_goes_task_by_task_the_last_ones_first_and_half_of_it_at_a_time() -> None:
    array = waiting(10, array_job_id=10, array_tasks="1-8", tasks=8)
    place = Place(array)
    place.looks()
    by_task = {each.array_task_id: each for each in place.view.jobs.values() if each.array_job_id == 10}
    assert {task: each.partitions[-1] for task, each in by_task.items()} == {
        None: "batch", 8: "overspill", 7: "overspill", 6: "overspill", 5: "overspill",
    }  # fmt: skip
    trails = [json.loads(each.admin_comment)["overspill"]["decision"] for each in by_task.values() if each.trail]
    assert len(set(trails)) == 4
    assert place.view.jobs[10].array_tasks == "1,2,3,4"


def test_an_array_gets_no_more_slots_than_there_are() -> None:
    place = Place(waiting(10, array_job_id=10, array_tasks="1-8", tasks=8))
    place.site.free = slots(4)
    place.looks(3)
    assert Counter(each.partitions[-1] for each in place.view.jobs.values() if each.array_job_id == 10) == {
        "batch": 1, "overspill": 2,
    }  # fmt: skip


# Calling back


def test_a_job_that_could_start_at_home_soon_is_called_back() -> None:
    place = Place(diverted(admin_comment=_diverted_comment(ticket=7)))
    place.empty_batch()
    place.looks()
    assert place.partitions(1) == "batch"
    comment = json.loads(place.view.jobs[1].admin_comment)
    assert comment["site"] == {"ticket": 7}
    assert comment["overspill"]["recalled_at_s"] == NOW_S
    assert "site" not in comment["overspill"]
    assert dict(place.router.late_counts()) == {("site-a", "recalled"): 1}


def test_a_recall_is_recorded_with_the_wait_and_the_limit_of_the_partition_where_the_job_is_best_off() -> None:
    place = Place(diverted(admin_comment=_diverted_comment()), outlook=_constant(0.2))
    place.looks()
    (recalled,) = place.records()
    assert recalled.wait_limit_s == 60
    assert recalled.exceeds_probability == pytest.approx(0.2)


def test_a_job_whose_user_insists_is_not_called_back() -> None:
    comment = json.loads(_diverted_comment())
    comment["overspill"]["option"] = "always"
    place = Place(diverted(admin_comment=json.dumps(comment)))
    place.empty_batch()
    place.looks()
    assert place.partitions(1) == "batch,overspill"


def _diverted_comment(**site: Any) -> str:
    ours = {"decision": "d-1", "site": "site-a", "partition": "batch"}
    return json.dumps({"site": site, "overspill": ours}, separators=(",", ":"))


def _constant(p: float) -> Any:
    """Return an outlook by which jobs wait longer than a minute with this probability."""
    median_s = 60.0 * (p / (1 - p)) ** 0.5

    def of(_: Picture) -> Outlook:
        return lambda _job, _partition: WaitEstimate(median_s, is_upper_bound=True)

    return of


@pytest.mark.parametrize(
    ("p", "at_home", "at_both"), [(0.2, "batch", "batch"), (0.4, "batch", BOTH), (0.6, BOTH, BOTH)]
)
def test_between_bad_and_good_nothing_changes(p: float, at_home: str, at_both: str) -> None:
    place = Place(waiting(1), diverted(2), outlook=_constant(p))
    place.looks()
    assert (place.partitions(1), place.partitions(2)) == (at_home, at_both)


@pytest.mark.parametrize("what", ["unreachable", "full"])
def test_a_site_that_is_away_or_full_is_no_reason_to_call_a_job_back(what: str) -> None:
    place = Place(diverted())
    place.site.is_reachable, place.site.free = what != "unreachable", Amount()
    place.looks()
    assert place.partitions(1) == BOTH


def test_with_mode_off_pending_jobs_are_called_back_and_none_goes() -> None:
    place = Place(diverted(1), waiting(2))
    place.say(mode="off")
    place.looks()
    assert (place.partitions(1), place.partitions(2)) == ("batch", "batch")
    assert place.records()[0].reason == "recalled_mode_off"


def test_with_mode_always_every_job_goes_for_which_there_is_a_slot_and_none_comes_back() -> None:
    place = Place(waiting(1), diverted(2), outlook=_constant(0.01))
    place.say(mode="always")
    place.looks()
    assert (place.partitions(1), place.partitions(2)) == (BOTH, BOTH)


def test_what_waits_together_of_an_array_is_called_back_together() -> None:
    place = Place(diverted(10, array_job_id=10, array_tasks="3-6", tasks=4))
    place.empty_batch()
    place.looks()
    assert place.partitions(10) == "batch"


def test_a_job_that_the_user_sent_to_a_site_alone_is_not_called_back() -> None:
    place = Place(diverted(partitions=("overspill",)))
    place.empty_batch()
    place.looks()
    assert place.partitions(1) == "overspill"


# Hysteresis


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 2400)), min_size=10, max_size=40))
def test_never_more_than_one_change_each_way_in_an_hour_whatever_the_outlook_does(
    course: list[tuple[bool, int]],
) -> None:
    chance = {"bad": True}

    def outlook(_: Picture) -> Outlook:
        return lambda _job, _partition: WaitEstimate(HOUR_S if chance["bad"] else 0.0, is_upper_bound=True)

    place = Place(waiting(1), diverted(2), outlook=outlook)
    changes: dict[tuple[int, str], list[float]] = {(2, BOTH): [NOW_S]}

    async def live() -> None:
        for number, (is_bad, after_s) in enumerate(course):
            if number == len(course) // 2:
                place.restart()
            chance["bad"] = is_bad
            before = {each: place.partitions(each) for each in (1, 2)}
            await place.look(after_s)
            for each, partitions in before.items():
                if place.partitions(each) != partitions:
                    changes.setdefault((each, place.partitions(each)), []).append(place.now_s)

    asyncio.run(live())
    for moments in changes.values():
        assert all(later - earlier >= HOUR_S for earlier, later in itertools.pairwise(moments))


def test_a_change_is_not_made_again_on_an_older_picture_of_the_queue() -> None:
    place = Place(waiting(), outlook=_constant(0.9))

    async def twice() -> None:
        await place.look()
        picture = place.watch.picture
        assert picture is not None
        place.view.jobs[1] = picture.snapshot.jobs[-1]
        await place.late.step(picture)

    asyncio.run(twice())
    assert place.partitions(1) == "batch"
    assert dict(place.router.late_counts()) == {("site-a", "added"): 1}


# Others' hands


@pytest.mark.parametrize(
    "fields",
    [
        {"Partition": "batch"},
        {"Partition": "long"},
        {"Partition": "batch,long,overspill"},
        {"TimeLimit": "7"},
        {"AdminComment": ""},
        {"AdminComment": '{"overspill":{"decision":"d-1","site":"site-a","partition":"long"}}'},
    ],
)
def test_what_a_user_or_an_admin_has_changed_after_us_is_left_alone_for_good(fields: dict[str, str]) -> None:
    chance = {"bad": True}

    def outlook(_: Picture) -> Outlook:
        return lambda _job, _partition: WaitEstimate(HOUR_S if chance["bad"] else 0.0, is_upper_bound=True)

    place = Place(waiting(), outlook=outlook)
    place.looks(2)
    assert place.partitions(1) == BOTH
    place.change(1, **fields)
    theirs = place.view.jobs[1]
    for is_bad in (False, True, False):
        chance["bad"] = is_bad
        asyncio.run(place.look(2 * HOUR_S))
        assert place.view.jobs[1] == theirs


def test_a_partition_that_a_user_took_off_stays_off_after_a_restart() -> None:
    place = Place(waiting())
    place.looks(2)
    place.change(1, Partition="batch")
    place.restart()
    asyncio.run(place.look(2 * HOUR_S))
    assert place.partitions(1) == "batch"


def test_a_job_that_names_an_overspill_partition_itself_is_its_users() -> None:
    place = Place(waiting(1, partitions=("batch", "overspill")), waiting(2, partitions=("overspill",)))
    place.empty_batch()
    place.looks()
    assert (place.partitions(1), place.partitions(2)) == (BOTH, "overspill")


def test_a_site_that_refused_a_job_does_not_get_it_again() -> None:
    comment = '{"overspill":{"decision":"d-1","site":"site-a","partition":"batch","refused_by":["site-a"]}}'
    at_home = waiting(submit_time_s=NOW_S - 2 * HOUR_S, admin_comment=comment, trail=parse_trail(comment))
    place = Place(at_home)
    place.looks()
    assert place.partitions(1) == "batch"


# Shadow, refusals and silence


def test_in_mode_shadow_what_would_be_done_is_recorded_once_and_nothing_is_changed() -> None:
    place = Place(waiting(1), diverted(2, cpus=1), outlook=_by_id({1: 0.9, 2: 0.1}))
    place.say(mode="shadow")
    for _ in range(3):
        asyncio.run(place.look(10))
    assert (place.partitions(1), place.partitions(2)) == ("batch", BOTH)
    assert place.view.jobs[1].admin_comment == ""
    assert dict(place.router.late_counts()) == {("site-a", "shadow_added"): 1, ("site-a", "shadow_recalled"): 1}
    said = {(record.late_job, record.reason, record.would_be) for record in place.records()}
    assert said == {("1", "shadow_wait_above_threshold", "DIVERT"), ("2", "shadow_recalled_needless", "")}
    assert place.router.promised() == {}


def _by_id(chances: dict[int, float]) -> Any:
    def of(picture: Picture) -> Outlook:
        return lambda job, partition: _constant(chances[job.slurm_job_id])(picture)(job, partition)

    return of


def test_a_change_that_slurm_refuses_is_not_tried_again_and_gives_its_slot_back() -> None:
    place = Place(waiting(1))
    tries: list[str] = []

    async def refuse(job: str, **_: str) -> None:
        tries.append(job)
        raise UnrunnableError("Multiple partition job request not supported")

    place.view.update = refuse  # type: ignore[method-assign]
    place.looks(3)
    assert tries == ["1"]
    assert sum(amount.cpus for amount in place.router.promised().values()) == 0


@pytest.mark.parametrize("is_made", [True, False])
def test_a_change_without_an_answer_is_noticed_when_it_was_made_and_tried_again_when_not(*, is_made: bool) -> None:
    place = Place(waiting(1))
    update = place.view.update

    async def lose(job: str, **fields: str) -> None:
        if is_made:
            await update(job, **fields)
        raise UnavailableError("Socket timed out")

    place.view.update = lose  # type: ignore[method-assign]
    with pytest.raises(UnavailableError):
        place.looks()
    assert place.router.late_counts() == []
    assert place.router.promised()["site-a"].cpus == 2
    place.view.update = update  # type: ignore[method-assign]
    place.looks()
    assert place.partitions(1) == BOTH
    assert dict(place.router.late_counts()) == {("site-a", "added"): 1}


def test_the_story_of_a_job_can_be_followed_from_its_last_change_to_the_first() -> None:
    chance = {"bad": True}

    def outlook(_: Picture) -> Outlook:
        return lambda _job, _partition: WaitEstimate(HOUR_S if chance["bad"] else 0.0, is_upper_bound=True)

    place = Place(waiting(), outlook=outlook)
    for is_bad in (True, False, True):
        chance["bad"] = is_bad
        asyncio.run(place.look(2 * HOUR_S))
    by_id = {record.decision_id: record for record in place.records()}
    record = by_id[_trail(place)["decision"]]
    story = []
    while record.decision_id:
        story.append((record.late_change, record.late_job, record.reason))
        record = by_id.get(record.after_decision_id, type(record)())
    assert story == [
        ("added", "1", "wait_above_threshold"),
        ("recalled", "1", "recalled_needless"),
        ("added", "1", "wait_above_threshold"),
    ]


def test_running_jobs_are_never_touched() -> None:
    place = Place(running(1, "ovs1", partitions=("overspill",), trail=diverted().trail))
    before: dict[int, Job] = dict(place.view.jobs)
    place.say(mode="off")
    place.looks()
    assert place.view.jobs == before


@pytest.mark.parametrize(("acting", "goes"), [("", True), ("ctl1", True), ("ctl1.example", True), ("ctl2", False)])
def test_of_several_routers_only_that_of_the_acting_controller_changes_jobs(acting: str, *, goes: bool) -> None:
    place = Place(waiting())
    place.view.config = replace(place.view.config, acting_controller=acting)
    place.late = LateLook(place.watch, place.view, [place.site], place.router, 10, host="ctl1.cluster")
    place.looks()
    assert (place.partitions(1) == BOTH) == goes
