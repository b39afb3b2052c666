"""By which keys the wait model knows Slurm's jobs: pending tasks of an array share a record, not a key."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import islice

from overspill_sidecar.cluster import Job

#: Of an array's pending tasks so many are counted one by one; those behind them wait for these.
_MOST_TASKS = 64
#: A key of one of several tasks that wait together: id of their record, its restarts, and a number.
_TASK = re.compile(r"(\d+)\.\d+\[(\d+)\]")


class Keys:
    """Gives each attempt of a job or task a key for while it waits, and one for while it runs: mostly the same one."""

    def __init__(self, pending: Iterable[int | str] = ()) -> None:
        """Take up the keys that a model has given to pending jobs already, in the order of their submission."""
        #: Of each record that stands for pending tasks, their keys. Tasks are alike: any may stand for any.
        self._tasks: dict[int, list[str]] = {}
        self._made = 0
        for match in filter(None, (_TASK.fullmatch(str(key)) for key in pending)):
            self._tasks.setdefault(int(match[1]), []).append(match[0])
            self._made = max(self._made, int(match[2]))

    def while_pending(self, job: Job) -> str:
        """Return by which key a job waited that has just started: a task has that of one of its array's pending ones.

        To be asked once for each job.
        """
        tasks = self._tasks.get(job.array_job_id) if job.array_task_id is not None else None
        return tasks.pop(0) if tasks else own_key(job)

    def of_pending(self, job: Job) -> list[str]:
        """Return a key for each task that the record stands for, up to a point. To be asked after all that started."""
        if job.all_tasks == 1 and job.slurm_job_id not in self._tasks:
            return [own_key(job)]
        keys = self._tasks.setdefault(job.slurm_job_id, [])
        while len(keys) < min(job.tasks, _MOST_TASKS):
            self._made += 1
            keys.append(f"{job.slurm_job_id}.{job.restart_count}[{self._made}]")
        return list(islice(keys, job.tasks))

    def forget_all_but(self, jobs: Collection[Job]) -> None:
        """Forget arrays that do not wait among `jobs`, so that what is kept is bounded by what there is."""
        pending = {job.slurm_job_id for job in jobs if job.is_pending}
        self._tasks = {number: keys for number, keys in self._tasks.items() if number in pending}


def key_of(slurm_job_id: int | str, restart_count: int) -> str:
    """Return the key of an attempt of a job that stands alone."""
    return f"{slurm_job_id}.{restart_count}"


def own_key(job: Job) -> str:
    """Return the key of a job while it runs, and while it waits alone."""
    return key_of(job.slurm_job_id, job.restart_count)
