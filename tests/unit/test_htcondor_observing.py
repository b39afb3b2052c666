"""What jobs at the schedd say of runs: alive, lost or gone, and how they ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from overspill.states import Outcome
from overspill_agent.backends.htcondor.ads import Hold, JobAd, JobStatus, Value, job_ad
from overspill_agent.backends.htcondor.observing import can_be_repeated, is_orphan, is_settled, sighting_of
from overspill_agent.backends.htcondor.site import Limits
from overspill_agent.runs import Seen, Verdict

LIMITS = Limits(start_within_s=100, held_within_s=1000, removal_s=60)
WAITING = JobAd(condor_job_id="7.0", run_id="r", attempt=1, owner="alice", status=JobStatus.IDLE)
RUNNING = replace(
    WAITING, status=JobStatus.RUNNING, starts=1, is_hosted=True, is_executing=True, slot="slot1@ep1", age_s=9
)
#: As the schedd has a job whose starter was there until the end.
LEFT = replace(RUNNING, is_hosted=False, vacate_code=0)
#: As 23.9.6 has a job whose schedd was killed, and whose first shadow, left alive, ended it once the second had it.
ENDED_BY_ITS_FIRST_SHADOW: dict[str, Value] = {
    "ClusterId": 4,
    "ProcId": 0,
    "OverspillRun": "r",
    "OverspillAttempt": 1,
    "JobStatus": 1,
    "NumShadowStarts": 2,
    "CurrentHosts": 0,
    "LastRemoteHost": "slot1_1@ep2",
    "JobCurrentStartExecutingDate": 1795315617,
    "ExitBySignal": True,
    "ExitSignal": 9,
    "VacateReason": "",
    "VacateReasonCode": 1005,
}


def seen(job: JobAd) -> Seen:
    return sighting_of(job, LIMITS).seen


def outcome(job: JobAd) -> Outcome | None:
    verdict = sighting_of(job, LIMITS).verdict
    return verdict.outcome if verdict else None


def held(code: int, job: JobAd = WAITING, age_s: int = 0) -> JobAd:
    return replace(job, status=JobStatus.HELD, hold=Hold(code, reason="why"), age_s=age_s)


def removed(job: JobAd, reason: str) -> JobAd:
    return replace(job, status=JobStatus.REMOVED, remove_reason=reason)


def test_a_job_that_waits_for_a_machine_is_alive_and_has_no_verdict() -> None:
    assert (seen(WAITING), outcome(WAITING)) == (Seen.ALIVE, None)


def test_a_job_that_no_machine_takes_goes_home_after_a_while() -> None:
    late = replace(WAITING, age_s=101)
    assert (seen(late), outcome(late)) == (Seen.ALIVE, Outcome.REJECTED)


def test_a_running_job_is_alive_and_told_with_its_place() -> None:
    sighting = sighting_of(RUNNING, LIMITS)
    assert (sighting.seen, sighting.verdict) == (Seen.ALIVE, None)
    assert (sighting.remote_id, sighting.machine) == ("7.0", "slot1@ep1")


@pytest.mark.parametrize("status", [JobStatus.SUSPENDED, JobStatus.TRANSFERRING_OUTPUT])
def test_a_job_that_stands_or_hands_over_its_output_is_alive(status: JobStatus) -> None:
    assert seen(replace(RUNNING, status=status)) is Seen.ALIVE


def test_a_job_whose_machine_does_not_answer_its_shadow_is_lost() -> None:
    job = replace(RUNNING, is_disconnected=True)
    assert (seen(job), outcome(job)) == (Seen.LOST, None)


def test_a_job_that_its_machine_gave_up_is_gone_and_the_node_has_failed() -> None:
    job = replace(LEFT, status=JobStatus.IDLE, vacate_reason="preempted")
    assert (seen(job), outcome(job)) == (Seen.GONE, Outcome.NODE_FAIL)


def test_a_job_that_was_given_up_without_a_reason_is_told_with_htcondors_number_for_it() -> None:
    sighting = sighting_of(job_ad(ENDED_BY_ITS_FIRST_SHADOW), LIMITS)
    assert sighting.seen is Seen.GONE
    assert sighting.verdict == Verdict(Outcome.NODE_FAIL, "the machine gave the job up: VacateReasonCode 1005")


def test_a_job_that_was_given_up_because_its_machine_did_not_answer_is_lost_not_gone() -> None:
    job = replace(LEFT, status=JobStatus.IDLE, is_disconnected=True, vacate_code=1008)
    assert (seen(job), outcome(job)) == (Seen.LOST, Outcome.NODE_FAIL)


def test_a_job_that_left_its_machine_without_a_word_of_the_starters_is_lost() -> None:
    assert seen(replace(LEFT, status=JobStatus.IDLE, vacate_code=None)) is Seen.LOST


@pytest.mark.parametrize("code", [1003, 1006])
def test_a_job_whose_start_failed_before_there_was_a_process_was_never_started_and_may_be_repeated(code: int) -> None:
    job = replace(LEFT, status=JobStatus.IDLE, is_executing=False, vacate_code=code)
    assert (seen(job), outcome(job)) == (Seen.NOTHING, None)
    assert can_be_repeated(job)
    assert not can_be_repeated(replace(job, is_executing=True))
    assert not can_be_repeated(WAITING)


@pytest.mark.parametrize("code", [1002, 1008, 1012])
def test_a_job_whose_end_nobody_saw_is_lost(code: int) -> None:
    assert seen(replace(LEFT, status=JobStatus.IDLE, vacate_code=code)) is Seen.LOST


def test_a_lost_job_that_this_agent_has_removed_is_gone_once_no_runner_of_it_can_live() -> None:
    lost = removed(replace(LEFT, is_disconnected=True), "overspill: the run is to stop")
    assert seen(replace(lost, age_s=100)) is Seen.LOST
    assert seen(replace(lost, age_s=101)) is Seen.GONE
    assert seen(replace(lost, age_s=101, remove_reason="via condor_rm (by user root)")) is Seen.LOST


def test_a_job_held_by_hand_before_it_started_waits_and_starts_after_its_release() -> None:
    assert (seen(held(1)), outcome(held(1))) == (Seen.ALIVE, None)


def test_a_job_held_by_hand_for_too_long_goes_home() -> None:
    job = held(1, age_s=1001)
    assert (seen(job), outcome(job)) == (Seen.ALIVE, Outcome.REJECTED)


def test_a_job_held_by_hand_while_it_ran_is_over() -> None:
    job = held(1, LEFT)
    assert (seen(job), outcome(job)) == (Seen.GONE, Outcome.NODE_FAIL)


def test_a_job_that_is_being_killed_because_it_was_held_is_alive_until_it_is_dead() -> None:
    assert seen(held(34, RUNNING)) is Seen.ALIVE
    assert outcome(held(34, RUNNING)) is Outcome.OUT_OF_MEMORY


def test_a_job_whose_files_are_on_their_way_is_alive() -> None:
    assert seen(held(16)) is Seen.ALIVE
    assert not is_orphan(held(16))


def test_a_job_whose_files_will_never_come_was_never_started() -> None:
    job = replace(held(16), is_staged=False)
    assert is_orphan(job)
    assert (seen(job), outcome(job)) == (Seen.NOTHING, None)


def test_a_job_held_for_an_error_before_anything_ran_is_to_be_removed_and_goes_home() -> None:
    assert (seen(held(26)), outcome(held(26))) == (Seen.ALIVE, Outcome.REJECTED)


def test_a_job_that_ended_well_is_gone_and_its_runner_has_the_word() -> None:
    job = replace(LEFT, status=JobStatus.COMPLETED, exit_code=0)
    assert (seen(job), outcome(job)) == (Seen.GONE, None)
    assert is_settled(job)


@pytest.mark.parametrize("code", [126, 127])
def test_a_machine_or_an_image_without_python_sends_the_job_home(code: int) -> None:
    assert outcome(replace(LEFT, status=JobStatus.COMPLETED, exit_code=code)) is Outcome.REJECTED


def test_a_runner_that_died_has_failed_the_node_unless_it_has_said_how_the_script_ended() -> None:
    for job in (replace(LEFT, exit_code=1), replace(LEFT, exit_signal=9)):
        assert outcome(replace(job, status=JobStatus.COMPLETED)) is Outcome.NODE_FAIL


def test_a_removal_is_over_when_no_shadow_is_left() -> None:
    assert seen(removed(RUNNING, "overspill: the run is to stop")) is Seen.ALIVE
    assert seen(removed(LEFT, "overspill: the run is to stop")) is Seen.GONE
    assert is_settled(removed(LEFT, ""))
    assert not is_settled(removed(RUNNING, ""))


def test_a_removal_that_the_machine_does_not_confirm_leaves_the_job_lost() -> None:
    assert seen(replace(removed(RUNNING, ""), age_s=61)) is Seen.LOST
    assert seen(removed(replace(LEFT, vacate_code=None), "")) is Seen.LOST
    assert seen(removed(replace(LEFT, is_disconnected=True), "")) is Seen.LOST


def test_a_removal_before_the_start_leaves_nothing_behind() -> None:
    assert seen(removed(WAITING, "via condor_rm")) is Seen.GONE


@pytest.mark.parametrize(
    ("job", "reason", "expected"),
    [
        (LEFT, "overspill: the run is to stop (by user agent)", None),
        (LEFT, "via condor_rm (by user alice)", Outcome.CANCELLED),
        (WAITING, "via condor_rm (by user alice)", Outcome.CANCELLED),
        (LEFT, "via condor_rm (by user root)", Outcome.NODE_FAIL),
        (WAITING, "via condor_rm (by user root)", Outcome.REJECTED),
    ],
)
def test_who_removed_a_job_decides_how_its_run_ends(job: JobAd, reason: str, expected: Outcome | None) -> None:
    job = replace(job, is_executing=job is LEFT)
    assert outcome(removed(job, reason)) is expected
