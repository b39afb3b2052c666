"""Which jobs stayed by lot when they were submitted, so that a later look does not send them after all.

Such a job is as its user wrote it: nothing in it says so. It is known by its user, its shape and the second of its
submission; of jobs that are alike in all of that, as many are taken for it as have stayed. Slurm gives a job whole
cores, and shows its CPUs rounded up, at the latest when it has looked at it. A restart forgets them.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from overspill_sidecar.cluster import Job

#: slurmctld stamps the time of submission after the decision, in whole seconds, by the same clock.
_BEFORE_S, _AFTER_S = 1.0, 10.0
_MOST_WAITING, _MOST_KNOWN = 1_000, 10_000


@dataclass(frozen=True, slots=True)
class Explored:
    """A submission that stayed by lot."""

    decided_at_unix_s: float
    user_id: int
    partitions: frozenset[str]
    #: As Slurm may show them.
    cpus: frozenset[int]
    time_limit_s: int | None

    def may_be(self, job: Job) -> bool:
        """Tell whether the job may be what became of it."""
        return (
            -_BEFORE_S <= job.submit_time_s - self.decided_at_unix_s <= _AFTER_S
            and (job.user_id, job.time_limit_s) == (self.user_id, self.time_limit_s)
            and job.cpus in self.cpus
            and self.partitions == frozenset(job.partitions)
        )


class ExploredJobs:
    """Remembers the last ones. One thread may `note` while another asks."""

    def __init__(self) -> None:
        #: Those whose job nobody has asked about yet.
        self._waiting: deque[Explored] = deque(maxlen=_MOST_WAITING)
        self._known: OrderedDict[int, None] = OrderedDict()

    def note(self, explored: Explored) -> None:
        self._waiting.append(explored)

    def has(self, job: Job) -> bool:
        """Tell whether this pending job stayed by lot; a job keeps its answer, and an array has one."""
        if job.array_job_id in self._known:
            return True
        found = next((explored for explored in list(self._waiting) if explored.may_be(job)), None)
        if found is None:
            return False
        self._waiting.remove(found)
        self._known[job.array_job_id] = None
        while len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return True


def shown_cpus(cpus: int, parts: Iterable[int], threads_per_core: Iterable[int]) -> frozenset[int]:
    """Return the numbers of CPUs that Slurm may show of a job: as asked for, or in whole cores.

    Args:
        cpus: that it asks for.
        parts: into how many parts, each with cores of its own, they may be divided: nodes, tasks.
        threads_per_core: of the nodes where it may start.
    """
    rounded = (
        each * threads * math.ceil(cpus / each / threads) for each in (1, *parts) for threads in threads_per_core
    )
    return frozenset((cpus, *rounded))
