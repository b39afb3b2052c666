"""How long jobs like this one ran: what a scenario draws from."""

from __future__ import annotations

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
_SHARES_COUNTED, _SHARES_KEPT = 20, 64
#: A job that has run for longer than all it is likened to will run for one of these shares of what its limit leaves, or
#: of a minute.
_REST_SHARES = 0.1, 0.3, 0.5, 0.7, 0.9
_LEAST_REST_S = 60.0


class RunTimes:
    """Run times of the last jobs of each user, and of those of one kind: a user's with the same CPUs and time limit."""

    __slots__ = ("kinds", "shares", "users")

    def __init__(self) -> None:
        self.kinds: Bounded[tuple[str, int, float], deque[float]] = Bounded(_KEPT_KINDS)
        self.users: Bounded[str, deque[float]] = Bounded(_KEPT_USERS)
        self.shares: deque[float] = deque(maxlen=_SHARES_KEPT)

    def ended(self, job: Tracked, ran_s: float) -> None:
        self.kinds.made((job.user, job.cpus, job.limit_s), _few).append(ran_s)
        self.users.made(job.user, _some).append(ran_s)
        self.shares.append(min(1.0, ran_s / job.limit_s))

    def likely(self, job: Tracked, ran_s: float = 0.0) -> list[float]:
        """Return run times, each as likely as the others, of a job that has run for `ran_s` already; never none."""
        limit_s = job.limit_s
        kind = self.kinds.get((job.user, job.cpus, limit_s)) or ()
        # Those of its kind are, or were, among the user's as well: they count most.
        likened = [*kind, *kind, *(self.users.get(job.user) or ())]
        if len(likened) < _ENOUGH:
            likened += [share * limit_s for share in list(self.shares)[-_SHARES_COUNTED:]]
        if ran_s < limit_s:
            longer = [min(run_time_s, limit_s) for run_time_s in likened if run_time_s > ran_s]
            longer = longer or [share * limit_s for share in self.shares if share * limit_s > ran_s]
            if longer:
                return longer
        return [ran_s + share * max(_LEAST_REST_S, limit_s - ran_s) for share in _REST_SHARES]
