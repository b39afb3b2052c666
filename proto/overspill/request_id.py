"""The name of one attempt of one Slurm job, for all time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestId:
    """Key of a run at the agent.

    A job id alone does not do: it comes again after a controller reset (F4), and a requeued job keeps its own.
    """

    slurm_cluster: str
    slurm_job_id: int
    array_task_id: int | None
    submit_time_s: int
    restart_count: int

    def __str__(self) -> str:
        """Return the canonical form, `cluster/job[_task]/submit time/restart`: unique, sortable, free of spaces."""
        task = "" if self.array_task_id is None else f"_{self.array_task_id}"
        return f"{self.slurm_cluster}/{self.slurm_job_id}{task}/{self.submit_time_s}/{self.restart_count}"
