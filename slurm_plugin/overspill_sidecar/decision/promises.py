"""Capacity that decisions gave away before Slurm shows their jobs. Pure but for its own list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overspill_sidecar.decision.capacity import Amount


@dataclass(frozen=True, slots=True)
class Promise:
    decision_id: str
    site: str
    amount: Amount
    #: Jobs and array tasks that it is for.
    jobs: int
    #: On the monotonic clock.
    made_at: float


class Promises:
    """Keeps each promise until its job is seen in a snapshot or its time to live is over.

    A submission that Slurm rejects after the decision, or that was `sbatch --test-only`, never shows a job.
    """

    def __init__(self, time_to_live_s: float) -> None:
        self._time_to_live_s = time_to_live_s
        #: In the order in which they were made, so in that in which they lapse.
        self._open: dict[str, Promise] = {}
        self._sums: dict[str, Amount] = {}
        self._jobs: Counter[str] = Counter()

    def add(self, promise: Promise) -> None:
        self._open[promise.decision_id] = promise
        self._sums[promise.site] = self._sums.get(promise.site, Amount()) + promise.amount
        self._jobs[promise.site] += promise.jobs

    def drop_seen(self, decision_ids: Collection[str]) -> None:
        """Forget the promises of decisions whose jobs count by themselves now."""
        for decision_id in decision_ids:
            self._drop(decision_id)

    def by_site(self, now: float) -> Mapping[str, Amount]:
        """Return what is promised of each site; what has lapsed is forgotten."""
        while self._open:
            oldest = next(iter(self._open.values()))
            if oldest.made_at + self._time_to_live_s > now:
                break
            self._drop(oldest.decision_id)
        return self._sums

    def open_at(self, now: float) -> Mapping[str, Amount]:
        """Return what is promised of each site without changing anything: any thread may ask."""
        sums: dict[str, Amount] = {}
        for promise in list(self._open.values()):
            if promise.made_at + self._time_to_live_s > now:
                sums[promise.site] = sums.get(promise.site, Amount()) + promise.amount
        return sums

    def jobs_by_site(self, now: float) -> Mapping[str, int]:
        """Return how many jobs and array tasks are promised a place at each site; what has lapsed is forgotten."""
        self.by_site(now)
        return self._jobs

    def _drop(self, decision_id: str) -> None:
        promise = self._open.pop(decision_id, None)
        if promise is not None:
            self._sums[promise.site] -= promise.amount
            self._jobs[promise.site] -= promise.jobs
