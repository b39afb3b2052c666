"""Free CPUs over time: steps that only ever say how many CPUs nobody has planned for."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable


class Profile:
    """Free CPUs from now on, as steps.

    Not a plan that could be carried out: CPUs of different nodes are summed, so a job that needs them together may
    wait longer than `earliest_s` says.
    """

    def __init__(self, free_cpus: float, releases: Iterable[tuple[float, float]]) -> None:
        """Start with `free_cpus` now and the CPUs that running jobs release, each `(seconds from now, cpus)`."""
        self._starts: list[float] = [0.0]
        self._free: list[float] = [max(0.0, free_cpus)]
        for at_s, cpus in sorted((max(0.0, at_s), cpus) for at_s, cpus in releases if math.isfinite(at_s)):
            if at_s == self._starts[-1]:
                self._free[-1] += cpus
            else:
                self._starts.append(at_s)
                self._free.append(self._free[-1] + cpus)

    def __len__(self) -> int:
        return len(self._starts)

    def copy(self) -> Profile:
        """Return one that does not change with this."""
        copied = Profile(0.0, ())
        copied._starts, copied._free = self._starts.copy(), self._free.copy()
        return copied

    def earliest_s(self, cpus: float, duration_s: float) -> float:
        """Return the seconds from now at which `cpus` are free for `duration_s`; infinite if they never are."""
        starts, free = self._starts, self._free
        candidate: float | None = None
        for index, available in enumerate(free):
            if available < cpus:
                candidate = None
                continue
            if candidate is None:
                candidate = starts[index]
            if index + 1 == len(starts) or starts[index + 1] >= candidate + duration_s:
                return candidate
        return math.inf

    def take(self, at_s: float, cpus: float, duration_s: float) -> None:
        """Plan `cpus` for `duration_s` from `at_s` on; where fewer are free, all of them."""
        first = self._split(at_s)
        last = len(self._starts) if math.isinf(duration_s) else self._split(at_s + duration_s)
        for index in range(first, last):
            self._free[index] = max(0.0, self._free[index] - cpus)

    def pour(self, cpu_seconds: float) -> None:
        """Use up the earliest free CPUs, whatever their number, until `cpu_seconds` are spent."""
        for index, available in enumerate(self._free):
            end_s = self._starts[index + 1] if index + 1 < len(self._starts) else math.inf
            if available <= 0:
                continue
            capacity = available * (end_s - self._starts[index])
            if capacity > cpu_seconds:
                dry_until_s = self._starts[index] + cpu_seconds / available
                self.take(self._starts[index], available, dry_until_s - self._starts[index])
                return
            self._free[index] = 0.0
            cpu_seconds -= capacity

    def _split(self, at_s: float) -> int:
        """Return the index of the step that begins at `at_s`, which is made if there is none."""
        index = bisect_right(self._starts, at_s) - 1
        if self._starts[index] == at_s:
            return index
        self._starts.insert(index + 1, at_s)
        self._free.insert(index + 1, self._free[index])
        return index + 1
