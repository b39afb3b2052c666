"""Features of the competition: who waits although it is easier to start, who was started, and when CPUs come back."""

from __future__ import annotations

from overspill_sidecar.wait.queue import QueueState
from overspill_sidecar.wait.scales import FORGOTTEN_S, ago, log, signed_log
from overspill_sidecar.wait.tracked import Tracked

_LONG_S = 1800.0

EASIER = (
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
STARTS = ("harder_ago", "harder_wait", "harder_submit", "easier_ago", "easier_wait", "same_ago", "same_wait")
DRAIN = ("one", "one_by_limit", "all", "all_by_limit", "easier", "oldest", "backfills")
EASY = ("starts_now", "starts_now_estimate", "head_start", "spare", "pour_all", "pour_easier", "pour_all_and_one")


def of_easier(job: Tracked, queue: QueueState, now_s: float) -> tuple[float, ...]:
    """What waits although it is as small and as short as the job, or smaller and shorter; and the like."""
    crowd, sizes, lengths = queue.crowd, slice(0, job.size + 1), slice(0, job.length + 1)
    smaller = crowd.sums[:, sizes].sum(axis=1)
    jobs, cpus, work, submits = smaller[:, lengths].sum(axis=1).tolist()
    all_jobs, all_cpus, _, all_submits = smaller.sum(axis=1).tolist()
    oldest_s = now_s - float(crowd.oldest_s[sizes, lengths].min()) if jobs else 0.0
    youngest_s = now_s - float(crowd.youngest_s[sizes, lengths].max()) if jobs else FORGOTTEN_S
    return (
        log(jobs),
        log(cpus),
        log(work / queue.cpus),
        log(now_s - submits / jobs) if jobs else 0.0,
        log(oldest_s),
        log(youngest_s),
        float(oldest_s > _LONG_S),
        log(all_jobs),
        log(now_s - all_submits / all_jobs) if all_jobs else 0.0,
        log(all_cpus / queue.cpus),
        log(float(crowd.sums[0, :, lengths].sum())),
    )


def of_starts(job: Tracked, queue: QueueState, now_s: float) -> tuple[float, ...]:
    """When a job at least as hard, or at most as hard, was last started, and how long it had waited."""
    crowd, here = queue.crowd, (job.size, job.length)
    harder = slice(job.size, None), slice(job.length, None)
    easier = slice(0, job.size + 1), slice(0, job.length + 1)
    last_harder, last_easier = (int(crowd.last_start_s[part].argmax()) for part in (harder, easier))
    return (
        ago(float(crowd.last_start_s[harder].flat[last_harder]), now_s),
        log(float(crowd.last_wait_s[harder].flat[last_harder])),
        ago(float(crowd.last_submit_s[harder].max()), now_s),
        ago(float(crowd.last_start_s[easier].flat[last_easier]), now_s),
        log(float(crowd.last_wait_s[easier].flat[last_easier])),
        ago(float(crowd.last_start_s[here]), now_s),
        log(float(crowd.last_wait_s[here])),
    )


def of_drain(job: Tracked, queue: QueueState, free: float, easier_cpus: float, now_s: float) -> tuple[float, ...]:
    """In how many seconds enough CPUs will have come back from running jobs: for this job, for all, for the first."""
    estimates, limits, pending = queue.estimates, queue.limits, queue.everybody.pending
    alone, behind_all = job.cpus - free, job.cpus + queue.everybody.pending_cpus - free
    head = next(iter(pending.values())) if pending else None
    head_by_limit_s = limits.seconds_until(head.cpus - free, now_s) if head else 0.0
    return (
        log(estimates.seconds_until(alone, now_s)),
        log(limits.seconds_until(alone, now_s)),
        log(estimates.seconds_until(behind_all, now_s)),
        log(limits.seconds_until(behind_all, now_s)),
        log(estimates.seconds_until(job.cpus + easier_cpus - free, now_s)),
        log(estimates.seconds_until(head.cpus - free, now_s)) if head else 0.0,
        float(head is not None and alone <= 0 and job.estimate_s <= head_by_limit_s),
    )


def of_easy(job: Tracked, queue: QueueState, free: float, easier_work: float, now_s: float) -> tuple[float, ...]:
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
        log(head_start_s),
        signed_log(spare - job.cpus),
        log(pour_s),
        log(estimates.seconds_to_do(easier_work, free, now_s)),
        log(max(pour_s, estimates.seconds_until(job.cpus - free, now_s))),
    )
