"""What a job at the schedd says of the run that it is. Pure.

A job is matched at most once: its requirements hold only until a shadow is started for it. From then on it either runs
to its end or never runs again, so that nothing the schedd does by itself can start a run twice.
"""

from __future__ import annotations

from typing import assert_never

from overspill.states import Outcome
from overspill_agent.backends.htcondor import holds
from overspill_agent.backends.htcondor.ads import JobAd, JobStatus
from overspill_agent.backends.htcondor.site import Limits
from overspill_agent.runs import Seen, Sighting, Verdict

#: Begins the reasons of this agent's own removals.
OWN_REASON = "overspill:"
#: VacateReasonCodes of starts that came to nothing: no process of the job has run. Source of these and the next:
#: https://htcondor.readthedocs.io, "Job ClassAd Attributes", VacateReasonCode.
_NEVER_STARTED = frozenset({1003, 1006})
#: ShadowException, ReconnectFailed, StartdException: nobody was there to see the end.
_UNSEEN = frozenset({1002, 1008, 1012})
#: Exit codes by which a shell, tini and docker say that there is no such program, or none that can be executed.
_NO_PROGRAM = frozenset({126, 127})


def sighting_of(job: JobAd, limits: Limits) -> Sighting:
    """Return what is left of the run's attempt."""
    verdict: Verdict | None = None
    match job.status:
        case JobStatus.RUNNING | JobStatus.TRANSFERRING_OUTPUT | JobStatus.SUSPENDED:
            seen = Seen.LOST if job.is_disconnected else Seen.ALIVE
        case JobStatus.IDLE:
            seen, verdict = _idle(job, limits)
        case JobStatus.HELD:
            seen, verdict = _held(job, limits)
        case JobStatus.COMPLETED:
            seen, verdict = Seen.GONE, _verdict_on_end(job)
        case JobStatus.REMOVED:
            seen, verdict = _removed(job, limits), _verdict_on_removal(job)
        case _:
            assert_never(job.status)
    return Sighting(seen, verdict, remote_id=job.condor_job_id, machine=job.slot)


def is_orphan(job: JobAd) -> bool:
    """Tell whether a submission was broken off before the job had its files: it can never run, and may be repeated."""
    return job.hold is not None and job.hold.code == holds.SPOOLING and not job.is_staged


def can_be_repeated(job: JobAd) -> bool:
    """Tell whether nothing of the attempt has ever run or can, so that a new job may take its place."""
    return is_orphan(job) or (job.status is JobStatus.IDLE and _came_to_nothing(job))


def is_settled(job: JobAd) -> bool:
    """Tell whether nothing about the job will change unless somebody does something about it."""
    return job.status is JobStatus.COMPLETED or (job.status is JobStatus.REMOVED and not job.is_hosted)


def _idle(job: JobAd, limits: Limits) -> tuple[Seen, Verdict | None]:
    if _came_to_nothing(job):
        return Seen.NOTHING, None
    if job.starts:
        return _left(job), Verdict(Outcome.NODE_FAIL, f"the machine gave the job up{_why_it_left(job)}")
    if job.age_s <= limits.start_within_s:
        return Seen.ALIVE, None
    sentence = f"no machine of the site took the job within {limits.start_within_s} s"
    return Seen.ALIVE, Verdict(Outcome.REJECTED, sentence)


def _why_it_left(job: JobAd) -> str:
    """Return the end of a sentence: HTCondor's reason, or its number where it has none, or nothing."""
    if job.vacate_reason:
        return f": {job.vacate_reason}"
    return f": VacateReasonCode {job.vacate_code}" if job.vacate_code else ""


def _came_to_nothing(job: JobAd) -> bool:
    """Tell whether the job's one chance was used up by a start that failed before there was a process."""
    return job.starts > 0 and job.vacate_code in _NEVER_STARTED and not job.is_executing


def _held(job: JobAd, limits: Limits) -> tuple[Seen, Verdict | None]:
    if is_orphan(job):
        return Seen.NOTHING, None
    hold = job.hold
    is_waiting = hold is None or hold.code == holds.SPOOLING or hold.code in holds.BY_HAND
    if is_waiting and not job.starts and job.age_s <= limits.held_within_s:
        return Seen.ALIVE, None
    verdict = None if hold is None else holds.verdict_of(hold, is_executing=job.is_executing)
    return (_left(job) if job.starts else Seen.ALIVE), verdict


def _removed(job: JobAd, limits: Limits) -> Seen:
    if job.is_hosted and not job.is_disconnected:
        return Seen.ALIVE if job.age_s <= limits.removal_s else Seen.LOST
    left = _left(job)
    is_fenced = job.remove_reason.startswith(OWN_REASON) and job.age_s > limits.fence_s
    return Seen.GONE if left is Seen.LOST and is_fenced else left


def _left(job: JobAd) -> Seen:
    """Return what is left of a job that the schedd has taken from its machine.

    Only a starter that was there until the end tells a VacateReasonCode and leaves no trace of a broken connection. An
    execution host that was not heard of may go on with the job.
    """
    if job.is_hosted:
        return Seen.LOST if job.is_disconnected else Seen.ALIVE
    is_confirmed = job.vacate_code is not None and job.vacate_code not in _UNSEEN and not job.is_disconnected
    return Seen.GONE if is_confirmed or not job.starts else Seen.LOST


def _verdict_on_removal(job: JobAd) -> Verdict | None:
    """Return why somebody has removed the job, None if this agent has.

    Its own user's condor_rm is a cancellation; anybody else's is the site's business, and the job can run elsewhere.
    """
    reason = job.remove_reason
    if reason.startswith(OWN_REASON):
        return None
    details = f": {reason}" if reason else ""
    if job.owner and f"by user {job.owner}" in reason:
        return Verdict(Outcome.CANCELLED, f"its user removed the job at the access point{details}")
    outcome = Outcome.NODE_FAIL if job.is_executing else Outcome.REJECTED
    return Verdict(outcome, f"the site's operator removed the job{details}")


def _verdict_on_end(job: JobAd) -> Verdict | None:
    """Return what is to be thought of a runner that ended without a word; one that ended well has had its word."""
    if job.exit_code == 0:
        return None
    if job.exit_code in _NO_PROGRAM:
        return Verdict(Outcome.REJECTED, "the machine or the image has no Python where the site's configuration says")
    how = f"with code {job.exit_code}" if job.exit_code is not None else f"by signal {job.exit_signal}"
    return Verdict(Outcome.NODE_FAIL, f"the job's runner ended {how} without a word about the script")
