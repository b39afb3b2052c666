"""What the wait of a job is predicted from: numbers about the job, the machine, the queue, and jobs like it.

Amounts and times enter as ln(1 + x): waits and sizes span six powers of ten.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait import competition, scenarios
from overspill_sidecar.wait.accounts import PartitionShare, Share, UserShare
from overspill_sidecar.wait.outlook import GRID_S
from overspill_sidecar.wait.queue import HALF_LIVES_S, RATES, QueueState
from overspill_sidecar.wait.scales import ago, log, signed_log
from overspill_sidecar.wait.tracked import Tracked
from overspill_sidecar.wait.waiting import SlurmFacts

#: Stands for the age of the youngest or oldest of no jobs.
_NOBODY = 10.0
_LIKENESSES = ("same_kind", "user", "partition_kind", "size", "any")
_OUTCOMES = ("wait", "waits", "age", "mean", "waiting", "long")
_GROUPS = ("all", "partition", "size", "length", "partition_size", "kind", "user", "user_size", "account", "qos")

_JOB = ("cpus", "share", "limit", "no_limit", "limit_work", "estimate", "nodes")
_MACHINE = (
    "free",
    "fits",
    "room",
    "signed_room",
    "fits_after_all",
    "at_peak",
    "room_to_peak",
    "since_start",
    "since_end",
)
_QUEUE = ("jobs", "none", "none_and_fits", "share", "cpus", "work", "request", "mean_age", "oldest", "youngest")
_PARTITION = (
    "jobs",
    "cpus",
    "work",
    "oldest",
    "youngest",
    "running",
    "share",
    "at_peak",
    "room",
    "since_start",
    "since_end",
    "starts",
    "submissions",
    "drain_one",
    "drain_all",
)
_USER = (
    "jobs",
    "cpus",
    "oldest",
    "running",
    "running_cpus",
    "usage",
    "submissions",
    "since_submit",
    "at_peak",
    "at_peak_jobs",
    "over_peak",
    "since_start",
    "since_end",
    "youngest",
    "last_waits",
    "last_alike",
    "share_of_limit",
)
_SLURM = (
    *("priority", "rank", "plan", "plan_ahead"),
    *("up", "usable", "free", "reserved", "open"),
    *("limited", "limit_share", "limited_cpus", "limited_of_user", "limited_of_qos"),
)

NAMES: tuple[str, ...] = (
    *(f"job_{name}" for name in _JOB),
    *(f"machine_{name}" for name in _MACHINE),
    *(f"queue_{name}" for name in _QUEUE),
    *(f"easier_{name}" for name in competition.EASIER),
    *(f"start_{name}" for name in competition.STARTS),
    *(f"drain_{name}" for name in competition.DRAIN),
    *(f"easy_{name}" for name in competition.EASY),
    *(f"partition_{name}" for name in _PARTITION),
    *(f"user_{name}" for name in _USER),
    *(f"rate_{name}_{half_life:g}" for name, half_life in product(RATES, HALF_LIVES_S)),
    "rate_prompt_share",
    *(f"mean_wait_{name}" for name in _GROUPS),
    *(f"alike_{likeness}_{name}" for likeness, name in product(_LIKENESSES, _OUTCOMES)),
    *(f"played_{wait_s:g}" for wait_s in scenarios.WAITS_S),
    *(f"slurm_{name}" for name in _SLURM),
)

_FIRST_PLAYED = NAMES.index(f"played_{scenarios.WAITS_S[0]:g}")
#: Which feature says what the scenarios say of each wait of the grid: beyond their last wait, what they say of that.
_PLAYED = _FIRST_PLAYED + np.minimum(np.arange(len(GRID_S)), len(scenarios.WAITS_S) - 1)


def played(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logits that the scenarios give for each wait of the grid; NaN if the queue was too long to play."""
    return features.take(_PLAYED)


def features_of(
    job: Tracked, nodes: int | None, facts: SlurmFacts, queue: QueueState, now_s: float
) -> NDArray[np.float64]:
    """Return one number for each of `NAMES`, NaN where it is unknown. Reads the queue's sums; walks no list of jobs."""
    user = queue.users.get(job.user) or _NO_USER
    partition = queue.partitions.get(job.partition) or _NO_PARTITION
    free = queue.cpus - queue.everybody.running_cpus
    easier = competition.of_easier(job, queue, now_s)
    numbers = [
        *_of_job(job, nodes, queue),
        *_of_machine(job, queue, free, now_s),
        *_of_queue(job, queue, free, now_s),
        *easier,
        *competition.of_starts(job, queue, now_s),
        *competition.of_drain(job, queue, free, math.expm1(easier[1]), now_s),
        *competition.of_easy(job, queue, free, math.expm1(easier[2]) * queue.cpus, now_s),
        *_of_partition(job, partition, queue.cpus, now_s),
        *_of_user(job, user, queue, now_s),
        *_of_rates(queue, now_s),
        *queue.lookalikes.mean_waits(job),
        *queue.lookalikes.outcomes(job, now_s),
        *scenarios.opinion_on(job, queue, now_s),
        *_of_slurm(job, facts),
    ]
    return np.array(numbers, np.float64)


_NO_USER, _NO_PARTITION = UserShare(), PartitionShare()


def _of_job(job: Tracked, nodes: int | None, queue: QueueState) -> tuple[float, ...]:
    return (
        log(job.cpus),
        job.cpus / queue.cpus,
        log(job.limit_s),
        float(not job.has_limit),
        log(job.cpus * job.limit_s),
        log(job.estimate_s),
        log(nodes or 0),
    )


def _of_machine(job: Tracked, queue: QueueState, free: float, now_s: float) -> tuple[float, ...]:
    everybody, room = queue.everybody, free - job.cpus
    peak = max(1.0, everybody.peak_cpus.at(now_s))
    return (
        free / queue.cpus,
        float(room >= 0),
        room / queue.cpus,
        signed_log(room),
        float(room >= everybody.pending_cpus),
        min(2.0, everybody.running_cpus / peak),
        signed_log(peak - everybody.running_cpus - job.cpus),
        ago(everybody.last_start_s, now_s),
        ago(everybody.last_end_s, now_s),
    )


def _of_queue(job: Tracked, queue: QueueState, free: float, now_s: float) -> tuple[float, ...]:
    everybody, cpus = queue.everybody, queue.cpus
    is_empty = not everybody.pending
    return (
        log(len(everybody.pending)),
        float(is_empty),
        float(is_empty and job.cpus <= free),
        log(everybody.pending_cpus / cpus),
        log(everybody.pending_cpus),
        log(everybody.pending_work / cpus),
        log(everybody.pending_request / cpus),
        log(everybody.mean_age_s(now_s)),
        *_ages(everybody, now_s),
    )


def _of_partition(job: Tracked, partition: PartitionShare, cpus: int, now_s: float) -> tuple[float, ...]:
    """Its own jobs. How many CPUs it has is not known; what it had in use at its busiest stands for it."""
    peak = max(1.0, partition.peak_cpus.at(now_s))
    free = peak - partition.running_cpus
    releases, pending_cpus = partition.releases, partition.pending_cpus
    return (
        log(len(partition.pending)),
        log(pending_cpus / cpus),
        log(partition.pending_work / cpus),
        *_ages(partition, now_s),
        log(partition.running),
        partition.running_cpus / cpus,
        min(2.0, partition.running_cpus / peak),
        signed_log(free - job.cpus),
        ago(partition.last_start_s, now_s),
        ago(partition.last_end_s, now_s),
        log(partition.starts.at(now_s)),
        log(partition.submissions.at(now_s)),
        log(releases.seconds_until(job.cpus - free, now_s)),
        log(releases.seconds_until(job.cpus + pending_cpus - free, now_s)),
    )


def _of_user(job: Tracked, user: UserShare, queue: QueueState, now_s: float) -> tuple[float, ...]:
    peak, last = max(1.0, user.peak_cpus.at(now_s)), user.last_job
    oldest, youngest = _ages(user, now_s)
    return (
        log(len(user.pending)),
        log(user.pending_cpus / queue.cpus),
        oldest,
        log(user.running),
        user.running_cpus / queue.cpus,
        log(user.usage.at(now_s) / queue.cpus),
        log(user.submissions.at(now_s)),
        ago(user.last_submit_s, now_s),
        min(2.0, user.running_cpus / peak),
        min(2.0, user.running / max(1.0, user.peak_jobs.at(now_s))),
        min(4.0, (user.running_cpus + user.pending_cpus + job.cpus) / peak),
        ago(user.last_start_s, now_s),
        ago(user.last_end_s, now_s),
        youngest,
        0.0 if last is None else 1.0 if last.start_s is None and not last.is_gone else -1.0,
        float(last is not None and (last.cpus, last.limit_s) == (job.cpus, job.limit_s)),
        user.share_of_limit.or_else(queue.usual_share),
    )


def _of_rates(queue: QueueState, now_s: float) -> list[float]:
    """How much happened of late: jobs, or CPU seconds as a share of the machine's CPUs."""
    numbers = []
    for name, rates in queue.rates.items():
        unit = queue.cpus if name.endswith("_work") else 1
        numbers += [log(rate.at(now_s) / unit) for rate in rates]
    hour = 1
    prompt, started = queue.rates["prompt"][hour].at(now_s), queue.rates["started"][hour].at(now_s)
    return [*numbers, prompt / (started + 1e-3)]


def _of_slurm(job: Tracked, facts: SlurmFacts) -> tuple[float, ...]:
    """Return what Slurm alone knows; NaN is unknown. A job without a plan of its own goes by that of harder ones."""
    plan_s = facts.planned_harder_s if facts.planned_wait_s is None else facts.planned_wait_s
    return (
        _known(log, facts.priority),
        _known(log, facts.jobs_ahead),
        _known(log, plan_s),
        _known(log, facts.planned_ahead_s),
        _known(float, facts.starts_jobs),
        _room(facts.usable_cpus, job),
        _room(facts.free_cpus, job),
        _known(log, facts.reserved_cpus),
        _room(facts.open_cpus, job),
        _known(float, facts.is_limited),
        _known(_few, facts.limit_share),
        _known(log, facts.limited_cpus),
        _known(log, facts.limited_of_user),
        _known(log, facts.limited_of_qos),
    )


def _known(scale: Callable[[float], float], value: float | None) -> float:
    return math.nan if value is None else scale(value)


def _room(cpus: float | None, job: Tracked) -> float:
    return math.nan if cpus is None else signed_log(cpus - job.cpus)


def _few(share: float) -> float:
    return min(2.0, share)


def _ages(share: Share, now_s: float) -> tuple[float, float]:
    """Return the ages of the oldest and of the youngest job that is pending."""
    oldest_s, youngest_s = share.oldest_s(now_s), share.youngest_s(now_s)
    return 0.0 if oldest_s is None else log(oldest_s), _NOBODY if youngest_s is None else log(youngest_s)
