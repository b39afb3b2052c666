"""Sending a job back to where its user meant it to run, and asking Slurm to start one again."""

from __future__ import annotations

import asyncio
import time

import structlog

from overspill.errors import NotFoundError, OverspillError, TransientError
from overspill_sidecar.cluster import Job
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.trail import our_part_changed

_log = structlog.get_logger(__name__)

_POLL_S = 1.0
#: Slurm keeps a requeued job COMPLETING for KillWait and some seconds; after this long it is left to its own pace.
_GIVE_UP_S = 600.0


async def send_home(view: ClusterView, job: Job, site: str) -> bool:
    """Requeue the job into its own partitions and mark it as refused by `site`; tell whether it leaves.

    It does not where Slurm is ending it anyway: who cancels a job wants it neither here nor at home.
    Repeatable: what is done already is not done again. Source: on 22.05 a job that is being requeued takes a new
    partition at once, while still COMPLETING, and `--no-requeue` jobs requeue once Requeue is 1; one that is cancelled
    meanwhile takes none ("Job has already finished").

    Raises:
        OverspillError: if Slurm does not do it; where `is_retryable`, calling again may.
    """
    assert job.trail is not None  # noqa: S101 - the caller asked `goes_home`
    if not await requeue(view, job):
        return False
    try:
        # In this order: at home it may start at once, and be over, and then it takes no mark any more.
        await view.update(job.name, AdminComment=marked_as_refused(job, site))
        await view.update(job.name, Partition=job.trail.partition)
    except NotFoundError:
        _log.info("job cancelled on its way home", action="leave_cancelled", **_names(job))
    return True


async def requeue(view: ClusterView, job: Job) -> bool:
    """Have Slurm end this attempt and start another; tell whether this attempt gives way to another.

    It does not where Slurm is ending the job. That, only slurmctld knows for certain, at the moment of the request.

    Raises:
        OverspillError: if Slurm does not do it; where `is_retryable`, calling again may.
    """
    now = await _look(view, job)
    if now.restart_count == job.restart_count and now.has_attempt:
        if not now.can_requeue:
            await view.update(job.name, Requeue="1")
        await view.requeue(job.name)
        now = await _look(view, job)
    return now.restart_count > job.restart_count


async def start_soon(view: ClusterView, job: Job) -> None:
    """Spare a job that went home the two minutes for which Slurm holds back requeued jobs; restore `--no-requeue`.

    Nothing of it ran anywhere, so there is nothing to wait for. Best effort: the job starts in any case.
    """
    give_up_at = time.monotonic() + _GIVE_UP_S
    while time.monotonic() < give_up_at:
        await asyncio.sleep(_POLL_S)
        try:
            now = await _look(view, job)
            if now.state == "PENDING" and now.restart_count == job.restart_count + 1:
                await view.update(job.name, StartTime="now", Requeue="1" if job.can_requeue else "0")
                return
            if now.state != "COMPLETING":
                return
        except TransientError:
            continue
        except NotFoundError:
            return  # cancelled
        except OverspillError as error:
            _log.warning("job waits at home", action="start_soon_failed", reason=error.reason, **_names(job))
            return


async def _look(view: ClusterView, job: Job) -> Job:
    now = await view.job(job.slurm_job_id)
    if now is None:
        raise NotFoundError(f"job {job.name} is gone")
    return now


def _names(job: Job) -> dict[str, int]:
    return {"slurm_job_id": job.slurm_job_id}


def marked_as_refused(job: Job, site: str) -> str:
    """Return the job's admin_comment with `site` among those that the job is not to be sent to again."""
    before = job.trail.refused_by if job.trail else ()
    refused_by = [*(name for name in before if name != site), site]
    return our_part_changed(job.admin_comment, {"refused_by": refused_by}) or job.admin_comment
