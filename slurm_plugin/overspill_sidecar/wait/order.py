"""In which order the site serves: first come, first served, or those who have used less before."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from overspill_sidecar.wait.accounts import UserShare
from overspill_sidecar.wait.decaying import RecentMean
from overspill_sidecar.wait.tracked import Bounded, Tracked

#: Of the pending jobs so many are compared with one that starts.
_COMPARED = 100
#: How much each start that tells the orders apart counts.
_SHARE_OF_START = 0.02
_LIKELIER = 0.5


class ServiceOrder:
    """Learns from who starts before whom.

    A start tells something if a job of the partition waits on that could have been started in its place, being as small
    and as short: then its turn was yet to come. The orders say differently whose turn it was if the older of the two is
    the heavier user's.
    """

    __slots__ = ("by_usage", "users")

    def __init__(self, users: Bounded[str, UserShare]) -> None:
        self.users = users
        #: Of the starts that tell the orders apart, the share that went by usage.
        self.by_usage = RecentMean()

    def started(self, job: Tracked, pending: Mapping[int | str, Tracked], now_s: float) -> None:
        """Learn from the start of a job that is not among the pending ones any more."""
        usage = self._usage(job.user, now_s)
        went_by_usage = went_by_age = False
        for other in islice(pending.values(), _COMPARED):
            if not _is_alternative(other, job):
                continue
            is_younger = job.submit_s > other.submit_s
            is_lighter = usage < self._usage(other.user, now_s)
            went_by_usage |= is_younger and is_lighter
            went_by_age |= not is_younger and not is_lighter
        if went_by_usage != went_by_age:
            self.by_usage.add(float(went_by_usage), _SHARE_OF_START)

    def sort(self, jobs: list[Tracked], now_s: float) -> list[Tracked]:
        """Return jobs, which are in order of submission, in the order in which their turns come."""
        if self.by_usage.or_else(0.0) <= _LIKELIER:
            return jobs
        usage = {user: self._usage(user, now_s) for user in {job.user for job in jobs}}
        return sorted(jobs, key=lambda job: usage[job.user])

    def _usage(self, name: str, now_s: float) -> float:
        user = self.users.get(name)
        return user.usage.at(now_s) if user else 0.0


def _is_alternative(other: Tracked, job: Tracked) -> bool:
    """Tell whether somebody else's `other` could have been started in place of `job`."""
    is_as_easy = other.cpus <= job.cpus and other.limit_s <= job.limit_s
    return is_as_easy and other.user != job.user and other.partition == job.partition
