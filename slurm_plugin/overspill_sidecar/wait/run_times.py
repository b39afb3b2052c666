"""How long jobs like this one ran: what a scenario draws from."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from functools import partial

from overspill_sidecar.wait.tracked import Bounded, Tracked

#: So many users, and kinds of jobs of a user, are remembered, with so many of the last run times of each.
_KEPT_USERS, _KEPT_KINDS = 20_000, 30_000
_few: Callable[[], deque[float]] = partial(deque, maxlen=8)
_some: Callable[[], deque[float]] = partial(deque, maxlen=10)
#: With fewer run times of a user, jobs of all count, too: by the shares of their limits that they used.
_ENOUGH = 6
_SHARES = 20
#: A job that has run for longer than all it was likened to, and than its limit, runs for at least this much more.
_LITTLE_S = 60.0


class RunTimes:
    """Run times of the last jobs of each user, and of those of one kind: a user's with the same CPUs and time limit."""

    __slots__ = ("kinds", "shares", "users")

    def __init__(self) -> None:
        self.kinds: Bounded[tuple[str, int, float], deque[float]] = Bounded(_KEPT_KINDS)
        self.users: Bounded[str, deque[float]] = Bounded(_KEPT_USERS)
        self.shares: deque[float] = deque(maxlen=_SHARES)

    def ended(self, job: Tracked, ran_s: float) -> None:
        self.kinds.made((job.user, job.cpus, job.limit_s), _few).append(ran_s)
        self.users.made(job.user, _some).append(ran_s)
        self.shares.append(min(1.0, ran_s / job.limit_s))

    def likely(self, job: Tracked) -> list[float]:
        """Return the run times that are as likely as each other, the shortest first; none before any job has ended."""
        limit_s = job.limit_s
        kind = self.kinds.get((job.user, job.cpus, limit_s)) or ()
        # Those of its kind are among the user's as well, or were: they count most.
        likely = [*kind, *kind, *(self.users.get(job.user) or ())]
        if len(likely) < _ENOUGH:
            likely += [share * limit_s for share in self.shares]
        return sorted(min(limit_s, run_time_s) for run_time_s in likely)


def drawn_s(likely: list[float], ran_s: float, limit_s: float, luck: float) -> float:
    """Return how long a job runs in all that has run for `ran_s`; `luck` is from 0 up to 1."""
    first = bisect_right(likely, ran_s)
    if first < len(likely):
        return likely[first + int(luck * (len(likely) - first))]
    return ran_s + max(_LITTLE_S, (limit_s - ran_s) * luck)
