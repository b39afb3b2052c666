"""What one snapshot says that only Slurm knows, prepared for questions about single jobs. Pure.

What Slurm did not tell, or what nobody enforces, is unknown. Times are those of the snapshot.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.accounting import USUAL_QOS, Accounting, Demand
from overspill_sidecar.cluster import Job, Node, Reservation, Snapshot
from overspill_sidecar.wait.model import QueuedJob
from overspill_sidecar.wait.waiting import NO_FACTS, SlurmFacts

_MINUTE_S = 60
#: Of the jobs that are planned the first are looked at first: most often one of them asks for as much as any other.
_FIRST_PLANNED = 128
#: So much of a difference between two pending jobs is none: one answer then serves for both.
_ALIKE = 0.1


class Knowledge:
    """Answers from memory, any thread: each question takes some microseconds, of jobs that are alike but the first."""

    def __init__(self, snapshot: Snapshot, waiting: Collection[Job]) -> None:
        """Prepare for questions. Costs some microseconds for each job that waits.

        Args:
            snapshot: what Slurm said.
            waiting: jobs that compete for local nodes, one for each task of an array.
        """
        self._now_s = snapshot.unix_time_s
        by_partition: dict[str, list[Job]] = {}
        for job in waiting:
            for name in job.partitions:
                by_partition.setdefault(name, []).append(job)
        self._queues = {name: _queue_of(jobs) for name, jobs in by_partition.items()}
        self._spaces = {name: _space_of(snapshot, name) for name in snapshot.partitions}
        self._limits = _limits_of(snapshot)
        self._alike: dict[QueuedJob, SlurmFacts] = {}

    def of_new(self, job: QueuedJob, priority: float | None) -> SlurmFacts:
        """Return what Slurm knows of a job that it has not seen yet.

        Args:
            job: it.
            priority: that it will probably have.
        """
        facts = self._alike.get(job)
        if facts is None:
            facts = self._alike[job] = self._of_anybody(job)
        return self._with_rank(facts, job.partition, priority)

    def of_pending(self, job: Job, partition: str) -> SlurmFacts:
        """Return what Slurm knows of a pending job, in one of its partitions; of jobs nearly alike it says the same."""
        facts = self.of_new(queued(job, partition), job.priority)
        planned_s = None
        if job.start_time_s is not None:
            planned_s = max(self._now_s, job.start_time_s) - job.queued_at_s
        return facts._replace(
            priority=_about(facts.priority),
            jobs_ahead=_about(facts.jobs_ahead),
            planned_wait_s=_about(planned_s),
            planned_ahead_s=_about(facts.planned_ahead_s),
            is_limited=None if facts.is_limited is None else job.is_limited,
        )

    def _of_anybody(self, job: QueuedJob) -> SlurmFacts:
        """Return what does not depend on the job's priority."""
        space, queue = self._spaces.get(job.partition), self._queues.get(job.partition)
        if space is None:
            return NO_FACTS
        share = self._limits.share(job, space.qos) if self._limits else None
        return SlurmFacts(
            planned_harder_s=queue.planned_harder_s(job, self._now_s) if queue else None,
            starts_jobs=space.starts_jobs,
            usable_cpus=space.usable_cpus,
            free_cpus=space.free_cpus,
            reserved_cpus=space.reserved_cpus(job, self._now_s),
            open_cpus=space.open_cpus(job, self._now_s),
            is_limited=None if share is None else share > 1,
            limit_share=share,
            limited_cpus=queue.limited_cpus if queue else 0,
            limited_of_user=self._limits.of_user.get(job.user_id, 0) if self._limits else None,
            limited_of_qos=self._limits.of_qos.get(job.qos or USUAL_QOS, 0) if self._limits else None,
        )

    def _with_rank(self, facts: SlurmFacts, partition: str, priority: float | None) -> SlurmFacts:
        if priority is None:
            return facts
        queue = self._queues.get(partition)
        if queue is None:
            return facts._replace(priority=priority, jobs_ahead=0)
        return facts._replace(
            priority=priority,
            jobs_ahead=len(queue.priorities) - bisect_right(queue.priorities, priority),
            planned_ahead_s=queue.planned_ahead_s(priority, self._now_s),
        )


def queued(job: Job, partition: str) -> QueuedJob:
    """Return one of Slurm's jobs, or one task of an array, as a decision would ask about it."""
    return QueuedJob(
        partition,
        job.cpus,
        job.time_limit_s,
        job.user_id,
        job.account,
        job.qos,
        job.node_count,
        memory_mib=job.memory_mib,
        gpus=job.gpus,
    )


@dataclass(frozen=True, slots=True)
class _Queue:
    """The jobs that wait in one partition. Those that a limit keeps back are before nobody, whatever was planned.

    Attributes:
        limited_cpus: that they would take.
        priorities: rising.
        latest_s: in the same order, the last of the planned starts of the jobs from there on; -inf without any.
        planned: a row of CPUs, one of time limits and one of starts, a column for each job that is planned, the next
            first.
    """

    limited_cpus: int
    priorities: Sequence[int]
    latest_s: Sequence[float]
    planned: NDArray[np.float64]

    def planned_ahead_s(self, priority: float, now_s: float) -> float | None:
        first = bisect_left(self.priorities, priority)
        latest_s = self.latest_s[first] if first < len(self.latest_s) else -math.inf
        return None if math.isinf(latest_s) else max(0.0, latest_s - now_s)

    def planned_harder_s(self, job: QueuedJob, now_s: float) -> float | None:
        for columns in (slice(_FIRST_PLANNED), slice(_FIRST_PLANNED, None)):
            cpus, limits_s, starts_s = self.planned[:, columns]
            is_harder = (cpus >= job.cpus) & (limits_s >= _or_endless(job.time_limit_s))
            if is_harder.any():
                return max(0.0, float(starts_s[is_harder.argmax()]) - now_s)
        return None


def _queue_of(jobs: Collection[Job]) -> _Queue:
    ranked = sorted((job for job in jobs if not job.is_limited), key=lambda job: job.priority)
    starts_s = [_planned_s(job) for job in reversed(ranked)]
    planned = sorted((job for job in ranked if _planned_s(job) > 0), key=_planned_s)
    cpus, limits_s = [job.cpus for job in planned], [_or_endless(job.time_limit_s) for job in planned]
    return _Queue(
        limited_cpus=sum(job.cpus for job in jobs if job.is_limited),
        priorities=[job.priority for job in ranked],
        latest_s=list(accumulate(starts_s, max))[::-1],
        planned=np.array((cpus, limits_s, [_planned_s(job) for job in planned]), np.float64),
    )


def _planned_s(job: Job) -> float:
    """Return the planned start, -inf without one."""
    return -math.inf if job.start_time_s is None else float(job.start_time_s)


@dataclass(frozen=True, slots=True)
class _Space:
    """The nodes of one partition.

    Attributes:
        reserved_from_s: when reservations begin to take of them, rising; None: unknown.
        reserved, still_open: CPUs that are taken, and that are left of the free ones, after so many reservations.
    """

    starts_jobs: bool
    qos: str
    usable_cpus: int
    free_cpus: int
    reserved_from_s: Sequence[float] | None
    reserved: Sequence[float]
    still_open: Sequence[float]

    def reserved_cpus(self, job: QueuedJob, now_s: float) -> float | None:
        begun = self._begun(job, now_s)
        return None if begun is None else self.reserved[begun]

    def open_cpus(self, job: QueuedJob, now_s: float) -> float | None:
        begun = self._begun(job, now_s)
        return None if begun is None else self.still_open[begun]

    def _begun(self, job: QueuedJob, now_s: float) -> int | None:
        """Return how many reservations will have begun when the job, started now, is over by its limit."""
        if self.reserved_from_s is None:
            return None
        return bisect_left(self.reserved_from_s, now_s + _or_endless(job.time_limit_s))


def _space_of(snapshot: Snapshot, name: str) -> _Space:
    """Cost: one look at each node, and one at each that a reservation names."""
    partition = snapshot.partitions[name]
    usable = {node.name: node for node in snapshot.nodes_of(name) if node.is_usable}
    ahead = sorted(
        (each for each in snapshot.reservations or () if each.end_s > snapshot.unix_time_s),
        key=lambda each: each.start_s,
    )
    taken: dict[str, float] = {}
    from_s: list[float] = []
    reserved, still_open = [0.0], [sum(_open_cpus(node, 0.0) for node in usable.values())]
    for reservation in ahead:
        nodes = [usable[node] for node in reservation.nodes if node in usable]
        if not nodes:
            continue
        share = _share_of_nodes(reservation, snapshot.nodes)
        more_reserved = less_open = 0.0
        for node in nodes:
            before = taken.get(node.name, 0.0)
            after = taken[node.name] = max(share, before)
            more_reserved += node.cpus * (after - before)
            less_open += _open_cpus(node, before) - _open_cpus(node, after)
        from_s.append(reservation.start_s)
        reserved.append(reserved[-1] + more_reserved)
        still_open.append(still_open[-1] - less_open)
    return _Space(
        starts_jobs=partition.starts_jobs,
        qos=partition.qos,
        usable_cpus=sum(node.cpus for node in usable.values()),
        free_cpus=sum(node.cpus - node.cpus_allocated for node in usable.values()),
        reserved_from_s=None if snapshot.reservations is None else from_s,
        reserved=reserved,
        still_open=still_open,
    )


def _share_of_nodes(reservation: Reservation, nodes: Mapping[str, Node]) -> float:
    """Return which share of its nodes' CPUs a reservation takes: not all, if it is of cores."""
    cpus = sum(nodes[name].cpus for name in reservation.nodes if name in nodes)
    return 1.0 if reservation.cpus is None or not cpus else min(1.0, reservation.cpus / cpus)


def _open_cpus(node: Node, taken: float) -> float:
    """Return how many of a node's free CPUs are left for anybody, this share of all being taken by reservations."""
    return 0.0 if node.is_planned else max(0.0, min(node.cpus - node.cpus_allocated, node.cpus * (1 - taken)))


@dataclass(frozen=True, slots=True)
class _Limits:
    """Associations and QOS, and how many pending jobs and tasks their limits keep back."""

    accounting: Accounting
    of_user: Mapping[int | None, int]
    of_qos: Mapping[str, int]

    def share(self, job: QueuedJob, partition_qos: str) -> float | None:
        """Return the share of the tightest limit that is used with the job, None if its association is not known."""
        if job.user_id is None:
            return None
        account = self.accounting.account_of(job.user_id, job.account)
        if not self.accounting.has_association(job.user_id, account, job.partition):
            return None
        qos = (job.qos, *([partition_qos] if partition_qos else []))
        return self.accounting.fullest_limit(_demand(job), job.user_id, account, job.partition, qos)


def _limits_of(snapshot: Snapshot) -> _Limits | None:
    """Return the limits, None where they keep nobody back, or are not known."""
    if snapshot.accounting is None or not snapshot.config.enforces_limits:
        return None
    of_user, of_qos = Counter[int | None](), Counter[str]()
    for job in snapshot.jobs:
        if job.is_limited:
            of_user[job.user_id] += job.tasks
            of_qos[job.qos] += job.tasks
    return _Limits(snapshot.accounting, of_user, of_qos)


def _demand(job: QueuedJob) -> Demand:
    tasks = max(1, job.tasks)
    tres = {"cpu": job.cpus / tasks, "node": job.nodes or 1, "gres/gpu": job.gpus / tasks}
    if job.memory_mib is not None:
        tres["mem"] = job.memory_mib / tasks
    minutes = None if job.time_limit_s is None else job.time_limit_s / _MINUTE_S
    return Demand(slots=tasks, tasks=tasks, tres=tres, nodes=job.nodes or 1, minutes=minutes)


def _or_endless(time_limit_s: int | None) -> float:
    return math.inf if time_limit_s is None else time_limit_s


def _about(value: float | None) -> float | None:
    """Return the value, rounded to a grid on which it may be wrong by a twentieth."""
    return None if value is None else math.expm1(round(math.log1p(max(0.0, value)) / _ALIKE) * _ALIKE)
