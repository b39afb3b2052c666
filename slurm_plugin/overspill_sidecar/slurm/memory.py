"""A Slurm that is only a dictionary: for tests of everything that stands on a ClusterView."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from overspill.errors import NotFoundError, UnavailableError, UnrunnableError
from overspill_sidecar.cluster import ClusterConfig, Job, JobDetails, Node, Partition, Snapshot
from overspill_sidecar.slurm.queries import parse_trail


class InMemoryView:
    """Behaves as a ClusterView, passes the same conformance suite, and fails when told to.

    Attributes:
        is_answering: False makes every question and every change fail.
        asked: what jobs ask for beside their records, by their ids.
    """

    def __init__(
        self, config: ClusterConfig, partitions: dict[str, Partition], nodes: dict[str, Node], *jobs: Job
    ) -> None:
        self.is_answering = True
        self.config = config
        self.partitions = partitions
        self.nodes_by_name = nodes
        self.jobs = {job.slurm_job_id: job for job in jobs}
        self.asked: dict[int, JobDetails] = {}

    async def snapshot(self) -> Snapshot:
        self._check_answering()
        jobs = tuple(job for job in self.jobs.values() if job.is_pending or job.is_active)
        return Snapshot(time.monotonic(), time.time(), self.config, jobs, self.partitions, dict(self.nodes_by_name))

    async def job(self, slurm_job_id: int) -> Job | None:
        self._check_answering()
        return self.jobs.get(slurm_job_id)

    async def details(self, slurm_job_id: int) -> JobDetails:
        self._check_answering()
        return self.asked.get(slurm_job_id, JobDetails())

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
        found = [job for job in self.jobs.values() if name in {job.name, str(job.array_job_id), str(job.slurm_job_id)}]
        if not found:
            raise NotFoundError(f"Invalid job id specified for job {name}")
        return found

    def _check_known(self, names: Sequence[str]) -> None:
        self._check_answering()
        if not set(names) <= set(self.nodes_by_name):
            raise NotFoundError(f"Invalid node name specified: one of {','.join(names)}")

    def _check_answering(self) -> None:
        if not self.is_answering:
            raise UnavailableError("Unable to contact slurm controller")


def _updated(job: Job, fields: Mapping[str, str]) -> Job:
    is_over = not job.is_pending and not job.is_active
    if is_over and ("Partition" in fields or "StartTime" in fields):
        raise NotFoundError(f"{job.name}: Job has already finished")
    if "Partition" in fields:
        if job.has_attempt:
            raise UnrunnableError(f"Job is no longer pending execution for job {job.name}")
        job = replace(job, partitions=tuple(fields["Partition"].split(",")))
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
