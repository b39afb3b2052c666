"""The queue played forward: first come, first served with backfill, several times with other luck.

How long jobs will run is not known, only how long jobs like them ran. So each scenario draws run times from these, and
plays what a scheduler would do that knows only their limits. The share of scenarios in which a job waits for longer
than some time tells how probable that is. They know nothing of priorities, of nodes, and of jobs that are yet to come.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable

from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.run_times import drawn_s
from overspill_sidecar.wait.tracked import Tracked

#: They are played up to the last of these waits.
WAITS_S = tuple(wait_s for wait_s in GRID_S if wait_s <= 7200)  # noqa: PLR2004 - two hours
_MOST, _FEWEST = 15, 3
#: Jobs times scenarios: a long queue gets fewer, a very long one none. It keeps a prediction below some milliseconds.
_MOST_WORK = 1500
#: As if a quarter of a scenario more had said either: none of them is ever certain.
_DOUBT = 0.25


def opinion_on(job: Tracked, queue: QueueState, now_s: float) -> list[float]:
    """Return a logit for each of `WAITS_S`; NaN if the queue is too long to be played."""
    waits_s = _waits_s(job, queue, now_s)
    if waits_s is None:
        return [math.nan] * len(WAITS_S)
    certain = len(waits_s)
    longer = (sum(wait_s > limit_s for wait_s in waits_s) for limit_s in WAITS_S)
    return [math.log((count + _DOUBT) / (certain - count + _DOUBT)) for count in longer]


def _waits_s(job: Tracked, queue: QueueState, now_s: float) -> list[float] | None:
    """Return the wait in each scenario, infinite beyond the last of `WAITS_S`."""
    known = len(queue.pending) + len(queue.running)
    if not queue.pending and job.cpus <= queue.cpus - queue.everybody.running_cpus:
        return [0.0] * _MOST
    scenarios = min(_MOST, _MOST_WORK // (known + 1))
    if scenarios < _FEWEST:
        return None
    luck = random.Random(1).random  # noqa: S311 - no secret: the same queue is to have the same answer
    likely: dict[Tracked, list[float]] = {}

    def draw_s(other: Tracked, ran_s: float) -> float:
        if other not in likely:
            likely[other] = queue.run_times.likely(other)
        return drawn_s(likely[other], ran_s, other.limit_s, luck())

    waits_s = []
    for _ in range(scenarios):
        wait_s = _Scenario(job, queue, now_s, draw_s).play() - now_s
        if wait_s == 0:
            # What happens at once depends on no run time.
            return [0.0] * _MOST
        waits_s.append(wait_s)
    return waits_s


class _Scenario:
    """One course of things."""

    __slots__ = ("draw_s", "ends", "free", "now_s", "until_s", "waiting")

    def __init__(
        self, job: Tracked, queue: QueueState, now_s: float, draw_s: Callable[[Tracked, float], float]
    ) -> None:
        self.now_s = now_s
        self.until_s = now_s + WAITS_S[-1]
        self.draw_s = draw_s
        self.free = queue.cpus - queue.everybody.running_cpus
        self.waiting = [*queue.pending.values(), job]
        #: Of each running job: when it ends, its CPUs, and when its limit would end it. A heap.
        self.ends = list(self._ends(queue.running.values()))
        heapq.heapify(self.ends)

    def _ends(self, running: Iterable[Tracked]) -> Iterable[tuple[float, int, float]]:
        for job in running:
            start_s = self.now_s if job.start_s is None else job.start_s
            end_s = start_s + self.draw_s(job, self.now_s - start_s)
            yield max(end_s, self.now_s + 1), job.cpus, start_s + job.limit_s

    def play(self) -> float:
        """Return when the last of the waiting jobs starts; infinity is later than anybody wants to know."""
        last = self.waiting[-1]
        while True:
            self._schedule()
            if not self.waiting or self.waiting[-1] is not last:
                return self.now_s
            if not self.ends or self.ends[0][0] > self.until_s:
                return math.inf
            self.now_s = self.ends[0][0]
            while self.ends and self.ends[0][0] <= self.now_s:
                self.free += heapq.heappop(self.ends)[1]

    def _schedule(self) -> None:
        """Start jobs in order; then those that fit and do not delay the first that has to wait."""
        waiting, count = self.waiting, 0
        while count < len(waiting) and waiting[count].cpus <= self.free:
            self._start(waiting[count])
            count += 1
        del waiting[:count]
        if any(job.cpus <= self.free for job in waiting[1:]):
            self._backfill()

    def _backfill(self) -> None:
        first, *others = self.waiting
        first_start_s, spare = self._reservation(first)
        self.waiting = [first]
        for job in others:
            is_over_by_then = self.now_s + job.limit_s <= first_start_s
            if job.cpus <= self.free and (is_over_by_then or job.cpus <= spare):
                spare -= 0 if is_over_by_then else job.cpus
                self._start(job)
            else:
                self.waiting.append(job)

    def _reservation(self, first: Tracked) -> tuple[float, float]:
        """Return when `first` can start if all use up their limits, and how many CPUs it leaves then."""
        free = self.free
        for end_s, cpus in sorted((limit_end_s, cpus) for _, cpus, limit_end_s in self.ends):
            free += cpus
            if free >= first.cpus:
                return max(end_s, self.now_s + 1), free - first.cpus
        return math.inf, free

    def _start(self, job: Tracked) -> None:
        self.free -= job.cpus
        end_s = self.now_s + max(1.0, self.draw_s(job, 0.0))
        heapq.heappush(self.ends, (end_s, job.cpus, self.now_s + job.limit_s))
