"""What became of jobs like this one: the last ones submitted, and the recent waits of those that started."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable
from functools import partial

from overspill_sidecar.wait.decaying import RecentMean
from overspill_sidecar.wait.tracked import Bounded, Tracked

#: Kinds of likeness, by which a few bytes are kept for this many of the latest users, sizes and partitions.
_KEPT = 30_000
_few: Callable[[], deque[Tracked]] = partial(deque, maxlen=8)
_many: Callable[[], deque[Tracked]] = partial(deque, maxlen=24)
#: Of the look-alikes so many at most are looked at.
_LOOKED_AT = 20
_LONG_S = 1800.0
_FAST_SHARE, _SLOW_SHARE = 0.2, 0.1
#: What stands for the time since the last look-alike where there is none: ln of a month.
_NEVER = 15.0
#: What stands for the logarithm of the wait before anything is known: two and a half minutes.
_UNKNOWN = 5.0

Key = tuple[Hashable, ...]


class Lookalikes:
    """Memories of jobs, by likeness."""

    __slots__ = ("recent", "waits")

    def __init__(self) -> None:
        self.recent: Bounded[Key, deque[Tracked]] = Bounded(_KEPT)
        self.waits: Bounded[Key, RecentMean] = Bounded(_KEPT)

    def submitted(self, job: Tracked) -> None:
        for key, make in _likenesses(job):
            self.recent.made(key, make).append(job)

    def started(self, job: Tracked, now_s: float) -> None:
        wait = math.log1p(max(0.0, now_s - job.submit_s))
        self.waits.made(("g",), RecentMean).add(wait, _SLOW_SHARE)
        for key in _groups(job):
            self.waits.made(key, RecentMean).add(wait, _FAST_SHARE)

    def usual_wait(self) -> float:
        """Return ln(1 + seconds) of what jobs waited of late."""
        mean = self.waits.get(("g",))
        return _UNKNOWN if mean is None else mean.or_else(_UNKNOWN)

    def mean_waits(self, job: Tracked) -> list[float]:
        """Return the recent mean of ln(1 + seconds) of each group that `job` is of."""
        usual = self.usual_wait()
        means = (self.waits.get(key) for key in _groups(job))
        return [usual, *(usual if mean is None else mean.or_else(usual) for mean in means)]

    def outcomes(self, job: Tracked, now_s: float) -> list[float]:
        """Return six numbers for each likeness: what became of the last jobs, as far as is known by now."""
        usual = self.usual_wait()
        numbers: list[float] = []
        for key, _ in _likenesses(job):
            numbers += _outcome(self.recent.get(key) or (), now_s, usual)
        return numbers


def _likenesses(job: Tracked) -> tuple[tuple[Key, Callable[[], deque[Tracked]]], ...]:
    return (
        (("ul", job.user, job.size, job.length), _few),
        (("u", job.user), _few),
        (("psl", job.partition, job.size, job.length), _few),
        (("s", job.size), _many),
        (("g",), _many),
    )


def _groups(job: Tracked) -> tuple[Key, ...]:
    return (
        ("p", job.partition),
        ("s", job.size),
        ("l", job.length),
        ("ps", job.partition, job.size),
        ("sl", job.size, job.length),
        ("u", job.user),
        ("us", job.user, job.size),
        ("a", job.account),
        ("q", job.qos),
    )


def _outcome(jobs: deque[Tracked] | tuple[Tracked, ...], now_s: float, usual: float) -> tuple[float, ...]:
    """Return of the latest: wait, whether it waits still, age; of all: mean wait, share still waiting, share long."""
    count = waiting = long = 0
    total = latest_wait = latest_waits = latest_age = 0.0
    for job in reversed(jobs):
        if job.is_gone:
            continue
        start_s = job.start_s
        wait_s = (now_s if start_s is None else start_s) - job.submit_s
        wait = math.log1p(wait_s) if wait_s > 0 else 0.0
        if not count:
            latest_wait, latest_waits, latest_age = wait, float(start_s is None), now_s - job.submit_s
        count += 1
        total += wait
        waiting += start_s is None
        long += wait_s > _LONG_S
        if count >= _LOOKED_AT:
            break
    if not count:
        return usual, 0.0, _NEVER, usual, 0.0, float(usual > math.log1p(_LONG_S))
    age = math.log1p(latest_age) if latest_age > 0 else 0.0
    return latest_wait, latest_waits, age, total / count, waiting / count, long / count
