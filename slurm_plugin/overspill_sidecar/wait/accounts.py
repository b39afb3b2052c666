"""What is kept of all jobs together, of each user's, and of each partition's."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TypeVar

from overspill_sidecar.wait.decaying import DecayingPeak, DecayingSum, RecentMean
from overspill_sidecar.wait.releases import Releases
from overspill_sidecar.wait.tracked import Bounded, Tracked

LONG_AGO_S = -1e9
_HOUR_S, _TWO_DAYS_S = 3600.0, 172_800.0


@dataclass(slots=True, eq=False)
class Share:
    """Some of the jobs: all, one user's, or one partition's."""

    pending: OrderedDict[int | str, Tracked] = field(default_factory=OrderedDict)
    pending_cpus: float = 0.0
    pending_work: float = 0.0
    #: CPU seconds, if all used up their limits.
    pending_request: float = 0.0
    #: Sum of the submit times, from which their mean age comes.
    pending_submit_s: float = 0.0
    running: int = 0
    running_cpus: float = 0.0
    peak_cpus: DecayingPeak = field(default_factory=DecayingPeak)
    peak_jobs: DecayingPeak = field(default_factory=DecayingPeak)
    submissions: DecayingSum = field(default_factory=lambda: DecayingSum(_HOUR_S))
    starts: DecayingSum = field(default_factory=lambda: DecayingSum(_HOUR_S))
    last_submit_s: float = LONG_AGO_S
    last_start_s: float = LONG_AGO_S
    last_end_s: float = LONG_AGO_S

    def submitted(self, job: Tracked) -> None:
        self.pending[job.key] = job
        self.pending_cpus += job.cpus
        self.pending_work += job.work
        self.pending_request += job.cpus * job.limit_s
        self.pending_submit_s += job.submit_s
        self.submissions.add(1.0, job.submit_s)
        self.last_submit_s = job.submit_s

    def mean_age_s(self, now_s: float) -> float:
        """How long the pending jobs have waited on average; 0 if there are none."""
        return now_s - self.pending_submit_s / len(self.pending) if self.pending else 0.0

    def oldest_s(self, now_s: float) -> float | None:
        """How long the job at the head has waited; None if none is pending."""
        return now_s - next(iter(self.pending.values())).submit_s if self.pending else None

    def youngest_s(self, now_s: float) -> float | None:
        """How long the job submitted last of those pending has waited; None if none is."""
        return now_s - next(reversed(self.pending.values())).submit_s if self.pending else None

    def left_queue(self, job: Tracked) -> None:
        del self.pending[job.key]
        if self.pending:
            self.pending_cpus -= job.cpus
            self.pending_work -= job.work
            self.pending_request -= job.cpus * job.limit_s
            self.pending_submit_s -= job.submit_s
        else:
            # Exactly nothing, whatever rounding has left.
            self.pending_cpus = self.pending_work = self.pending_request = self.pending_submit_s = 0.0

    def started(self, job: Tracked, now_s: float) -> None:
        self.running += 1
        self.running_cpus += job.cpus
        self.peak_cpus.note(self.running_cpus, now_s)
        self.peak_jobs.note(self.running, now_s)
        self.starts.add(1.0, now_s)
        self.last_start_s = now_s

    def ended(self, job: Tracked, now_s: float) -> None:
        self.running -= 1
        self.running_cpus -= job.cpus
        self.last_end_s = now_s


@dataclass(slots=True, eq=False)
class UserShare(Share):
    """One user's jobs, and what they were like."""

    #: CPU seconds, of late; expected ones while a job runs.
    usage: DecayingSum = field(default_factory=lambda: DecayingSum(_TWO_DAYS_S))
    #: How long the last two jobs ran: the best guess at the next. Source: Tsafrir et al., IEEE TPDS 18(6), 2007.
    run_times_s: deque[float] = field(default_factory=lambda: deque(maxlen=2))
    share_of_limit: RecentMean = field(default_factory=RecentMean)
    last_job: Tracked | None = None

    @property
    def expected_s(self) -> float | None:
        return sum(self.run_times_s) / len(self.run_times_s) if self.run_times_s else None


@dataclass(slots=True, eq=False)
class PartitionShare(Share):
    """One partition's jobs."""

    releases: Releases = field(default_factory=Releases)


S = TypeVar("S", bound=Share)


class Shares(Bounded[str, S]):
    """Shares by name: one that has jobs stays, because what these do is still to be counted."""

    __slots__ = ()

    def is_needed(self, entry: S) -> bool:
        return bool(entry.pending or entry.running)
