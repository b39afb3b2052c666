"""Capacity that decisions gave away before Slurm shows their jobs. Pure but for its own list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from overspill_sidecar.decision.budget import AccountUse
from overspill_sidecar.decision.capacity import Amount


@dataclass(frozen=True, slots=True)
class Promise:
    decision_id: str
    site: str
    amount: Amount
    #: Jobs and array tasks that it is for, and their CPU time at most.
    use: AccountUse
    account: str
    #: On the monotonic clock.
    made_at: float


class Promises:
    """Keeps each promise until its job is seen in a snapshot, or one that should show it does not.

    A job that is over before any snapshot shows it is looked for among those that are over. A submission that Slurm
    rejects after the decision, or that was `sbatch --test-only`, never shows a job. Whether one is still to come, only
    a snapshot can tell that was asked for long enough after the decision: while Slurm does not answer, nothing lapses.
    """

    def __init__(self, time_to_live_s: float) -> None:
        self._time_to_live_s = time_to_live_s
        #: In the order in which they were made, so in that in which they lapse.
        self._open: dict[str, Promise] = {}
        self._amounts: dict[str, Amount] = {}
        self._jobs: Counter[str] = Counter()
        self._uses: dict[str, AccountUse] = {}

    def add(self, promise: Promise) -> None:
        self._open[promise.decision_id] = promise
        self._amounts[promise.site] = self._amounts.get(promise.site, Amount()) + promise.amount
        self._jobs[promise.site] += promise.use.jobs
        self._uses[promise.account] = self._uses.get(promise.account, AccountUse()) + promise.use

    def withdraw(self, decision_id: str) -> None:
        """Forget a promise, if there is one: its job will not come."""
        self._drop(decision_id)

    def settle(self, decision_ids: Collection[str], asked_at: float) -> None:
        """Forget the promises that a snapshot has settled: their jobs count by themselves now, or do not come.

        Args:
            decision_ids: those whose jobs it shows.
            asked_at: when it was asked for, on the monotonic clock.
        """
        for decision_id in decision_ids:
            self._drop(decision_id)
        while self._open:
            oldest = next(iter(self._open.values()))
            if not self._has_lapsed(oldest, asked_at):
                break
            self._drop(oldest.decision_id)

    def unsettled(self, decision_ids: Collection[str], asked_at: float) -> Mapping[str, Amount]:
        """Return what would be promised of each site after `settle`. Changes nothing: any thread may ask."""
        sums: dict[str, Amount] = {}
        for promise in list(self._open.values()):
            if promise.decision_id not in decision_ids and not self._has_lapsed(promise, asked_at):
                sums[promise.site] = sums.get(promise.site, Amount()) + promise.amount
        return sums

    def is_missing(self, decision_ids: Collection[str], asked_at: float) -> bool:
        """Tell whether a snapshot shows not all jobs of which it could: some may be over. Any thread may ask."""
        return any(
            promise.made_at < asked_at
            and promise.decision_id not in decision_ids
            and not self._has_lapsed(promise, asked_at)
            for promise in list(self._open.values())
        )

    @property
    def by_site(self) -> Mapping[str, Amount]:
        """What is promised of each site."""
        return self._amounts

    @property
    def jobs_by_site(self) -> Mapping[str, int]:
        """How many jobs and array tasks are promised a place at each site."""
        return self._jobs

    @property
    def use_by_account(self) -> Mapping[str, AccountUse]:
        return self._uses

    def _has_lapsed(self, promise: Promise, asked_at: float) -> bool:
        return promise.made_at + self._time_to_live_s <= asked_at

    def _drop(self, decision_id: str) -> None:
        promise = self._open.pop(decision_id, None)
        if promise is not None:
            self._amounts[promise.site] -= promise.amount
            self._jobs[promise.site] -= promise.use.jobs
            self._uses[promise.account] -= promise.use
