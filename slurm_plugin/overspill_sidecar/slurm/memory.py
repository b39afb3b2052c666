"""A Slurm that is only a dictionary: for tests of everything that stands on a ClusterView."""

from __future__ import annotations

import time
from dataclasses import replace

from overspill.errors import NotFoundError, UnavailableError, UnrunnableError
from overspill_sidecar.cluster import ClusterConfig, Job, Node, Partition, Snapshot
from overspill_sidecar.slurm.queries import parse_trail


class InMemoryView:
    """Behaves as a ClusterView, passes the same conformance suite, and fails when told to.

    Attributes:
        is_answering: False makes every question and every change fail.
    """

    def __init__(
        self, config: ClusterConfig, partitions: dict[str, Partition], nodes: dict[str, Node], *jobs: Job
    ) -> None:
        self.is_answering = True
        self.config = config
        self.partitions = partitions
        self.nodes = nodes
        self.jobs = {job.slurm_job_id: job for job in jobs}

    async def snapshot(self) -> Snapshot:
        self._check_answering()
        jobs = tuple(job for job in self.jobs.values() if job.is_pending or job.is_active)
        return Snapshot(time.monotonic(), time.time(), self.config, jobs, self.partitions, self.nodes)

    async def job(self, slurm_job_id: int) -> Job | None:
        self._check_answering()
        return self.jobs.get(slurm_job_id)

    async def update(self, slurm_job_id: int, **fields: str) -> None:
        job = self._existing(slurm_job_id)
        if "Partition" in fields:
            if job.state == "RUNNING":
                raise UnrunnableError(f"Job is no longer pending execution for job {slurm_job_id}")
            job = replace(job, partitions=tuple(fields["Partition"].split(",")))
        if "Requeue" in fields:
            job = replace(job, can_requeue=fields["Requeue"] == "1")
        if "AdminComment" in fields:
            comment = fields["AdminComment"]
            job = replace(job, admin_comment=comment, trail=parse_trail(comment))
        if fields.get("StartTime") == "now" and job.is_pending:
            job = replace(job, reason="None")
        self.jobs[slurm_job_id] = job

    async def requeue(self, slurm_job_id: int) -> None:
        job = self._existing(slurm_job_id)
        if not job.can_requeue or not job.is_active:
            raise UnrunnableError(f"Requested operation is presently disabled for job {slurm_job_id}")
        self.jobs[slurm_job_id] = replace(
            job, state="PENDING", reason="BeginTime", batch_host="", nodes="", restart_count=job.restart_count + 1
        )

    def _existing(self, slurm_job_id: int) -> Job:
        self._check_answering()
        if slurm_job_id not in self.jobs:
            raise NotFoundError(f"Invalid job id specified for job {slurm_job_id}")
        return self.jobs[slurm_job_id]

    def _check_answering(self) -> None:
        if not self.is_answering:
            raise UnavailableError("Unable to contact slurm controller")
