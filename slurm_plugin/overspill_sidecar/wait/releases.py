"""When running jobs are expected to give their CPUs back, in order."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

#: Later than any job ends: what is not released by anybody who runs now.
NEVER_S = 1e7
_FIRST_ROOM = 64


class Releases:
    """CPUs by the time at which they are expected back. Adding and removing moves memory, a few bytes for each job."""

    __slots__ = ("count", "cpus", "moments", "sums_known", "times", "totals")

    def __init__(self) -> None:
        self.times: NDArray[np.float64] = np.empty(_FIRST_ROOM)
        self.cpus: NDArray[np.float64] = np.empty(_FIRST_ROOM)
        #: Sums up to each: of CPUs, and of CPUs times when they come back.
        self.totals: NDArray[np.float64] = np.empty(0)
        self.moments: NDArray[np.float64] = np.empty(0)
        self.sums_known = True
        self.count = 0

    def add(self, at_s: float, cpus: float) -> None:
        count = self.count
        if count == len(self.times):
            self.times = np.concatenate([self.times, np.empty(count)])
            self.cpus = np.concatenate([self.cpus, np.empty(count)])
        index = int(self.times[:count].searchsorted(at_s))
        for array, value in ((self.times, at_s), (self.cpus, cpus)):
            array[index + 1 : count + 1] = array[index:count]
            array[index] = value
        self.count += 1
        self.sums_known = False

    def remove(self, at_s: float, cpus: float) -> None:
        """Take back what was added with exactly these values."""
        count = self.count
        index = int(self.times[:count].searchsorted(at_s))
        while self.times[index] == at_s and self.cpus[index] != cpus:
            index += 1
        for array in (self.times, self.cpus):
            array[index : count - 1] = array[index + 1 : count]
        self.count -= 1
        self.sums_known = False

    def seconds_until(self, cpus: float, now_s: float) -> float:
        """Return in how many seconds this many CPUs will have come back; 0 if none are needed or they are overdue."""
        if cpus <= 0:
            return 0.0
        self.sum_up()
        index = int(self.totals.searchsorted(cpus))
        return max(0.0, float(self.times[index]) - now_s) if index < self.count else NEVER_S

    def cpus_by(self, at_s: float) -> float:
        """Return how many CPUs will have come back by then."""
        self.sum_up()
        index = int(self.times[: self.count].searchsorted(at_s, side="right"))
        return float(self.totals[index - 1]) if index else 0.0

    def seconds_to_do(self, work: float, free: float, now_s: float) -> float:
        """Return in how many seconds the CPUs that are free, and those that come back, can have done this much work.

        As if work could be poured: no job is too wide for what is free.

        Args:
            work: CPU seconds.
            free: CPUs free now; fewer than none if more run than there are.
            now_s: the moment from which to count.
        """
        if work <= 0:
            return 0.0
        self.sum_up()
        # Those that are overdue count as free.
        first = int(self.times[: self.count].searchsorted(now_s))
        overdue, overdue_moments = self._sums_of(first)
        free = max(0.0, free) + overdue

        def done_by(index: int) -> float:
            """Return the CPU seconds that can be done from now until the release of this index."""
            cpus, moments = self._sums_of(index)
            back = cpus - overdue
            return (self.times.item(index) - now_s) * (free + back) - (moments - overdue_moments - now_s * back)

        index = bisect_left(range(self.count), work, lo=first, key=done_by)
        start_s = self.times.item(index - 1) - now_s if index > first else 0.0
        done = done_by(index - 1) if index > first else 0.0
        capacity = free + self._sums_of(index)[0] - overdue
        return min(NEVER_S, start_s + (work - done) / capacity) if capacity > 0 else NEVER_S

    def _sums_of(self, count: int) -> tuple[float, float]:
        """Return the CPUs of the first releases, and the sum of these times when they come back."""
        return (self.totals.item(count - 1), self.moments.item(count - 1)) if count else (0.0, 0.0)

    def sum_up(self) -> None:
        """Bring the sums up to date, as every question does that needs them."""
        if not self.sums_known:
            cpus = self.cpus[: self.count]
            self.totals = cpus.cumsum()
            self.moments = (cpus * self.times[: self.count]).cumsum()
            self.sums_known = True
