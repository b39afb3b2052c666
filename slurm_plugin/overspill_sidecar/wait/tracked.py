"""A job that the wait model follows, and the classes of size and length into which jobs are sorted."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from overspill_sidecar.wait.waiting import WaitingJob

#: Classes by powers of two: 1, 2-3, 4-7 CPUs, ...; time limits of up to 2, 4, 8 minutes, ..., the last has no limit.
SIZES, LENGTHS = 20, 16
#: What a job without a time limit is taken to ask for.
UNLIMITED_AS_S = 86400.0
#: Jobs that are expected to run for less are expected to run for this.
_SHORTEST_S = 60.0
#: A full table looks at so many entries for one that may go: each new entry costs the same, however large it is.
_LOOKED_AT = 8

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True, eq=False)
class Tracked:
    """A job from its submission on, until nothing remembers it.

    Attributes:
        limit_s: as asked for, or what stands for no limit.
        estimate_s: how long it will probably run.
        sample: number of what was learnt from its submission; None if nothing is.
        start_s: None while it waits, and for ever if it is gone.
        is_gone: it left without starting, or is not to be learnt from.
        is_limited: whether a limit of its association or QOS keeps it back now, as far as is known.
    """

    key: int | str
    submit_s: float
    cpus: int
    limit_s: float
    has_limit: bool
    user: str
    partition: str
    account: str
    qos: str
    size: int
    length: int
    estimate_s: float
    sample: int | None = None
    start_s: float | None = None
    is_gone: bool = False
    is_limited: bool = False

    @property
    def work(self) -> float:
        """CPU seconds that it will probably use."""
        return self.cpus * self.estimate_s

    def waited_s(self, now_s: float) -> float:
        """How long it has waited, whether it still does or not."""
        return (now_s if self.start_s is None else self.start_s) - self.submit_s


def track(job: WaitingJob, expected_s: float | None, usual_share: float) -> Tracked:
    """Return the record of a job.

    Args:
        job: the job.
        expected_s: how long its user's jobs ran of late.
        usual_share: which share of their time limits jobs use.
    """
    has_limit = job.time_limit_s is not None and job.time_limit_s > 0
    limit_s = float(job.time_limit_s) if has_limit and job.time_limit_s is not None else UNLIMITED_AS_S
    likely_s = limit_s * usual_share if expected_s is None else expected_s
    return Tracked(
        key=job.key,
        submit_s=job.submit_s,
        cpus=max(1, job.cpus),
        limit_s=limit_s,
        has_limit=has_limit,
        user=job.user,
        partition=job.partition,
        account=job.account,
        qos=job.qos,
        size=min(SIZES - 1, max(1, job.cpus).bit_length() - 1),
        length=min(LENGTHS - 1, max(0, int(math.log2(max(1.0, limit_s / 60.0))))) if has_limit else LENGTHS - 1,
        estimate_s=max(_SHORTEST_S, min(limit_s, likely_s)),
        is_limited=bool(job.facts.is_limited),
    )


class Bounded(Generic[K, V]):
    """A table of at most so many entries; the ones that `made` has returned longest ago go first.

    Entries that are needed stay: while there are many of these, it is larger.
    """

    __slots__ = ("entries", "room")

    def __init__(self, room: int) -> None:
        self.entries: OrderedDict[K, V] = OrderedDict()
        self.room = room

    def get(self, key: K) -> V | None:
        return self.entries.get(key)

    def made(self, key: K, make: Callable[[], V]) -> V:
        """Return the entry of `key`, which is made if there is none."""
        found = self.entries.get(key)
        if found is None:
            self._make_room()
            found = self.entries[key] = make()
        else:
            self.entries.move_to_end(key)
        return found

    def is_needed(self, entry: V) -> bool:  # noqa: ARG002 - for tables some of whose entries are
        """Tell whether an entry must not go yet."""
        return False

    def _make_room(self) -> None:
        for _ in range(_LOOKED_AT):
            if len(self.entries) < self.room:
                return
            key, entry = self.entries.popitem(last=False)
            if self.is_needed(entry):
                self.entries[key] = entry
