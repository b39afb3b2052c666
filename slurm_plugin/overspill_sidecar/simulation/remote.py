"""The sites that jobs are diverted to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SiteView
from overspill_sidecar.decision.choice import best_of, wanted_partitions
from overspill_sidecar.policy import Policy
from overspill_sidecar.simulation.accounts import AccountLedger
from overspill_sidecar.simulation.pool import Pool
from overspill_sidecar.simulation.workload import ReplayedJob

#: More than any history asks for.
_UNLIMITED_CPUS = 10**12


@dataclass(frozen=True, slots=True)
class RemoteSite:
    """What a site offers.

    Attributes:
        partition: its overspill partition.
        cpus: None is unlimited: to see how many are needed.
        overhead_s: from Slurm's start of a job to that of its script: staging, queueing, booting.
        slot_cpus: the most that one job may have; None is all of them.
        price: of a CPU-hour, in whatever unit the admin counts.
    """

    partition: str
    cpus: int | None
    overhead_s: float
    slot_cpus: int | None = None
    price: float = 0.0


@dataclass(frozen=True, slots=True)
class Usage:
    """A job that was diverted has CPUs of a site for so long, overhead included."""

    start_s: float
    end_s: float
    cpus: int


@dataclass(frozen=True, slots=True)
class _Diverted:
    job: ReplayedJob
    site: RemoteSite
    #: Infinite while it waits there.
    start_s: float


class RemoteSites:
    """What runs at the sites. Time is the caller's and never goes back."""

    def __init__(self, sites: Sequence[RemoteSite], policy: Policy) -> None:
        self._sites = {site.partition: site for site in sites}
        self._pools = {site.partition: Pool(site.cpus or _UNLIMITED_CPUS) for site in sites}
        self._policy = policy
        self._accounts = AccountLedger(policy)
        self._diverted: dict[int, _Diverted] = {}
        self.usage: list[Usage] = []

    def advance(self, to_s: float) -> Iterator[tuple[int, float]]:
        """Play what happens until then; yield the key and the start of each job that had to wait at its site."""
        for pool in self._pools.values():
            while pool.next_end_s <= to_s and math.isfinite(pool.next_end_s):
                for change in pool.step():
                    if change.has_started:
                        self._start(change.key, change.at_s)
                        yield change.key, change.at_s
                    else:
                        self._end(change.key, change.at_s)

    @property
    def has_room(self) -> bool:
        """Whether any site could take a job of one CPU."""
        return any(pool.free_cpus and not pool.is_queueing for pool in self._pools.values())

    def views(self) -> list[SiteView]:
        """Return the sites as the router sees them, in the policy's order."""
        return [self._view(site) for site in self._sites.values()]

    def choose(self, job: ReplayedJob, now_s: float, *, is_forced: bool) -> tuple[RemoteSite | None, str]:
        """Return the site that takes the job now, or why none does.

        Args:
            job: one that the policy does not keep.
            now_s: the time.
            is_forced: whether it goes to a site even if it has to wait there.
        """
        if reason := self._why_too_much(job, now_s):
            return None, reason
        able: list[SiteView] = []
        busy: list[SiteView] = []
        refusals: list[str] = []
        own, policy = (job.past.partition,), self._policy
        for partition in wanted_partitions(own, self._sites, policy):
            site = self._sites.get(partition)
            reason = "no_such_site" if site is None else self._why_not(site, job)
            if site is not None and reason is None:
                able.append(self._view(site))
            elif site is not None and is_forced and reason == "no_free_slot":
                busy.append(self._view(site))
            else:
                refusals.append(reason or "")
        best, _ = best_of(able or busy, own, policy)
        if best is None:
            return None, next(iter(refusals), "no_site")
        return self._sites[best.partition], ""

    def submit(self, site: RemoteSite, job: ReplayedJob, now_s: float) -> bool:
        """Divert the job to the site; tell whether it starts there at once."""
        self._accounts.take(job)
        self._diverted[job.key] = _Diverted(job, site, math.inf)
        task = job.task
        busy = task._replace(run_s=task.run_s + site.overhead_s, limit_s=task.limit_s + site.overhead_s)
        has_started = self._pools[site.partition].submit(busy, now_s)
        if has_started:
            self._start(job.key, now_s)
        return has_started

    def _why_too_much(self, job: ReplayedJob, now_s: float) -> str | None:
        most = self._policy.max_jobs()
        if most is not None and len(self._diverted) >= most:
            return "max_jobs"
        return self._accounts.why_too_much(job, now_s)

    def _why_not(self, site: RemoteSite, job: ReplayedJob) -> str | None:
        pool, cpus, most = self._pools[site.partition], job.past.cpus, self._policy.max_jobs(site.partition)
        if most is not None and sum(other.site is site for other in self._diverted.values()) >= most:
            return "max_jobs"
        if site.slot_cpus is not None and cpus > site.slot_cpus:
            return "larger_than_slot"
        if cpus > pool.cpus:
            return "larger_than_site"
        return "no_free_slot" if pool.is_queueing or cpus > pool.free_cpus else None

    def _view(self, site: RemoteSite) -> SiteView:
        pool = self._pools[site.partition]
        total, free = Amount(pool.cpus), Amount(pool.free_cpus)
        largest = free if site.slot_cpus is None else free.capped(Amount(site.slot_cpus))
        capacity = SiteCapacity(total, free, largest)
        name = site.partition
        return SiteView(name, name, is_reachable=True, capacity=capacity, delay_s=site.overhead_s, price=site.price)

    def _start(self, key: int, at_s: float) -> None:
        waiting = self._diverted[key]
        self._diverted[key] = _Diverted(waiting.job, waiting.site, at_s)

    def _end(self, key: int, at_s: float) -> None:
        ended = self._diverted.pop(key)
        self._accounts.end(ended.job, ended.start_s, at_s)
        self.usage.append(Usage(ended.start_s, at_s, ended.job.past.cpus))
