"""What this process knows of jobs beside what they carry: changes under way, answers a moment ago, others' hands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from overspill_sidecar.cluster import Job, Snapshot, Trail
from overspill_sidecar.pending.standing import Standing, standing_of

#: A job that the decision keeps, for whatever reason, lets others have their turn for so long.
AGAIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Unclear:
    """A change of which Slurm has not said whether it was made.

    Attributes:
        slurm_job_id: of the job, or of the array that its task was part of.
        site: the one that it is about.
        kind: "added" or "recalled".
        until_s: on the monotonic clock: a snapshot asked for after it shows the change, or it was not made.
    """

    slurm_job_id: int
    site: str
    kind: str
    until_s: float = 0.0


class Memory:
    """Bounded by the queue: what is not pending any more is forgotten."""

    def __init__(self) -> None:
        #: When each job was last changed, on the monotonic clock: an older snapshot tells nothing about it.
        self._changed_at: dict[int, float] = {}
        self._look_again_at: dict[int, float] = {}
        #: The trails as last seen, of what only a router writes.
        self._trails: dict[int, Trail | None] = {}
        self._left_alone: set[int] = set()
        self.unclear: dict[str, Unclear] = {}

    def note_change(self, slurm_job_id: int, now: float) -> None:
        """Take note of an attempt to change the job, whatever came of it."""
        self._changed_at[slurm_job_id] = now
        self._trails.pop(slurm_job_id, None)

    def note_kept(self, slurm_job_id: int, now: float, pause_s: float) -> None:
        """Have the job passed over for a while."""
        self._look_again_at[slurm_job_id] = now + pause_s

    def leave_alone(self, slurm_job_id: int) -> None:
        """Have the job passed over as long as it is pending."""
        self._left_alone.add(slurm_job_id)

    def take_in(self, snapshot: Snapshot, partition_of_site: Mapping[str, str]) -> None:
        """Learn from a snapshot which jobs are gone, and which ones somebody else has changed after us."""
        pending = {job.slurm_job_id: job for job in snapshot.jobs if job.is_pending}
        known: tuple[dict[int, float] | dict[int, Trail | None], ...]
        known = (self._changed_at, self._look_again_at, self._trails)
        for each in known:
            for slurm_job_id in each.keys() - pending.keys():
                del each[slurm_job_id]
        self._left_alone &= pending.keys()
        for job in pending.values():
            if (job.trail or job.slurm_job_id in self._trails) and self._is_news(job, snapshot):
                self._compare(job, partition_of_site)

    def _is_news(self, job: Job, snapshot: Snapshot) -> bool:
        return self._changed_at.get(job.slurm_job_id, float("-inf")) < snapshot.asked_at

    def _compare(self, job: Job, partition_of_site: Mapping[str, str]) -> None:
        trail = replace(job.trail, refused_by=(), unfenced_at="") if job.trail else None
        is_changed = self._trails.setdefault(job.slurm_job_id, trail) != trail
        if is_changed or standing_of(job, partition_of_site) is Standing.THEIRS:
            self._left_alone.add(job.slurm_job_id)

    def settled(self, snapshot: Snapshot) -> list[tuple[Unclear, bool]]:
        """Return, once, the unclear changes that the snapshot shows, or shows not to have been made."""
        shown = {job.trail.decision_id for job in snapshot.jobs if job.trail}
        over = {
            decision_id: change
            for decision_id, change in self.unclear.items()
            if decision_id in shown or change.until_s < snapshot.asked_at
        }
        for decision_id in over:
            del self.unclear[decision_id]
        return [(change, decision_id in shown) for decision_id, change in over.items()]

    def is_passed_over(self, job: Job, snapshot: Snapshot, now: float) -> bool:
        known = job.slurm_job_id
        return (
            known in self._left_alone
            or not self._is_news(job, snapshot)
            or self._look_again_at.get(known, float("-inf")) > now
        )
