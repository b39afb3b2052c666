"""Who says whether a job would wait too long: nobody, one who always says so, one who knows, or a wait model."""

from __future__ import annotations

from typing import Protocol

from overspill_sidecar.simulation.local import LocalSite
from overspill_sidecar.simulation.pool import Change
from overspill_sidecar.simulation.workload import ReplayedJob


class Foresight(Protocol):
    """Is asked of each job before it is told that the job came, and is told of jobs at home only."""

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:
        """Tell whether the job, which comes now, would wait longer than this at home; None if that is not known."""
        ...

    def submitted(self, job: ReplayedJob) -> None:
        """Take note of a job that stays."""
        ...

    def changed(self, job: ReplayedJob, change: Change) -> None:
        """Take note of a start or end of a job that stayed."""
        ...


class Unaware:
    """Takes note of nothing."""

    def submitted(self, job: ReplayedJob) -> None:
        pass

    def changed(self, job: ReplayedJob, change: Change) -> None:
        pass


class Constant(Unaware):
    """Says the same of every job."""

    def __init__(self, *, answer: bool | None) -> None:
        self._answer = answer

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:  # noqa: ARG002 - whatever they are
        return self._answer


class Oracle(Unaware):
    """Knows how long everything runs, but not who will come."""

    def __init__(self, local: LocalSite) -> None:
        self._local = local

    def would_exceed(self, job: ReplayedJob, threshold_s: float) -> bool | None:
        return self._local.wait_s(job, threshold_s) > threshold_s
