"""What the learned wait model is told of a job."""

from __future__ import annotations

from typing import NamedTuple, Self

from overspill_sidecar.wait.model import QueuedJob


class SlurmFacts(NamedTuple):
    """What Slurm alone knows of a job at the moment of the question; None is unknown.

    Attributes:
        priority: as Slurm has it; of a job that it has not seen yet, what its user's last such job began with.
        jobs_ahead: pending jobs of its partition with a higher priority that no limit keeps back.
        planned_wait_s: its whole wait, if it starts when the backfill scheduler has planned.
        planned_harder_s: the wait from now on that is planned for the first of the pending jobs of its partition that
            ask for as much as it, or for more.
        planned_ahead_s: the same of the last of those that have at least its priority.
        starts_jobs: whether the partition starts any now.
        usable_cpus: of the partition's nodes that may start jobs.
        free_cpus: of these, allocated to nobody.
        reserved_cpus: of the usable ones, those that a reservation takes before the job is over by its limit.
        open_cpus: of the free ones, those that no such reservation takes and that are kept for no planned job.
        is_limited: whether a limit of its association or QOS keeps it back whatever is free.
        limit_share: of the tightest of these limits, what is used once it runs.
        limited_cpus: that pending jobs of its partition ask for which a limit keeps back now: they are in nobody's way.
        limited_of_user: pending jobs of its user that a limit keeps back now.
        limited_of_qos: those of its QOS.
    """

    priority: float | None = None
    jobs_ahead: float | None = None
    planned_wait_s: float | None = None
    planned_harder_s: float | None = None
    planned_ahead_s: float | None = None
    starts_jobs: bool | None = None
    usable_cpus: int | None = None
    free_cpus: int | None = None
    reserved_cpus: float | None = None
    open_cpus: float | None = None
    is_limited: bool | None = None
    limit_share: float | None = None
    limited_cpus: int | None = None
    limited_of_user: int | None = None
    limited_of_qos: int | None = None


#: Nothing of it is known.
NO_FACTS = SlurmFacts()


class WaitingJob(NamedTuple):
    """A job as it stands in the queue.

    Attributes:
        key: tells jobs, and attempts of a job, apart.
        submit_s: from when on it waits for nodes and priority, Unix seconds.
        cpus: all of them together.
        time_limit_s: None is unlimited or unknown.
        nodes: that it asks for; None is unknown.
    """

    key: int | str
    submit_s: float
    cpus: int
    time_limit_s: float | None
    user: str
    partition: str
    account: str = ""
    qos: str = ""
    nodes: int | None = None
    facts: SlurmFacts = NO_FACTS

    @classmethod
    def of(cls, job: QueuedJob, key: int | str, submit_s: float, user: str, facts: SlurmFacts) -> Self:
        """Return a job that somebody asks about, or that has come, with what Slurm knows of it."""
        return cls(
            key=key,
            submit_s=submit_s,
            cpus=job.cpus,
            time_limit_s=job.time_limit_s,
            user=user,
            partition=job.partition,
            account=job.account,
            qos=job.qos,
            nodes=job.nodes,
            facts=facts,
        )
