"""The queue played forward: first come, first served with backfill, several times with other luck.

How long jobs will run is not known, only how long jobs like them ran. So each scenario draws run times from these, and
plays what a scheduler would do that knows only their limits. The share of scenarios in which a job waits for longer
than some time tells how probable that is. They know nothing of priorities, of nodes, and of jobs that are yet to come.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort
from collections.abc import Callable

from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.tracked import Tracked

#: They are played up to the last of these waits.
WAITS_S = tuple(wait_s for wait_s in GRID_S if wait_s <= 7200)  # noqa: PLR2004 - two hours
#: So many scenarios at most; fewer, or none, where they would cost more than so many looks at a job (0.05 us each).
#: It keeps a question at about a millisecond. Work is counted, not timed: the same queue is to have the same answer.
_SCENARIOS = 15
_MOST_JOBS, _MOST_LOOKS = 300, 20_000
#: What else costs time, in looks: finding a running job's run times, drawing one of them, a start, an end.
_LOOKS_OF_LIKELY, _LOOKS_OF_DRAW, _LOOKS_OF_START, _LOOKS_OF_END = 50, 8, 16, 22
#: As if a quarter of a scenario more had said either: none of them is ever certain.
_DOUBT = 0.25


def opinion_on(job: Tracked, queue: QueueState, now_s: float) -> list[float]:
    """Return a logit for each of `WAITS_S`; NaN if playing would be too much work, or a limit keeps the job back."""
    if job.is_limited:
        return [math.nan] * len(WAITS_S)
    free = queue.cpus - queue.everybody.running_cpus
    if not queue.pending and job.cpus <= free:
        waits_s = [0.0] * _SCENARIOS
    elif len(queue.pending) + len(queue.running) > _MOST_JOBS:
        return [math.nan] * len(WAITS_S)
    else:
        waits_s = _waits_s(job, queue, now_s)
    if not waits_s:
        return [math.nan] * len(WAITS_S)
    longer = (sum(wait_s > limit_s for wait_s in waits_s) for limit_s in WAITS_S)
    return [math.log((count + _DOUBT) / (len(waits_s) - count + _DOUBT)) for count in longer]


def _waits_s(job: Tracked, queue: QueueState, now_s: float) -> list[float]:
    """Return the wait in each scenario, infinite beyond the last of `WAITS_S`; none if a single one is too much."""
    luck = random.Random(1).random  # noqa: S311 - no secret: the same queue is to have the same answer
    cast = _Cast(job, queue, now_s)
    looks_left = _MOST_LOOKS - _LOOKS_OF_LIKELY * len(cast.running)
    waits_s: list[float] = []
    while len(waits_s) < _SCENARIOS:
        scenario = _Scenario(job, queue, now_s, cast, luck)
        start_s = scenario.play(looks_left)
        if start_s is None:
            break
        waits_s.append(start_s - now_s)
        looks_left -= scenario.looks
        if waits_s == [0.0]:
            # What happens at once depends on no luck.
            return waits_s * _SCENARIOS
    return waits_s


#: When its limit would end a job, and its CPUs.
_LimitEnd = tuple[float, int]


class _Cast:
    """The jobs in order of their turns, and how long they may run."""

    __slots__ = ("limit_ends", "pending", "queue", "running", "waiting")

    def __init__(self, job: Tracked, queue: QueueState, now_s: float) -> None:
        self.queue = queue
        competing = [other for other in queue.pending.values() if not other.is_limited]
        self.waiting = queue.order.sort([*competing, job], now_s)
        #: Of each running job: when it starts, its run times, and when its limit would end it, with its CPUs.
        self.running: list[tuple[float, list[float], _LimitEnd]] = []
        for other in queue.running.values():
            start_s = now_s if other.start_s is None else other.start_s
            likely = queue.run_times.likely(other, now_s - start_s)
            self.running.append((start_s, likely, (start_s + other.limit_s, other.cpus)))
        self.limit_ends = sorted(limit_end for *_, limit_end in self.running)
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

    __slots__ = (
        *("cast", "ends", "free", "is_started", "job", "limit_ends"),
        *("looks", "luck", "now_s", "until_s", "waiting"),
    )

    def __init__(self, job: Tracked, queue: QueueState, now_s: float, cast: _Cast, luck: Callable[[], float]) -> None:
        self.job = job
        self.is_started = False
        self.now_s = now_s
        self.until_s = now_s + WAITS_S[-1]
        self.cast = cast
        self.luck = luck
        self.free = queue.cpus - queue.everybody.running_cpus
        self.waiting = cast.waiting.copy()
        #: Of each running job: when it ends, and when its limit would end it. A heap; and these limits, rising.
        self.ends = [
            (max(start_s + likely[int(luck() * len(likely))], now_s + 1), limit_end)
            for start_s, likely, limit_end in cast.running
        ]
        heapq.heapify(self.ends)
        self.limit_ends = cast.limit_ends.copy()
        #: What it has cost, in looks at a waiting job.
        self.looks = _LOOKS_OF_DRAW * len(self.ends)

    def play(self, most_looks: int) -> float | None:
        """Return when the job starts; infinity is later than anybody wants to know. None: too many looks."""
        while self.looks < most_looks:
            self._schedule()
            if self.is_started:
                return self.now_s
            if not self.ends or self.ends[0][0] > self.until_s:
                return math.inf
            self.now_s = self.ends[0][0]
            while self.ends and self.ends[0][0] <= self.now_s:
                self._end()
        return None

    def _schedule(self) -> None:
        """Start jobs in order; then those that fit and do not delay the first that has to wait."""
        waiting, count = self.waiting, 0
        while count < len(waiting) and waiting[count].cpus <= self.free:
            self._start(waiting[count])
            count += 1
        del waiting[:count]
        self.looks += 1
        if self.free > 0 and waiting:
            self.looks += len(waiting)
            fitting = [job for job in waiting[1:] if job.cpus <= self.free]
            if fitting:
                self._backfill(waiting[0], fitting)

    def _backfill(self, first: Tracked, fitting: list[Tracked]) -> None:
        first_start_s, spare = self._reservation(first)
        started: set[Tracked] = set()
        self.looks += 2 * len(fitting)
        for job in fitting:
            is_over_by_then = self.now_s + job.limit_s <= first_start_s
            if job.cpus <= self.free and (is_over_by_then or job.cpus <= spare):
                spare -= 0 if is_over_by_then else job.cpus
                self._start(job)
                started.add(job)
        if started:
            self.waiting = [job for job in self.waiting if job not in started]

    def _reservation(self, first: Tracked) -> tuple[float, float]:
        """Return when `first` can start if all use up their limits, and how many CPUs it leaves then."""
        free = self.free
        for looked_at, (end_s, cpus) in enumerate(self.limit_ends, 1):
            free += cpus
            if free >= first.cpus:
                self.looks += looked_at
                return max(end_s, self.now_s + 1), free - first.cpus
        self.looks += len(self.limit_ends)
        return math.inf, free

    def _start(self, job: Tracked) -> None:
        self.looks += _LOOKS_OF_START
        self.free -= job.cpus
        self.is_started |= job is self.job
        likely = self.cast.of_pending(job)
        end_s = self.now_s + max(1.0, likely[int(self.luck() * len(likely))])
        limit_end = self.now_s + job.limit_s, job.cpus
        heapq.heappush(self.ends, (end_s, limit_end))
        insort(self.limit_ends, limit_end)

    def _end(self) -> None:
        """Let the next job end."""
        self.looks += _LOOKS_OF_END
        _, limit_end = heapq.heappop(self.ends)
        self.free += limit_end[1]
        del self.limit_ends[bisect_left(self.limit_ends, limit_end)]
