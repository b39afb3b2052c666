"""How long a pending job will have waited when it starts at home: the one place that knows which model says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from overspill_sidecar.cluster import Job
from overspill_sidecar.wait import QueuedJob, WaitEstimate
from overspill_sidecar.wait.plan import PlanModel
from overspill_sidecar.watch import Picture

#: The whole wait, what has passed of it included, of a pending job in one of its own partitions. Of an array it is that
#: of the task that starts last. None: nobody knows.
Outlook = Callable[[Job, str], WaitEstimate | None]


@dataclass(frozen=True, slots=True)
class WaitGoingOn(WaitEstimate):
    """The whole wait of a job that has waited for `waited_s` seconds already."""

    waited_s: float = 0.0

    def p_exceeds(self, threshold_s: float) -> float:
        """Return the probability that the whole wait is longer, now that this much of it has passed."""
        if self.waited_s >= threshold_s:
            return 1.0
        rest = WaitEstimate(self.median_s - self.waited_s, self.is_upper_bound)
        return rest.p_exceeds(threshold_s - self.waited_s)


def waited_s(job: Job, now_s: float) -> float:
    """Return for how many seconds a job has waited for others; a clock that was set back counts as none."""
    return max(0.0, now_s - max(job.submit_time_s, job.eligible_time_s or 0))


def outlook_of(picture: Picture) -> Outlook:
    """Return the outlook by the picture's model."""
    model, now_s = picture.model, picture.snapshot.unix_time_s
    behind: dict[tuple[str, int, int | None], WaitEstimate | None] = {}

    def outlook(job: Job, partition: str) -> WaitEstimate | None:
        rest = model.place_of(partition, job.slurm_job_id) if isinstance(model, PlanModel) else None
        if rest is None:
            # Far behind, jobs of one size are alike: a long queue must not cost a long time.
            key = (partition, job.cpus * job.tasks, job.time_limit_s)
            if key not in behind:
                behind[key] = model.predict(QueuedJob(*key))
            rest = behind[key]
        if rest is None:
            return None
        passed_s = waited_s(job, now_s)
        return WaitGoingOn(passed_s + rest.median_s, rest.is_upper_bound, passed_s)

    return outlook
