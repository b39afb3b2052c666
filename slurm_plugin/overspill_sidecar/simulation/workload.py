"""The jobs of a history as a simulation plays them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from overspill_sidecar.history import PastJob
from overspill_sidecar.simulation.pool import Task

#: The limit that a job without one is planned with, unless it runs longer.
_UNKNOWN_LIMIT_S = 86400.0
#: Slurm's and the logs' times are whole seconds: what ended in the second of its start ran for a part of it.
_SHORTEST_RUN_S = 1.0


@dataclass(frozen=True, slots=True)
class ReplayedJob:
    """A job that ran. `key` is its place in the order of time, which is when each began to wait."""

    key: int
    past: PastJob
    at_s: float
    run_s: float
    recorded_wait_s: float

    @property
    def task(self) -> Task:
        """The job in a pool. Slurm plans with limits; a job that ran on beyond its own is planned with what it took."""
        limit_s = self.past.time_limit_s
        planned_s = _UNKNOWN_LIMIT_S if limit_s is None else float(limit_s)
        return Task(self.key, self.past.cpus, self.run_s, max(planned_s, self.run_s))


@dataclass(frozen=True, slots=True)
class Workload:
    """What is played, and how many jobs of the history are not.

    Attributes:
        jobs: those that ran, in order of time; `jobs[n].key` is n.
        never_ran: left the queue without a start.
        waiting: had not started when the history was written.
        too_large: ask for more CPUs than their part of the cluster is said to have.
    """

    jobs: tuple[ReplayedJob, ...]
    never_ran: int
    waiting: int
    too_large: int = 0

    @property
    def start_s(self) -> float:
        return self.jobs[0].at_s

    @property
    def end_s(self) -> float:
        """When the last job began to wait."""
        return self.jobs[-1].at_s

    @property
    def partitions(self) -> tuple[str, ...]:
        return tuple(sorted({job.past.partition for job in self.jobs}))

    @property
    def tells_nodes(self) -> bool:
        return any(job.past.nodes is not None for job in self.jobs)

    def without(self, keys: Collection[int]) -> Workload:
        """Return the workload without these jobs, which are too large for it."""
        kept = (job for job in self.jobs if job.key not in keys)
        jobs = tuple(
            ReplayedJob(key, job.past, job.at_s, job.run_s, job.recorded_wait_s) for key, job in enumerate(kept)
        )
        return Workload(jobs, self.never_ran, self.waiting, self.too_large + len(self.jobs) - len(jobs))


def workload_of(history: Iterable[PastJob]) -> Workload:
    """Return what can be played of a history. A job that still ran when it was written ran to the last time in it."""
    past = list(history)
    last_s = max(
        (at_s for job in past for at_s in (job.submit_s, job.start_s, job.end_s) if at_s is not None), default=0
    )
    ran = sorted((job for job in past if job.start_s is not None), key=lambda job: (job.queued_s, job.job_id))
    jobs = tuple(_replayed(key, job, last_s) for key, job in enumerate(ran))
    waiting = sum(job.start_s is None and job.end_s is None for job in past)
    return Workload(jobs, len(past) - len(jobs) - waiting, waiting)


def peak_cpus(jobs: Iterable[ReplayedJob]) -> int:
    """Return the most CPUs that `jobs` had at one time, by the history: no cluster is smaller."""
    changes = [
        (at_s, cpus)
        for job in jobs
        for start_s in [job.at_s + job.recorded_wait_s]
        for at_s, cpus in ((start_s, job.past.cpus), (start_s + job.run_s, -job.past.cpus))
    ]
    busy = peak = 0
    for _, cpus in sorted(changes):
        busy += cpus
        peak = max(peak, busy)
    return peak


def _replayed(key: int, past: PastJob, last_s: float) -> ReplayedJob:
    start_s = past.queued_s + (past.wait_s or 0.0)
    # What still runs outlasts all that the history tells of.
    end_s = last_s + _SHORTEST_RUN_S if past.end_s is None else past.end_s
    return ReplayedJob(key, past, past.queued_s, max(_SHORTEST_RUN_S, end_s - start_s), past.wait_s or 0.0)
