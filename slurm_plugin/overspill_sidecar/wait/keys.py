"""By which keys the wait model knows Slurm's jobs: pending tasks of an array share a record, not a key."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

from overspill_sidecar.cluster import Job

#: Of an array's pending tasks so many are counted one by one; those behind them wait for these.
_MOST_TASKS = 64


class Keys:
    """Gives each attempt of a job or task a key that it keeps from its submission to its end."""

    def __init__(self) -> None:
        #: Of each record that stands for pending tasks, their keys. Tasks are alike: any may stand for any.
        self._tasks: dict[int, list[str]] = {}
        self._made = 0
        #: Keys of started tasks, by what they would be called if nobody had seen them pending.
        self._started: dict[str, str] = {}

    def of_active(self, job: Job) -> str:
        """Return the key of a job that is not pending: a task has that of one of its array's pending ones."""
        own = _own_key(job)
        if job.array_task_id is None:
            return own
        if own not in self._started:
            waiting = self._tasks.get(job.array_job_id)
            self._started[own] = waiting.pop(0) if waiting else own
        return self._started[own]

    def of_pending(self, job: Job) -> list[str]:
        """Return a key for each task that the record stands for, up to a point. To be asked after all active jobs."""
        if job.all_tasks == 1 and job.slurm_job_id not in self._tasks:
            return [_own_key(job)]
        keys = self._tasks.setdefault(job.slurm_job_id, [])
        while len(keys) < min(job.tasks, _MOST_TASKS):
            self._made += 1
            keys.append(f"{job.slurm_job_id}.{job.restart_count}[{self._made}]")
        return list(islice(keys, job.tasks))

    def forget_all_but(self, jobs: Collection[Job]) -> None:
        """Forget tasks and arrays that are not among `jobs`, so that what is kept is bounded by what there is."""
        pending = {job.slurm_job_id for job in jobs if job.is_pending}
        active = {_own_key(job) for job in jobs if not job.is_pending}
        self._tasks = {number: keys for number, keys in self._tasks.items() if number in pending}
        self._started = {own: key for own, key in self._started.items() if own in active}


def key_of(slurm_job_id: int | str, restart_count: int) -> str:
    """Return the key of an attempt of a job that stands alone."""
    return f"{slurm_job_id}.{restart_count}"


def _own_key(job: Job) -> str:
    return key_of(job.slurm_job_id, job.restart_count)
