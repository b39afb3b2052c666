"""The queue played forward: first come, first served with backfill, several times with other luck.

How long jobs will run is not known, only how long jobs like them ran. So each scenario draws run times from these, and
plays what a scheduler would do that knows only their limits. The share of scenarios in which a job waits for longer
than some time tells how probable that is. They know nothing of priorities, of nodes, and of jobs that are yet to come.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable

from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.tracked import Tracked

#: They are played up to the last of these waits.
WAITS_S = tuple(wait_s for wait_s in GRID_S if wait_s <= 7200)  # noqa: PLR2004 - two hours
#: So many scenarios at most. Fewer once so many jobs have been looked at in all, none where there are too many of them:
#: it keeps a prediction at about a millisecond.
_SCENARIOS = 15
_MOST_JOBS, _MOST_LOOKS = 300, 2500
#: As if a quarter of a scenario more had said either: none of them is ever certain.
_DOUBT = 0.25


def opinion_on(job: Tracked, queue: QueueState, now_s: float) -> list[float]:
    """Return a logit for each of `WAITS_S`; NaN if the queue is too long to be played."""
    free = queue.cpus - queue.everybody.running_cpus
    if not queue.pending and job.cpus <= free:
        waits_s = [0.0] * _SCENARIOS
    elif len(queue.pending) + len(queue.running) > _MOST_JOBS:
        return [math.nan] * len(WAITS_S)
    else:
        waits_s = _waits_s(job, queue, now_s)
    longer = (sum(wait_s > limit_s for wait_s in waits_s) for limit_s in WAITS_S)
    return [math.log((count + _DOUBT) / (len(waits_s) - count + _DOUBT)) for count in longer]


def _waits_s(job: Tracked, queue: QueueState, now_s: float) -> list[float]:
    """Return the wait in each scenario, infinite beyond the last of `WAITS_S`."""
    luck = random.Random(1).random  # noqa: S311 - no secret: the same queue is to have the same answer
    cast, looks = _Cast(job, queue, now_s), 0
    waits_s: list[float] = []
    while len(waits_s) < _SCENARIOS and looks < _MOST_LOOKS:
        scenario = _Scenario(job, queue, now_s, cast, luck)
        waits_s.append(scenario.play() - now_s)
        looks += scenario.looks
        if waits_s == [0.0]:
            # What happens at once depends on no luck.
            return waits_s * _SCENARIOS
    return waits_s


class _Cast:
    """The jobs in order of their turns, and how long they may run."""

    __slots__ = ("pending", "queue", "running", "waiting")

    def __init__(self, job: Tracked, queue: QueueState, now_s: float) -> None:
        self.queue = queue
        self.waiting = queue.order.sort([*queue.pending.values(), job], now_s)
        #: Of each running job: when it starts, its run times, its CPUs, and when its limit would end it.
        self.running: list[tuple[float, list[float], int, float]] = []
        for other in queue.running.values():
            start_s = now_s if other.start_s is None else other.start_s
            likely = queue.run_times.likely(other, now_s - start_s)
            self.running.append((start_s, likely, other.cpus, start_s + other.limit_s))
        #: Run times of those that wait, once they are asked for.
        self.pending: dict[tuple[str, int, float], list[float]] = {}

    def of_pending(self, job: Tracked) -> list[float]:
        kind = job.user, job.cpus, job.limit_s
        likely = self.pending.get(kind)
        if likely is None:
            likely = self.pending[kind] = self.queue.run_times.likely(job)
        return likely


class _Scenario:
    """One course of things."""

    __slots__ = ("cast", "ends", "free", "is_started", "job", "looks", "luck", "now_s", "until_s", "waiting")

    def __init__(self, job: Tracked, queue: QueueState, now_s: float, cast: _Cast, luck: Callable[[], float]) -> None:
        self.job = job
        self.is_started = False
        self.now_s = now_s
        self.until_s = now_s + WAITS_S[-1]
        self.cast = cast
        self.luck = luck
        self.free = queue.cpus - queue.everybody.running_cpus
        self.waiting = cast.waiting.copy()
        #: Of each running job: when it ends, its CPUs, and when its limit would end it. A heap.
        self.ends = [
            (max(start_s + likely[int(luck() * len(likely))], now_s + 1), cpus, limit_end_s)
            for start_s, likely, cpus, limit_end_s in cast.running
        ]
        heapq.heapify(self.ends)
        self.looks = len(self.ends)

    def play(self) -> float:
        """Return when the job starts; infinity is later than anybody wants to know."""
        while True:
            self._schedule()
            if self.is_started:
                return self.now_s
            if not self.ends or self.ends[0][0] > self.until_s:
                return math.inf
            self.now_s = self.ends[0][0]
            while self.ends and self.ends[0][0] <= self.now_s:
                self.free += heapq.heappop(self.ends)[1]

    def _schedule(self) -> None:
        """Start jobs in order; then those that fit and do not delay the first that has to wait."""
        waiting, count = self.waiting, 0
        self.looks += len(waiting)
        while count < len(waiting) and waiting[count].cpus <= self.free:
            self._start(waiting[count])
            count += 1
        del waiting[:count]
        if self.free > 0 and any(job.cpus <= self.free for job in waiting[1:]):
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
        self.is_started |= job is self.job
        likely = self.cast.of_pending(job)
        end_s = self.now_s + max(1.0, likely[int(self.luck() * len(likely))])
        heapq.heappush(self.ends, (end_s, job.cpus, self.now_s + job.limit_s))
