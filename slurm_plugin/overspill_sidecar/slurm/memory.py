"""A Slurm that is only a dictionary: for tests of everything that stands on a ClusterView."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from overspill.errors import NotFoundError, UnavailableError, UnrunnableError
from overspill_sidecar.cluster import (
    ENDED_STATES,
    ClusterConfig,
    Job,
    JobDetails,
    JobRequest,
    Node,
    Partition,
    Reservation,
    Snapshot,
)
from overspill_sidecar.slurm.queries import parse_trail
from overspill_sidecar.slurm_text import last_array_tasks


class InMemoryView:
    """Behaves as a ClusterView, passes the same conformance suite, and fails when told to.

    Attributes:
        is_answering: False makes every question and every change fail.
        clock: its wall clock.
        asked, requests: what jobs ask for beside their records, by their ids.
        reservations: None makes them unknown.
    """

    def __init__(
        self, config: ClusterConfig, partitions: dict[str, Partition], nodes: dict[str, Node], *jobs: Job
    ) -> None:
        self.is_answering = True
        self.clock: Callable[[], float] = time.time
        self.config = config
        self.partitions = partitions
        self.nodes_by_name = nodes
        self.jobs = {job.slurm_job_id: job for job in jobs}
        self.asked: dict[int, JobDetails] = {}
        self.requests: dict[int, JobRequest] = {}
        self.reservations: tuple[Reservation, ...] | None = ()

    async def snapshot(self) -> Snapshot:
        self._check_answering()
        jobs = tuple(job for job in self.jobs.values() if job.is_pending or job.is_active)
        return Snapshot(
            time.monotonic(),
            self.clock(),
            self.config,
            jobs,
            self.partitions,
            dict(self.nodes_by_name),
            reservations=self.reservations,
        )

    async def job(self, slurm_job_id: int) -> Job | None:
        self._check_answering()
        return self.jobs.get(slurm_job_id)

    async def decisions_over(self) -> frozenset[str]:
        self._check_answering()
        return frozenset(job.trail.decision_id for job in self.jobs.values() if job.trail and job.state in ENDED_STATES)

    async def details(self, slurm_job_id: int) -> JobDetails:
        self._check_answering()
        return self.asked.get(slurm_job_id, JobDetails())

    async def request(self, job: Job) -> JobRequest | None:
        self._check_answering()
        if job.slurm_job_id not in self.jobs:
            return None
        return self.requests.get(job.slurm_job_id, JobRequest(num_tasks=job.cpus))

    async def update(self, job: str, **fields: str) -> None:
        for each in self._named(job):
            self.jobs[each.slurm_job_id] = _updated(each, fields)

    async def nodes(self, names: Sequence[str]) -> Mapping[str, Node]:
        self._check_known(names)
        return {name: self.nodes_by_name[name] for name in names}

    async def drain(self, names: Sequence[str], reason: str) -> None:
        self._check_known(names)
        for name in names:
            node = self.nodes_by_name[name]
            self.nodes_by_name[name] = replace(node, is_drained=True, is_usable=False, reason=reason)

    async def undrain(self, names: Sequence[str]) -> None:
        self._check_known(names)
        for name in names:
            node = self.nodes_by_name[name]
            self.nodes_by_name[name] = replace(node, is_drained=False, is_usable=True, reason="")

    async def requeue(self, job: str) -> None:
        for each in self._named(job):
            if each.has_attempt:
                self.jobs[each.slurm_job_id] = _requeued(each)

    def _named(self, name: str) -> list[Job]:
        """Return the jobs that Slurm takes a name for: of an array's id all tasks."""
        self._check_answering()
        self._split_off(name)
        found = [job for job in self.jobs.values() if name in _names(job)]
        if not found:
            raise NotFoundError(f"Invalid job id specified for job {name}")
        return found

    def _split_off(self, name: str) -> None:
        """Give a task that waits with others a record of its own, as Slurm does with one that is changed by name."""
        array_id, _, task = name.partition("_")
        for job in [job for job in self.jobs.values() if job.array_tasks and str(job.array_job_id) == array_id]:
            tasks = last_array_tasks(job.array_tasks, job.tasks)[::-1]
            if task.isdecimal() and int(task) in tasks:
                rest = [each for each in tasks if each != int(task)]
                own_id = max(self.jobs) + 1
                alone = replace(job, slurm_job_id=own_id, array_task_id=int(task), array_tasks="", tasks=1)
                self.jobs[own_id] = alone
                self.jobs[job.slurm_job_id] = _with_tasks(job, rest)

    def _check_known(self, names: Sequence[str]) -> None:
        self._check_answering()
        if not set(names) <= set(self.nodes_by_name):
            raise NotFoundError(f"Invalid node name specified: one of {','.join(names)}")

    def _check_answering(self) -> None:
        if not self.is_answering:
            raise UnavailableError("Unable to contact slurm controller")


def _names(job: Job) -> set[str]:
    names = {job.name, str(job.array_job_id), str(job.slurm_job_id)}
    return names | ({f"{job.array_job_id}_[{job.array_tasks}]"} if job.array_tasks else set())


def _with_tasks(job: Job, tasks: Sequence[int]) -> Job:
    """Return the record of an array with these tasks still waiting together."""
    if len(tasks) == 1:
        return replace(job, array_task_id=tasks[0], array_tasks="", tasks=1)
    return replace(job, array_tasks=",".join(map(str, tasks)), tasks=len(tasks))


def _updated(job: Job, fields: Mapping[str, str]) -> Job:
    is_over = not job.is_pending and not job.is_active
    if is_over and ("Partition" in fields or "StartTime" in fields):
        raise NotFoundError(f"{job.name}: Job has already finished")
    if "Partition" in fields:
        if job.has_attempt:
            raise UnrunnableError(f"Job is no longer pending execution for job {job.name}")
        job = replace(job, partitions=tuple(fields["Partition"].split(",")))
    if "TimeLimit" in fields:
        job = replace(job, time_limit_s=int(fields["TimeLimit"]) * 60)
    if "Requeue" in fields:
        job = replace(job, can_requeue=fields["Requeue"] == "1")
    if "AdminComment" in fields:
        comment = fields["AdminComment"]
        job = replace(job, admin_comment=comment, trail=parse_trail(comment))
    if "StartTime" in fields and job.is_pending:
        job = _starting(job, fields["StartTime"])
    return job


def _starting(job: Job, when: str) -> Job:
    """Return the job with a new begin time: `now`, or `now+seconds`."""
    after_s = int(when.removeprefix("now") or "0")
    return replace(job, reason="BeginTime" if after_s else "None", start_time_s=int(time.time()) + after_s)


def _requeued(job: Job) -> Job:
    if not job.can_requeue:
        raise UnrunnableError(f"Requested operation is presently disabled for job {job.name}")
    count = job.restart_count + 1
    return replace(job, state="PENDING", reason="BeginTime", batch_host="", nodes="", restart_count=count)
