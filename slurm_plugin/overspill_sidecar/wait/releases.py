"""When running jobs are expected to give their CPUs back, in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: Later than any job ends: what is not released by anybody who runs now.
NEVER_S = 1e7
_FIRST_ROOM = 64


class Releases:
    """CPUs by the time at which they are expected back. Adding and removing moves memory, a few bytes for each job."""

    __slots__ = ("count", "cpus", "times", "totals", "totals_known")

    def __init__(self) -> None:
        self.times: NDArray[np.float64] = np.empty(_FIRST_ROOM)
        self.cpus: NDArray[np.float64] = np.empty(_FIRST_ROOM)
        self.totals: NDArray[np.float64] = np.empty(0)
        self.totals_known = True
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
        self.totals_known = False

    def remove(self, at_s: float, cpus: float) -> None:
        """Take back what was added with exactly these values."""
        count = self.count
        index = int(self.times[:count].searchsorted(at_s))
        while self.times[index] == at_s and self.cpus[index] != cpus:
            index += 1
        for array in (self.times, self.cpus):
            array[index : count - 1] = array[index + 1 : count]
        self.count -= 1
        self.totals_known = False

    def seconds_until(self, cpus: float, now_s: float) -> float:
        """Return in how many seconds this many CPUs will have come back; 0 if none are needed or they are overdue."""
        if cpus <= 0:
            return 0.0
        if not self.totals_known:
            self.totals = self.cpus[: self.count].cumsum()
            self.totals_known = True
        index = int(self.totals.searchsorted(cpus))
        return max(0.0, float(self.times[index]) - now_s) if index < self.count else NEVER_S
