"""Which pending jobs are worth a closer look, the most urgent first. Pure; one walk over the queue."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.decision.capacity import Amount, SiteView
from overspill_sidecar.decision.eligibility import LEFT_TO_US
from overspill_sidecar.pending.request import wish_of
from overspill_sidecar.pending.standing import Standing, may_be_added, may_be_recalled, standing_of
from overspill_sidecar.policy import Mode, Policy
from overspill_sidecar.wait import LIKELIER_THAN_NOT, WaitEstimate

#: So much better than bad must it look before a job is recalled: between the two nothing changes.
_IS_GOOD = 0.25
_JOBS_AT_ONCE = 20

#: The whole wait, what has passed of it included, of a pending job in one of its own partitions. Of an array it is that
#: of the task that starts last. None: nobody knows.
Outlook = Callable[[Job, str], WaitEstimate | None]


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that a look at the queue rests on.

    Attributes:
        snapshot: the queue.
        policy: the words in force.
        sites: as they are now.
        outlook: of pending jobs.
        is_passed_over: tells of a job that this process knows a reason not to look at it now.
    """

    snapshot: Snapshot
    policy: Policy
    sites: Sequence[SiteView]
    outlook: Outlook
    is_passed_over: Callable[[Job], bool]

    @property
    def partition_of_site(self) -> Mapping[str, str]:
        return {site.name: site.partition for site in self.sites}


def to_add(look: Look, most: int) -> list[Job]:
    """Return jobs that may be better off at a site as well: the worst outlook first, then the highest priority."""
    if look.policy.mode is Mode.OFF or not look.policy.from_partitions:
        return []
    free = [site for site in look.sites if site.is_reachable and site.capacity is not None]
    now_s, partition_of_site = look.snapshot.unix_time_s, look.partition_of_site
    ranked = (
        (-badness, -job.priority, job.slurm_job_id, job)
        for job in _ours(look, {Standing.OWN, Standing.HOME}, partition_of_site)
        if set(job.partitions) <= set(look.policy.from_partitions)
        and may_be_added(job, now_s)
        and not _is_limited_anywhere(job, look.snapshot)
        and _may_fit(job, free)
        and (badness := _badness(job, job.partitions, look)) is not None
        and (badness > LIKELIER_THAN_NOT or look.policy.mode is Mode.ALWAYS)
    )
    return [job for *_, job in heapq.nsmallest(most, ranked, key=lambda each: each[:3])]


def to_recall(look: Look, most: int) -> list[Job]:
    """Return jobs that need no site any more, the best outlook first. With mode off none needs one."""
    if look.policy.mode is Mode.ALWAYS:
        return []
    ranked = (
        (badness, -job.priority, job.slurm_job_id, job)
        for job in _ours(look, {Standing.DIVERTED}, look.partition_of_site)
        if may_be_recalled(job, look.snapshot.unix_time_s)
        and (look.policy.mode is Mode.OFF or wish_of(job.admin_comment).option in LEFT_TO_US)
        and (badness := _badness_at_home(job, look)) is not None
        and badness < _IS_GOOD
    )
    return [job for *_, job in heapq.nsmallest(most, ranked, key=lambda each: each[:3])]


def _ours(look: Look, wanted: Collection[Standing], partition_of_site: Mapping[str, str]) -> Iterable[Job]:
    """Yield the jobs that compete for nodes, have not been started before, and whose standing is wanted."""
    for number, job in enumerate(look.snapshot.jobs):
        if number % _JOBS_AT_ONCE == 0:
            # Decisions come first: who asks the same model meanwhile gets his turn.
            time.sleep(0)
        if (
            job.is_competing
            and not job.restart_count
            and not job.hidden_options
            and standing_of(job, partition_of_site) in wanted
            and not look.is_passed_over(job)
        ):
            yield job


def _badness_at_home(job: Job, look: Look) -> float | None:
    if look.policy.mode is Mode.OFF:
        return 0.0
    return _badness(job, job.trail.partition.split(",") if job.trail else job.partitions, look)


def _badness(job: Job, own: Iterable[str], look: Look) -> float | None:
    """Return the probability that the job waits longer than allowed, where that is least likely; None: unknown."""
    chances = []
    for name in own:
        wait = look.outlook(job, name)
        if wait is None:
            return None
        chances.append(wait.p_exceeds(look.policy.wait_s(name)))
    return min(chances, default=None)


def _is_limited_anywhere(job: Job, snapshot: Snapshot) -> bool:
    """Tell whether a limit that keeps the job back would do so at a site, too: one of a partition's QOS may not."""
    partitions = [snapshot.partitions[name] for name in job.partitions if name in snapshot.partitions]
    return job.is_limited and not any(partition.qos for partition in partitions)


def _may_fit(job: Job, sites: Iterable[SiteView]) -> bool:
    """Tell whether a task of the job could fit into what some site has free; the decision itself looks closer."""
    for site in sites:
        if (capacity := site.capacity) is None:
            continue
        task = Amount(job.cpus, job.memory_mib, job.gpus)
        if capacity.free.holds(task if capacity.total.memory_mib else replace(task, memory_mib=0)):
            return True
    return False
