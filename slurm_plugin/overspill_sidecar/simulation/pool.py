"""CPUs that are all alike, under first-come EASY backfill.

The first job of the queue has a reservation for when enough CPUs will be free by the time limits of what runs; others
overtake it if they do not delay it. Real sites have priorities, nodes and other bounds: see `docs/simulate.md`.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_left, insort
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

#: How many of the queue are looked at, the first included. Source: slurm.conf(5), the default of bf_max_job_test.
_BACKFILL_DEPTH = 500
#: Of the job that is asked about; others' are never negative.
_ASKED = -1


class Task(NamedTuple):
    """A job as a pool sees it. A tuple: queues are copied and gone through many times.

    Attributes:
        key: no two tasks of one pool have the same; never negative.
        run_s: how long it really runs, which the pool goes by but does not plan with.
        limit_s: how long it says it may run; never shorter than `run_s`.
    """

    key: int
    cpus: int
    run_s: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class Change:
    """A task that has started or ended."""

    at_s: float
    key: int
    has_started: bool


class Pool:
    """What runs and what waits. Time is the caller's and never goes back."""

    def __init__(self, cpus: int) -> None:
        self.cpus = cpus
        self.free_cpus = cpus
        self._queue: list[Task] = []
        #: A heap of (end, key, CPUs).
        self._ends: list[tuple[float, int, int]] = []
        #: (end by the limit, key, CPUs) in order of time.
        self._releases: list[tuple[float, int, int]] = []
        self._limit_ends: dict[int, float] = {}
        #: Until when nothing may stand in the way of the queue's first, and the CPUs that it leaves over.
        self._reserved_s = math.inf
        self._spare_cpus = 0

    @property
    def is_queueing(self) -> bool:
        return bool(self._queue)

    @property
    def next_end_s(self) -> float:
        """When the next task ends; infinite if nothing runs."""
        return self._ends[0][0] if self._ends else math.inf

    def submit(self, task: Task, now_s: float) -> bool:
        """Queue a task, which must not be larger than the pool; tell whether it starts at once."""
        if self._starts_at_once(task, now_s):
            self._overtake(task, now_s)
            return True
        self._queue.append(task)
        if len(self._queue) == 1:
            self._reserve()
        return False

    def step(self) -> list[Change]:
        """Go to the next end: return what ends then and what starts for it."""
        now_s = self.next_end_s
        changes = []
        while self._ends and self._ends[0][0] <= now_s:
            _, key, cpus = heapq.heappop(self._ends)
            self.free_cpus += cpus
            limit_end_s = self._limit_ends.pop(key)
            del self._releases[bisect_left(self._releases, (limit_end_s, key, cpus))]
            changes.append(Change(now_s, key, has_started=False))
        changes += [Change(now_s, key, has_started=True) for key in self._start_what_fits(now_s)]
        return changes

    def start_of(self, key: int, last_s: float) -> float:
        """Go on until a queued task starts and return when that is; infinite if it is later than `last_s`."""
        while self.next_end_s <= last_s and math.isfinite(self.next_end_s):
            at_s = self.next_end_s
            if any(change.key == key and change.has_started for change in self.step()):
                return at_s
        return math.inf

    def wait_s(self, task: Task, now_s: float, horizon_s: float) -> float:
        """Return how long such a task would wait if it came now and nobody after it; infinite beyond `horizon_s`."""
        if self._starts_at_once(task, now_s):
            return 0.0
        last_s = now_s + horizon_s
        if self.free_cpus + sum(freed for end_s, _, freed in self._ends if end_s <= last_s) < task.cpus:
            return math.inf
        twin = self._copy()
        twin.submit(task._replace(key=_ASKED), now_s)
        return twin.start_of(_ASKED, last_s) - now_s

    def rest_s(self, key: int, now_s: float, horizon_s: float) -> float:
        """Return how long a queued task still waits if nobody comes after it; infinite beyond `horizon_s`."""
        return self._copy().start_of(key, now_s + horizon_s) - now_s

    def withdraw(self, key: int, now_s: float) -> list[Change]:
        """Take a task off the queue; return what starts for it."""
        index = next(number for number, task in enumerate(self._queue) if task.key == key)
        del self._queue[index]
        return [Change(now_s, started, has_started=True) for started in self._start_what_fits(now_s)]

    def _copy(self) -> Pool:
        twin = Pool(self.cpus)
        twin.free_cpus = self.free_cpus
        twin._queue = self._queue.copy()
        twin._ends = self._ends.copy()
        twin._releases = self._releases.copy()
        twin._limit_ends = self._limit_ends.copy()
        twin._reserved_s, twin._spare_cpus = self._reserved_s, self._spare_cpus
        return twin

    def _start(self, task: Task, now_s: float) -> None:
        self.free_cpus -= task.cpus
        heapq.heappush(self._ends, (now_s + task.run_s, task.key, task.cpus))
        limit_end_s = now_s + task.limit_s
        self._limit_ends[task.key] = limit_end_s
        insort(self._releases, (limit_end_s, task.key, task.cpus))

    def _starts_at_once(self, task: Task, now_s: float) -> bool:
        """Tell whether a task that comes now need not wait."""
        if task.cpus > self.free_cpus or len(self._queue) >= _BACKFILL_DEPTH:
            return False
        return not self._queue or self._may_overtake(task, now_s)

    def _may_overtake(self, task: Task, now_s: float) -> bool:
        return task.cpus <= self._spare_cpus or now_s + task.limit_s <= self._reserved_s

    def _overtake(self, task: Task, now_s: float) -> None:
        if now_s + task.limit_s > self._reserved_s:
            self._spare_cpus -= task.cpus
        self._start(task, now_s)

    def _start_what_fits(self, now_s: float) -> list[int]:
        queue = self._queue
        started: list[int] = []
        while len(started) < len(queue) and queue[len(started)].cpus <= self.free_cpus:
            task = queue[len(started)]
            self._start(task, now_s)
            started.append(task.key)
        del queue[: len(started)]
        self._reserve()
        return started + self._backfill(now_s)

    def _backfill(self, now_s: float) -> list[int]:
        free_cpus = self.free_cpus
        chosen: list[int] = []
        for index, task in enumerate(islice(self._queue, _BACKFILL_DEPTH)):
            if not free_cpus:
                break
            # The first is larger than what is free.
            if task.cpus <= free_cpus and self._may_overtake(task, now_s):
                self._overtake(task, now_s)
                free_cpus = self.free_cpus
                chosen.append(index)
        started = [self._queue[index].key for index in chosen]
        for index in reversed(chosen):
            del self._queue[index]
        return started

    def _reserve(self) -> None:
        """Reserve for the first of the queue."""
        self._reserved_s, self._spare_cpus = math.inf, 0
        if not self._queue:
            return
        missing = self._queue[0].cpus - self.free_cpus
        for end_s, _, cpus in self._releases:
            if end_s > self._reserved_s:
                return
            missing -= cpus
            if missing <= 0:
                self._reserved_s, self._spare_cpus = end_s, -missing
