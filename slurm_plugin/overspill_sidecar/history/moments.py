"""What happened to past jobs, in the order in which it happened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

from overspill_sidecar.history.past_job import PastJob


class Kind(IntEnum):
    """What happened; within one moment, in this order: what ends makes room for what starts."""

    ENDED = 0
    #: It left the queue and never ran.
    REMOVED = 1
    STARTED = 2
    #: Its wait began.
    SUBMITTED = 3


@dataclass(frozen=True, slots=True)
class Moment:
    """`job` is one of those given, and `key` tells attempts of one job apart: no two attempts share it."""

    at_s: float
    kind: Kind
    key: int
    job: PastJob


def moments(jobs: Iterable[PastJob]) -> Iterator[Moment]:
    """Yield what happened to `jobs` in order of time. A job that starts when it is submitted starts after that.

    All jobs are held in memory, about half a kilobyte each.
    """
    kept = list(jobs)
    happened = [entry for key, job in enumerate(kept) for entry in _of(key, job)]
    happened.sort()
    for at_s, _, kind, key in happened:
        yield Moment(at_s, Kind(kind), key, kept[key])


def _of(key: int, job: PastJob) -> Iterator[tuple[float, int, int, int]]:
    """Yield (time, rank within that time, kind, key) of each thing that happened to a job.

    A job that starts or leaves at the second of its submission does so after all that was there before it.
    """
    queued_s = job.queued_s
    yield queued_s, Kind.SUBMITTED, Kind.SUBMITTED, key
    if job.start_s is None:
        if job.end_s is not None:
            yield from _after(queued_s, job.end_s, Kind.REMOVED, key)
        return
    start_s = max(queued_s, job.start_s)
    yield from _after(queued_s, start_s, Kind.STARTED, key)
    if job.end_s is not None:
        yield from _after(start_s, max(start_s, job.end_s), Kind.ENDED, key, then=2)


def _after(before_s: float, at_s: float, kind: Kind, key: int, then: int = 1) -> Iterator[tuple[float, int, int, int]]:
    """Yield it with its usual rank, or with one behind the submissions if it happened in the same second as these."""
    rank = int(kind) if at_s > before_s else Kind.SUBMITTED + then
    yield max(at_s, before_s), rank, kind, key
