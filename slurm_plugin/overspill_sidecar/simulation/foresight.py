"""Who says whether a job would wait too long: nobody, one who always says so, one who knows, or a wait model."""

from __future__ import annotations

import math
from typing import Protocol

from overspill_sidecar.simulation.local import LocalSite
from overspill_sidecar.simulation.pool import Change
from overspill_sidecar.simulation.workload import ReplayedJob
from overspill_sidecar.wait import WaitEstimate, WaitGoingOn


class Foresight(Protocol):
    """Is asked of each job before it is told that the job came, and is told of jobs at home only."""

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:
        """Tell whether the job, which comes now, would wait longer than this at home; None if that is not known."""
        ...

    def outlook(self, job: ReplayedJob, now_s: float) -> WaitEstimate | None:
        """Return the whole wait of a job that waits at home, what has passed of it included; None: not known."""
        ...

    def submitted(self, job: ReplayedJob) -> None:
        """Take note of a job that stays."""
        ...

    def withdrawn(self, job: ReplayedJob, now_s: float) -> None:
        """Take note of a job that stayed, and goes after all before it has started."""
        ...

    def changed(self, job: ReplayedJob, change: Change) -> None:
        """Take note of a start or end of a job that stayed."""
        ...


class Unaware:
    """Takes note of nothing."""

    def submitted(self, job: ReplayedJob) -> None:
        pass

    def withdrawn(self, job: ReplayedJob, now_s: float) -> None:
        pass

    def changed(self, job: ReplayedJob, change: Change) -> None:
        pass


class Constant(Unaware):
    """Says the same of every job."""

    def __init__(self, *, answer: bool | None) -> None:
        self._answer = answer

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:  # noqa: ARG002 - whatever they are
        return self._answer

    def outlook(self, job: ReplayedJob, now_s: float) -> WaitEstimate | None:  # noqa: ARG002 - whatever they are
        return None if self._answer is None else WaitEstimate(math.inf if self._answer else 0.0, is_upper_bound=False)


class Oracle(Unaware):
    """Knows how long everything runs, but not who will come."""

    def __init__(self, local: LocalSite) -> None:
        self._local = local
        #: Keys of those that would wait too long as they came.
        self._bad: set[int] = set()

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:
        if self._local.wait_s(job, threshold_s) <= threshold_s:
            return False
        self._bad.add(job.key)
        return True

    def outlook(self, job: ReplayedJob, now_s: float) -> WaitEstimate | None:
        """Who came after the job may have made it wait longer than could be known."""
        waited_s = now_s - job.at_s
        return WaitGoingOn(math.inf if job.key in self._bad else waited_s, is_upper_bound=False, waited_s=waited_s)
