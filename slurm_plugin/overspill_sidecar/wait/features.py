"""What the wait of a job is predicted from: numbers about the job, the machine, the queue, and jobs like it.

Amounts and times enter as ln(1 + x): waits and sizes span six powers of ten.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.accounts import PartitionShare, Share, UserShare
from overspill_sidecar.wait.queue import HALF_LIVES_S, RATES, QueueState
from overspill_sidecar.wait.tracked import Tracked
from overspill_sidecar.wait.waiting import SlurmFacts

#: Longer ago than this is as good as never.
_FORGOTTEN_S = 1e6
#: Stands for the age of the youngest or oldest of no jobs.
_NOBODY = 10.0
_LONG_S = 1800.0
_LIKELIHOODS = ("same_kind", "user", "partition_kind", "size", "any")
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
_EASIER = (
    "jobs",
    "cpus",
    "work",
    "mean_age",
    "oldest",
    "youngest",
    "long",
    "smaller",
    "smaller_age",
    "smaller_cpus",
    "shorter",
)
_STARTS = ("harder_ago", "harder_wait", "harder_submit", "easier_ago", "easier_wait", "same_ago", "same_wait")
_DRAIN = ("one", "one_by_limit", "all", "all_by_limit", "easier", "oldest", "backfills")
_EASY = ("starts_now", "starts_now_estimate", "head_start", "spare", "pour_all", "pour_easier", "pour_all_and_one")
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
_SLURM = ("priority", "rank", "plan", "usable", "free")

NAMES: tuple[str, ...] = (
    *(f"job_{name}" for name in _JOB),
    *(f"machine_{name}" for name in _MACHINE),
    *(f"queue_{name}" for name in _QUEUE),
    *(f"easier_{name}" for name in _EASIER),
    *(f"start_{name}" for name in _STARTS),
    *(f"drain_{name}" for name in _DRAIN),
    *(f"easy_{name}" for name in _EASY),
    *(f"partition_{name}" for name in _PARTITION),
    *(f"user_{name}" for name in _USER),
    *(f"rate_{name}_{half_life:g}" for name, half_life in product(RATES, HALF_LIVES_S)),
    "rate_prompt_share",
    *(f"mean_wait_{name}" for name in _GROUPS),
    *(f"alike_{likeness}_{name}" for likeness, name in product(_LIKELIHOODS, _OUTCOMES)),
    *(f"slurm_{name}" for name in _SLURM),
)


def features_of(
    job: Tracked, nodes: int | None, facts: SlurmFacts, queue: QueueState, now_s: float
) -> NDArray[np.float64]:
    """Return one number for each of `NAMES`, NaN where it is unknown. Reads the queue's sums; walks no list of jobs."""
    user = queue.users.get(job.user) or _NO_USER
    partition = queue.partitions.get(job.partition) or _NO_PARTITION
    free = queue.cpus - queue.everybody.running_cpus
    easier = _of_easier(job, queue, now_s)
    numbers = [
        *_of_job(job, nodes, queue),
        *_of_machine(job, queue, free, now_s),
        *_of_queue(job, queue, free, now_s),
        *easier,
        *_of_starts(job, queue, now_s),
        *_of_drain(job, queue, free, math.expm1(easier[1]), now_s),
        *_of_easy(job, queue, free, math.expm1(easier[2]) * queue.cpus, now_s),
        *_of_partition(job, partition, queue.cpus, now_s),
        *_of_user(job, user, queue, now_s),
        *_of_rates(queue, now_s),
        *queue.lookalikes.mean_waits(job),
        *queue.lookalikes.outcomes(job, now_s),
        *_of_slurm(job, facts),
    ]
    return np.array(numbers)


_NO_USER, _NO_PARTITION = UserShare(), PartitionShare()


def _log(value: float) -> float:
    return math.log1p(value) if value > 0 else 0.0


def _signed_log(value: float) -> float:
    return math.copysign(math.log1p(abs(value)), value)


def _ago(then_s: float, now_s: float) -> float:
    return _log(min(_FORGOTTEN_S, now_s - then_s))


def _of_job(job: Tracked, nodes: int | None, queue: QueueState) -> tuple[float, ...]:
    return (
        _log(job.cpus),
        job.cpus / queue.cpus,
        _log(job.limit_s),
        float(not job.has_limit),
        _log(job.cpus * job.limit_s),
        _log(job.estimate_s),
        _log(nodes or 0),
    )


def _of_machine(job: Tracked, queue: QueueState, free: float, now_s: float) -> tuple[float, ...]:
    everybody, room = queue.everybody, free - job.cpus
    peak = max(1.0, everybody.peak_cpus.at(now_s))
    return (
        free / queue.cpus,
        float(room >= 0),
        room / queue.cpus,
        _signed_log(room),
        float(room >= everybody.pending_cpus),
        min(2.0, everybody.running_cpus / peak),
        _signed_log(peak - everybody.running_cpus - job.cpus),
        _ago(everybody.last_start_s, now_s),
        _ago(everybody.last_end_s, now_s),
    )


def _of_queue(job: Tracked, queue: QueueState, free: float, now_s: float) -> tuple[float, ...]:
    everybody, cpus = queue.everybody, queue.cpus
    is_empty = not everybody.pending
    return (
        _log(len(everybody.pending)),
        float(is_empty),
        float(is_empty and job.cpus <= free),
        _log(everybody.pending_cpus / cpus),
        _log(everybody.pending_cpus),
        _log(everybody.pending_work / cpus),
        _log(everybody.pending_request / cpus),
        _log(everybody.mean_age_s(now_s)),
        *_ages(everybody, now_s),
    )


def _of_easier(job: Tracked, queue: QueueState, now_s: float) -> tuple[float, ...]:
    """What waits although it is as small and as short as the job, or smaller and shorter; and the like."""
    crowd, sizes, lengths = queue.crowd, slice(0, job.size + 1), slice(0, job.length + 1)
    smaller = crowd.sums[:, sizes].sum(axis=1)
    jobs, cpus, work, submits = smaller[:, lengths].sum(axis=1).tolist()
    all_jobs, all_cpus, _, all_submits = smaller.sum(axis=1).tolist()
    oldest_s = now_s - float(crowd.oldest_s[sizes, lengths].min()) if jobs else 0.0
    youngest_s = now_s - float(crowd.youngest_s[sizes, lengths].max()) if jobs else _FORGOTTEN_S
    return (
        _log(jobs),
        _log(cpus),
        _log(work / queue.cpus),
        _log(now_s - submits / jobs) if jobs else 0.0,
        _log(oldest_s),
        _log(youngest_s),
        float(oldest_s > _LONG_S),
        _log(all_jobs),
        _log(now_s - all_submits / all_jobs) if all_jobs else 0.0,
        _log(all_cpus / queue.cpus),
        _log(float(crowd.sums[0, :, lengths].sum())),
    )


def _of_starts(job: Tracked, queue: QueueState, now_s: float) -> tuple[float, ...]:
    """When a job at least as hard, or at most as hard, was last started, and how long it had waited."""
    crowd, here = queue.crowd, (job.size, job.length)
    harder = slice(job.size, None), slice(job.length, None)
    easier = slice(0, job.size + 1), slice(0, job.length + 1)
    last_harder, last_easier = (int(crowd.last_start_s[part].argmax()) for part in (harder, easier))
    return (
        _ago(float(crowd.last_start_s[harder].flat[last_harder]), now_s),
        _log(float(crowd.last_wait_s[harder].flat[last_harder])),
        _ago(float(crowd.last_submit_s[harder].max()), now_s),
        _ago(float(crowd.last_start_s[easier].flat[last_easier]), now_s),
        _log(float(crowd.last_wait_s[easier].flat[last_easier])),
        _ago(float(crowd.last_start_s[here]), now_s),
        _log(float(crowd.last_wait_s[here])),
    )


def _of_drain(job: Tracked, queue: QueueState, free: float, easier_cpus: float, now_s: float) -> tuple[float, ...]:
    """In how many seconds enough CPUs will have come back from running jobs: for this job, for all, for the first."""
    estimates, limits, pending = queue.estimates, queue.limits, queue.everybody.pending
    alone, behind_all = job.cpus - free, job.cpus + queue.everybody.pending_cpus - free
    head = next(iter(pending.values())) if pending else None
    head_by_limit_s = limits.seconds_until(head.cpus - free, now_s) if head else 0.0
    return (
        _log(estimates.seconds_until(alone, now_s)),
        _log(limits.seconds_until(alone, now_s)),
        _log(estimates.seconds_until(behind_all, now_s)),
        _log(limits.seconds_until(behind_all, now_s)),
        _log(estimates.seconds_until(job.cpus + easier_cpus - free, now_s)),
        _log(estimates.seconds_until(head.cpus - free, now_s)) if head else 0.0,
        float(head is not None and alone <= 0 and job.estimate_s <= head_by_limit_s),
    )


def _of_easy(job: Tracked, queue: QueueState, free: float, easier_work: float, now_s: float) -> tuple[float, ...]:
    """What first come, first served with backfill would do with it, and how soon the work before it can be done."""
    pending, limits, estimates = queue.everybody.pending, queue.limits, queue.estimates
    head = next(iter(pending.values())) if pending else None
    head_start_s = limits.seconds_until(head.cpus - free, now_s) if head else 0.0
    spare = free + limits.cpus_by(now_s + head_start_s) - head.cpus if head else free
    is_free = job.cpus <= free
    is_free_for_long = is_free and (head is None or job.cpus <= spare)
    pour_s = estimates.seconds_to_do(queue.everybody.pending_work, free, now_s)
    return (
        float(is_free_for_long or (is_free and job.limit_s <= head_start_s)),
        float(is_free_for_long or (is_free and job.estimate_s <= head_start_s)),
        _log(head_start_s),
        _signed_log(spare - job.cpus),
        _log(pour_s),
        _log(estimates.seconds_to_do(easier_work, free, now_s)),
        _log(max(pour_s, estimates.seconds_until(job.cpus - free, now_s))),
    )


def _of_partition(job: Tracked, partition: PartitionShare, cpus: int, now_s: float) -> tuple[float, ...]:
    """Its own jobs. How many CPUs it has is not known; what it had in use at its busiest stands for it."""
    peak = max(1.0, partition.peak_cpus.at(now_s))
    free = peak - partition.running_cpus
    releases, pending_cpus = partition.releases, partition.pending_cpus
    return (
        _log(len(partition.pending)),
        _log(pending_cpus / cpus),
        _log(partition.pending_work / cpus),
        *_ages(partition, now_s),
        _log(partition.running),
        partition.running_cpus / cpus,
        min(2.0, partition.running_cpus / peak),
        _signed_log(free - job.cpus),
        _ago(partition.last_start_s, now_s),
        _ago(partition.last_end_s, now_s),
        _log(partition.starts.at(now_s)),
        _log(partition.submissions.at(now_s)),
        _log(releases.seconds_until(job.cpus - free, now_s)),
        _log(releases.seconds_until(job.cpus + pending_cpus - free, now_s)),
    )


def _of_user(job: Tracked, user: UserShare, queue: QueueState, now_s: float) -> tuple[float, ...]:
    peak, last = max(1.0, user.peak_cpus.at(now_s)), user.last_job
    oldest, youngest = _ages(user, now_s)
    return (
        _log(len(user.pending)),
        _log(user.pending_cpus / queue.cpus),
        oldest,
        _log(user.running),
        user.running_cpus / queue.cpus,
        _log(user.usage.at(now_s) / queue.cpus),
        _log(user.submissions.at(now_s)),
        _ago(user.last_submit_s, now_s),
        min(2.0, user.running_cpus / peak),
        min(2.0, user.running / max(1.0, user.peak_jobs.at(now_s))),
        min(4.0, (user.running_cpus + user.pending_cpus + job.cpus) / peak),
        _ago(user.last_start_s, now_s),
        _ago(user.last_end_s, now_s),
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
        numbers += [_log(rate.at(now_s) / unit) for rate in rates]
    hour = 1
    prompt, started = queue.rates["prompt"][hour].at(now_s), queue.rates["started"][hour].at(now_s)
    return [*numbers, prompt / (started + 1e-3)]


def _of_slurm(job: Tracked, facts: SlurmFacts) -> tuple[float, ...]:
    """Return what Slurm alone knows; NaN is unknown."""
    return (
        math.nan if facts.priority is None else _log(facts.priority),
        math.nan if facts.jobs_ahead is None else _log(facts.jobs_ahead),
        math.nan if facts.planned_start_in_s is None else _log(facts.planned_start_in_s),
        math.nan if facts.usable_cpus is None else _signed_log(facts.usable_cpus - job.cpus),
        math.nan if facts.free_cpus is None else _signed_log(facts.free_cpus - job.cpus),
    )


def _ages(share: Share, now_s: float) -> tuple[float, float]:
    """Return the ages of the oldest and of the youngest job that is pending."""
    oldest_s, youngest_s = share.oldest_s(now_s), share.youngest_s(now_s)
    return 0.0 if oldest_s is None else _log(oldest_s), _NOBODY if youngest_s is None else _log(youngest_s)
