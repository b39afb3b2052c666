"""A job of the past, whatever file told of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PastJob:
    """One attempt of a job (or array task). Times are Unix seconds; what the file does not tell is None or empty.

    Attributes:
        job_id: as the file has it; an array task has its own. A requeued job may come several times.
        submit_s: when it was submitted.
        eligible_s: from when on it waited for nodes and priority, and not for a begin time or another job.
        start_s: None if it never started.
        end_s: when it ended or left the queue; None if it still waits or runs.
        cpus: that it got, or asked for if it never started.
        time_limit_s: None is unlimited or unknown.
    """

    job_id: str
    submit_s: float
    start_s: float | None
    end_s: float | None
    cpus: int
    time_limit_s: int | None
    user: str
    partition: str
    eligible_s: float | None = None
    account: str = ""
    qos: str = ""
    nodes: int | None = None
    priority: int | None = None
    #: Of a job that never started: the others that it might have started in.
    other_partitions: tuple[str, ...] = ()

    @property
    def queued_s(self) -> float:
        """From when on its wait counts."""
        return self.submit_s if self.eligible_s is None else max(self.submit_s, self.eligible_s)

    @property
    def wait_s(self) -> float | None:
        """How long it waited for nodes and priority; None if it never started."""
        return None if self.start_s is None else max(0.0, self.start_s - self.queued_s)
