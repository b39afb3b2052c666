"""A queue that behaves like one: first come, first served with backfill, users with habits, days and nights."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import dataclass

from overspill_sidecar.history import PastJob

#: Of the machine.
CPUS = 128
_USERS = 12
_DAY_S = 86400.0


@dataclass(frozen=True, slots=True)
class _Habit:
    cpus: int
    limit_s: int
    share_of_limit: float


def simulated_jobs(count: int, seed: int = 1, load: float = 0.95) -> list[PastJob]:
    """Return jobs with the waits that a queue with backfill gives them; `load` drifts by a third either way."""
    random_numbers = random.Random(seed)  # noqa: S311 - a workload, not a secret
    habits = [_habit(random_numbers) for _ in range(_USERS)]
    queue, now = _Queue(), 0.0
    for number in range(count):
        user = min(int(random_numbers.expovariate(0.4)), _USERS - 1)
        habit = habits[user]
        run_s = max(10.0, habit.limit_s * min(1.0, random_numbers.lognormvariate(0, 0.5) * habit.share_of_limit))
        now += random_numbers.expovariate(load * _weight(now) * CPUS / (habit.cpus * run_s))
        queue.submit(_Job(number, now, habit.cpus, float(habit.limit_s), run_s, f"u{user}"))
    queue.play_until(math.inf)
    return sorted(queue.done, key=lambda job: job.submit_s)


def _weight(now_s: float) -> float:
    """Return how busy users are: by day more than by night, some weeks more than others."""
    day = 1 + 0.5 * math.sin(2 * math.pi * now_s / _DAY_S)
    return day * (1 + 0.33 * math.sin(2 * math.pi * now_s / (9 * _DAY_S)))


def _habit(random_numbers: random.Random) -> _Habit:
    cpus = 2 ** random_numbers.randrange(7)
    return _Habit(cpus, 600 * 2 ** random_numbers.randrange(7), random_numbers.uniform(0.1, 0.9))


@dataclass(frozen=True, slots=True)
class _Job:
    number: int
    submit_s: float
    cpus: int
    limit_s: float
    run_s: float
    user: str


class _Queue:
    """A machine under EASY backfill: the first job's start is never put off by one behind it."""

    def __init__(self) -> None:
        self._free = CPUS
        self._waiting: list[_Job] = []
        self._running: list[tuple[float, int, int, float]] = []
        self.done: list[PastJob] = []

    def submit(self, job: _Job) -> None:
        self.play_until(job.submit_s)
        self._waiting.append(job)
        self._schedule(job.submit_s)

    def play_until(self, now_s: float) -> None:
        while self._running and self._running[0][0] <= now_s:
            end_s, _, cpus, _ = heapq.heappop(self._running)
            self._free += cpus
            self._schedule(end_s)

    def _schedule(self, now_s: float) -> None:
        while self._waiting and self._waiting[0].cpus <= self._free:
            self._start(self._waiting.pop(0), now_s)
        if not self._waiting:
            return
        shadow_s, spare = self._reservation(self._waiting[0].cpus)
        for job in self._waiting[1:]:
            is_in_time = now_s + job.limit_s <= shadow_s
            if job.cpus <= self._free and (is_in_time or job.cpus <= spare):
                spare -= 0 if is_in_time else job.cpus
                self._waiting.remove(job)
                self._start(job, now_s)

    def _reservation(self, cpus: int) -> tuple[float, int]:
        """Return when so many CPUs are free by the limits, and how many are left over then."""
        free = self._free
        for limit_end_s, released in sorted((limit_end_s, released) for _, _, released, limit_end_s in self._running):
            free += released
            if free >= cpus:
                return limit_end_s, free - cpus
        raise AssertionError("a job wider than the machine")

    def _start(self, job: _Job, now_s: float) -> None:
        self._free -= job.cpus
        heapq.heappush(self._running, (now_s + job.run_s, job.number, job.cpus, now_s + job.limit_s))
        self.done.append(
            PastJob(
                job_id=str(job.number),
                submit_s=job.submit_s,
                start_s=now_s,
                end_s=now_s + job.run_s,
                cpus=job.cpus,
                time_limit_s=int(job.limit_s),
                user=job.user,
                partition="batch",
            )
        )
