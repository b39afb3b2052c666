"""Starting warm: the wait model lives through what happened before it was there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from overspill_sidecar.history import Kind, PastJob, moments
from overspill_sidecar.wait.keys import key_of
from overspill_sidecar.wait.online import OnlineModel
from overspill_sidecar.wait.outlook import Outlook
from overspill_sidecar.wait.waiting import WaitingJob


def replay(model: OnlineModel, jobs: Iterable[PastJob]) -> Iterator[tuple[PastJob, Outlook]]:
    """Let `model` live through `jobs`, and yield what it thinks of each at its submission, before it knows better.

    Jobs that were diverted are not to be among them. The model learns as the iterator is drawn from: for a warm start
    alone, `warm_up` draws all. Jobs that wait or run still stay in the model's queue, where `Following` finds them.
    """
    past = list(jobs)
    attempts = Counter(job.job_id for job in past if job.start_s is not None and job.end_s is not None)
    for moment in moments(past):
        job, at_s = moment.job, moment.at_s
        # Of a job that is not over the key by which it is heard of again; of others one that no attempt has.
        key = key_of(job.job_id, attempts[job.job_id]) if job.end_s is None else f"past {moment.key}"
        match moment.kind:
            case Kind.SUBMITTED:
                waiting = waiting_job(job, key)
                yield job, model.predict(waiting, at_s)
                model.submitted(waiting)
            case Kind.STARTED:
                model.started(key, at_s)
            case Kind.ENDED:
                model.ended(key, at_s)
            case Kind.REMOVED:
                model.removed(key, at_s)


def warm_up(model: OnlineModel, jobs: Iterable[PastJob]) -> int:
    """Let `model` live through `jobs` and return how many there were."""
    return sum(1 for _ in replay(model, jobs))


def waiting_job(job: PastJob, key: int | str) -> WaitingJob:
    """Return a past job as it stood in the queue."""
    return WaitingJob(
        key=key,
        submit_s=job.queued_s,
        cpus=job.cpus,
        time_limit_s=job.time_limit_s,
        user=job.user,
        partition=job.partition,
        account=job.account,
        qos=job.qos,
        nodes=job.nodes,
    )
