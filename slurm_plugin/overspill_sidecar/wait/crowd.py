"""The pending jobs by size and length: how many easier ones wait, and since when, without a walk through them."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.tracked import LENGTHS, SIZES, Tracked

_LONG_AGO_S = -1e9
_NEVER_S = 1e12


class Crowd:
    """Sums over the jobs of each class, and the last start in each."""

    __slots__ = ("last_start_s", "last_submit_s", "last_wait_s", "members", "oldest_s", "sums", "youngest_s")

    def __init__(self) -> None:
        #: Jobs, CPUs, CPU seconds expected, and the sum of submit times, of each class.
        self.sums: NDArray[np.float64] = np.zeros((4, SIZES, LENGTHS))
        self.oldest_s: NDArray[np.float64] = np.full((SIZES, LENGTHS), _NEVER_S)
        self.youngest_s: NDArray[np.float64] = np.full((SIZES, LENGTHS), _LONG_AGO_S)
        #: Of the last job of the class that started: when, after which wait, submitted when (the latest such).
        self.last_start_s: NDArray[np.float64] = np.full((SIZES, LENGTHS), _LONG_AGO_S)
        self.last_wait_s: NDArray[np.float64] = np.zeros((SIZES, LENGTHS))
        self.last_submit_s: NDArray[np.float64] = np.full((SIZES, LENGTHS), _LONG_AGO_S)
        self.members: list[OrderedDict[int | str, Tracked]] = [OrderedDict() for _ in range(SIZES * LENGTHS)]

    def join(self, job: Tracked) -> None:
        self.members[job.size * LENGTHS + job.length][job.key] = job
        self._count(job, 1.0)

    def leave(self, job: Tracked) -> None:
        del self.members[job.size * LENGTHS + job.length][job.key]
        self._count(job, -1.0)

    def note_start(self, job: Tracked, now_s: float) -> None:
        where = job.size, job.length
        self.last_start_s[where] = now_s
        self.last_wait_s[where] = now_s - job.submit_s
        self.last_submit_s[where] = max(self.last_submit_s[where], job.submit_s)

    def _count(self, job: Tracked, sign: float) -> None:
        where = job.size, job.length
        members = self.members[job.size * LENGTHS + job.length]
        sums = self.sums[:, job.size, job.length]
        if members:
            sums += (sign, sign * job.cpus, sign * job.work, sign * job.submit_s)
            self.oldest_s[where] = next(iter(members.values())).submit_s
            self.youngest_s[where] = next(reversed(members.values())).submit_s
        else:
            # Exactly nothing, whatever rounding has left.
            sums[:] = 0.0
            self.oldest_s[where], self.youngest_s[where] = _NEVER_S, _LONG_AGO_S
