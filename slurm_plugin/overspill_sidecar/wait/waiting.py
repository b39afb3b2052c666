"""What the learned wait model is told of a job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlurmFacts:
    """What Slurm alone knows of a job at the moment of the question; None is unknown.

    Attributes:
        priority: as Slurm has it.
        jobs_ahead: pending jobs of its partition with a higher priority.
        planned_start_in_s: seconds until the start that the backfill scheduler has planned.
        usable_cpus: of the partition's nodes that may start jobs.
        free_cpus: of these, allocated to nobody.
    """

    priority: float | None = None
    jobs_ahead: int | None = None
    planned_start_in_s: float | None = None
    usable_cpus: int | None = None
    free_cpus: int | None = None


#: Nothing of it is known.
NO_FACTS = SlurmFacts()


@dataclass(frozen=True, slots=True)
class WaitingJob:
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
