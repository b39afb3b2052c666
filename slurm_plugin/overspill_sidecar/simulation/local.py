"""The cluster at home: as its history has it, or simulated."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from overspill_sidecar.simulation.pool import Change, Pool
from overspill_sidecar.simulation.workload import ReplayedJob, Workload, peak_cpus

#: The pool of all partitions that have none of their own.
SHARED = ""


class LocalSite(Protocol):
    """Where jobs wait that are not diverted. Time is the caller's and never goes back."""

    @property
    def next_change_s(self) -> float:
        """When something happens next if nobody comes; infinite if nothing does."""
        ...

    def step(self) -> Sequence[Change]:
        """Go to the next change; what ends comes before what starts for it."""
        ...

    def submit(self, job: ReplayedJob) -> bool:
        """Queue the job, at its own time; tell whether it starts at once."""
        ...

    def wait_s(self, job: ReplayedJob, horizon_s: float) -> float:
        """Return how long the job would wait here if it came now; beyond the horizon it may be infinite."""
        ...

    def rest_s(self, job: ReplayedJob, now_s: float, horizon_s: float) -> float:
        """Return how long a job that is queued here still waits; beyond the horizon it may be infinite."""
        ...

    def withdraw(self, job: ReplayedJob, now_s: float) -> Sequence[Change]:
        """Let a queued job go elsewhere; return what starts for it."""
        ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """CPUs of the cluster by partition; `SHARED` is what all others share."""

    cpus: Mapping[str, int]

    def pool_of(self, partition: str) -> str:
        return partition if partition in self.cpus else SHARED


def sizes_of(workload: Workload, given: Mapping[str, int], total_cpus: int | None = None) -> Sizes:
    """Return the sizes of the cluster: those given, and where none is given the most that the history shows in use.

    Args:
        workload: whose partitions they are.
        given: CPUs by partition, or for `SHARED`.
        total_cpus: what the history itself says of the whole cluster.
    """
    sharing = [job for job in workload.jobs if job.past.partition not in given]
    if SHARED in given or not sharing:
        return Sizes(given)
    return Sizes({**given, SHARED: (None if given else total_cpus) or peak_cpus(sharing)})


def too_large(workload: Workload, sizes: Sizes) -> frozenset[int]:
    """Return the keys of jobs that could never start."""
    return frozenset(job.key for job in workload.jobs if job.past.cpus > sizes.cpus[sizes.pool_of(job.past.partition)])


class SimulatedSite:
    """Pools under first-come EASY backfill; no job may be too large for its own."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._pools = {name: Pool(cpus) for name, cpus in sizes.cpus.items()}

    @property
    def next_change_s(self) -> float:
        return min(pool.next_end_s for pool in self._pools.values())

    def step(self) -> Sequence[Change]:
        return min(self._pools.values(), key=lambda pool: pool.next_end_s).step()

    def submit(self, job: ReplayedJob) -> bool:
        return self._pool_of(job).submit(job.task, job.at_s)

    def wait_s(self, job: ReplayedJob, horizon_s: float) -> float:
        return self._pool_of(job).wait_s(job.task, job.at_s, horizon_s)

    def rest_s(self, job: ReplayedJob, now_s: float, horizon_s: float) -> float:
        return self._pool_of(job).rest_s(job.key, now_s, horizon_s)

    def withdraw(self, job: ReplayedJob, now_s: float) -> Sequence[Change]:
        return self._pool_of(job).withdraw(job.key, now_s)

    def _pool_of(self, job: ReplayedJob) -> Pool:
        return self._pools[self._sizes.pool_of(job.past.partition)]


class RecordedSite:
    """Every job starts and ends when the history says so, whatever becomes of the others."""

    def __init__(self) -> None:
        #: (time, whether it is a start, key, how long it runs from then on)
        self._coming: list[tuple[float, bool, int, float]] = []

    @property
    def next_change_s(self) -> float:
        return self._coming[0][0] if self._coming else math.inf

    def step(self) -> Sequence[Change]:
        at_s, has_started, key, run_s = heapq.heappop(self._coming)
        if has_started:
            heapq.heappush(self._coming, (at_s + run_s, False, key, 0.0))
        return [Change(at_s, key, has_started=has_started)]

    def submit(self, job: ReplayedJob) -> bool:
        starts_at_once = job.recorded_wait_s == 0
        entry = (job.at_s + (job.run_s if starts_at_once else job.recorded_wait_s), not starts_at_once)
        heapq.heappush(self._coming, (*entry, job.key, job.run_s))
        return starts_at_once

    def wait_s(self, job: ReplayedJob, horizon_s: float) -> float:  # noqa: ARG002 - the history knows it all
        return job.recorded_wait_s

    def rest_s(self, job: ReplayedJob, now_s: float, horizon_s: float) -> float:  # noqa: ARG002 - as above
        return job.at_s + job.recorded_wait_s - now_s

    def withdraw(self, job: ReplayedJob, now_s: float) -> Sequence[Change]:  # noqa: ARG002 - nothing changes here
        return ()
