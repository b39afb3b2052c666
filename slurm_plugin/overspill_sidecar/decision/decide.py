"""Where one submission goes. Pure: the same request in the same situation is always decided alike."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import Partition, limit_text
from overspill_sidecar.decision.budget import AccountUse, Budget, budget_of, use_of
from overspill_sidecar.decision.capacity import Amount, SiteView
from overspill_sidecar.decision.choice import Submission, are_too_many, choose_site
from overspill_sidecar.decision.eligibility import LEFT_TO_US, SITE_CHOICES, why_never_diverted, why_policy_keeps
from overspill_sidecar.decision.shape import Pins, Shape, StaysLocal, shape_of
from overspill_sidecar.decision.situation import Queue, Situation
from overspill_sidecar.policy import Mode, Policy
from overspill_sidecar.wait import LIKELIER_THAN_NOT, QueuedJob, WaitEstimate

#: By the job's own partition; None where nobody knows.
Waits = Mapping[str, WaitEstimate | None]


class Verdict(StrEnum):
    LOCAL = "LOCAL"
    DIVERT = "DIVERT"
    REFUSE = "REFUSE"


class Decision(NamedTuple):
    """An answer and why.

    `reason` is one stable word. With LOCAL, `would_be` is what the answer would have been but for mode shadow or
    `overspill_explore`.
    """

    verdict: Verdict
    reason: str
    site: str = ""
    partition: str = ""
    pins: Pins = Pins()
    admin_comment: str = ""
    user_message: str = ""
    shape: Shape | None = None
    own_partitions: tuple[str, ...] = ()
    #: In that of its own partitions where it is the least likely to wait longer than it may; and how long that is.
    estimate: WaitEstimate | None = None
    wait_limit_s: float | None = None
    would_be: Verdict | None = None
    #: By site: why it does not get the job, one stable word each.
    refusals: Mapping[str, str] = MappingProxyType({})
    #: Which the job will be charged to; empty if nobody knows, or there is none.
    account: str = ""
    #: Where a word limits the account.
    budget: Budget | None = None


def decide(job: DecideRequest, situation: Situation, decision_id: str, *, refused_by: Sequence[str] = ()) -> Decision:
    """Return where `job` goes. In doubt it stays where the user sent it.

    Args:
        job: the request.
        situation: what is known at this moment.
        decision_id: names the answer, and is the chance by which `overspill_explore` keeps a job.
        refused_by: sites that could not take the job before, and do not get it again.
    """
    named = tuple(dict.fromkeys(name for name in job.partition.split(",") if name))
    overspill = {site.partition: site.name for site in situation.sites}
    aimed_at = [name for name in named if name in overspill]
    if aimed_at and not job.has_script:
        return Decision(Verdict.REFUSE, "interactive_in_overspill", user_message=_refusal(aimed_at[0]))
    if aimed_at:
        return Decision(Verdict.LOCAL, "overspill_partition_named")
    if job.overspill_option not in {*SITE_CHOICES, *overspill.values()}:
        return Decision(Verdict.LOCAL, "option_unknown", user_message=_no_such_site(job.overspill_option, overspill))
    try:
        return _decide_batch_job(job, named, situation, decision_id, refused_by)
    except StaysLocal as answer:
        return Decision(Verdict.LOCAL, answer.reason)


def _decide_batch_job(
    job: DecideRequest, named: tuple[str, ...], situation: Situation, decision_id: str, refused_by: Sequence[str]
) -> Decision:
    policy, queue = situation.policy, _queue(job, situation)
    own = _own_partitions(named, policy, queue)
    shape = shape_of(job, own, queue.config)
    local = _staying(job, shape, own, queue, situation)
    waits = _waits(job, shape, own, local.account, situation)
    if best := best_partition(waits, policy):
        local = local._replace(estimate=waits[best], wait_limit_s=policy.wait_s(best))
    submission = Submission(job, shape, own, refused_by)
    is_forced = submission.is_forced(policy)
    if not is_forced and (reason := _why_wait_is_borne(shape, waits, situation)):
        return local._replace(reason=reason)
    if reason := _why_too_much(local, queue, situation):
        return local._replace(reason=reason)
    site, refusals = choose_site(submission, situation)
    local = local._replace(refusals=refusals)
    if site is None:
        is_nowhere = bool(refusals) and set(refusals.values()) == {"site_image"}
        message = _no_such_image(job.image, situation.sites) if is_nowhere else ""
        return local._replace(reason=next(iter(refusals.values()), "no_site"), user_message=message)
    going = _diverted(local, job, site, policy, decision_id, is_forced=is_forced)
    if policy.mode is Mode.SHADOW:
        return local._replace(reason=f"shadow_{going.reason}", site=site.name, would_be=Verdict.DIVERT)
    if not is_forced and _is_explored(decision_id, min(policy.explore(name) for name in local.own_partitions)):
        return local._replace(reason="explore", site=site.name, would_be=Verdict.DIVERT)
    return going


def _queue(job: DecideRequest, situation: Situation) -> Queue:
    """Return the queue that a job may be looked at in.

    Raises:
        StaysLocal: if there is none, or if the job stays whatever is in it.
    """
    if situation.policy.mode is Mode.OFF:
        raise StaysLocal("mode_off")
    if reason := why_never_diverted(job, situation.unix_time_s):
        raise StaysLocal(reason)
    if situation.queue is None:
        raise StaysLocal("queue_unknown")
    if situation.queue.is_federated:
        raise StaysLocal("federated")
    return situation.queue


def _staying(
    job: DecideRequest, shape: Shape, own: Sequence[Partition], queue: Queue, situation: Situation
) -> Decision:
    """Return what a decision rests on, with the verdict LOCAL and no reason yet.

    Raises:
        StaysLocal: if the admin's words keep the job.
    """
    names = tuple(partition.name for partition in own)
    account = queue.accounting.account_of(job.user_id, job.account) if queue.accounting else job.account
    if reason := why_policy_keeps(job, shape, names, situation.policy, account, situation.user_ids):
        raise StaysLocal(reason)
    return Decision(
        Verdict.LOCAL,
        "",
        shape=shape,
        own_partitions=names,
        wait_limit_s=max(situation.policy.wait_s(name) for name in names),
        account=account,
        budget=_budget(account, shape, queue, situation),
    )


def _diverted(
    local: Decision, job: DecideRequest, site: SiteView, policy: Policy, decision_id: str, *, is_forced: bool
) -> Decision:
    names = local.own_partitions
    return local._replace(
        verdict=Verdict.DIVERT,
        reason=_why_diverted(job, policy),
        site=site.name,
        partition=site.partition if is_forced else ",".join((*names, site.partition)),
        pins=local.shape.pins if local.shape else Pins(),
        admin_comment=_admin_comment(decision_id, site.name, local, job.image),
        user_message=_notice(site) if any(policy.is_notifying(name) for name in names) else "",
    )


def _budget(account: str, shape: Shape, queue: Queue, situation: Situation) -> Budget | None:
    """Return the budget of the job's account, None where no word limits it or its use is not known."""
    if not situation.policy.has_budgets or queue.used is None:
        return None
    used = queue.used.get(account, AccountUse()) + situation.promised_use.get(account, AccountUse())
    budget = budget_of(account, situation.policy, used, use_of(shape))
    return None if budget.max_jobs is None and budget.max_cpu_hours is None else budget


def _why_too_much(local: Decision, queue: Queue, situation: Situation) -> str | None:
    """Return why no more jobs are diverted, or none of the job's account; None if this one may be."""
    policy, shape = situation.policy, local.shape
    if shape is not None and are_too_many(shape, situation.sites, policy.max_jobs(), situation):
        return "max_jobs"
    if not policy.has_budgets:
        return None
    if not local.account and queue.config.has_slurmdbd:
        # Slurm will give it one, and which nobody knows.
        return "account_unknown"
    if queue.used is None:
        return "use_unknown"
    return local.budget.reason if local.budget else None


def _is_explored(decision_id: str, share: float) -> bool:
    """Tell whether this is one of the decisions that keep the job: a share of all ids, always the same ones."""
    drawn = int.from_bytes(hashlib.sha256(decision_id.encode()).digest()[:8], "big")
    return drawn < share * 2**64


def _own_partitions(named: tuple[str, ...], policy: Policy, queue: Queue) -> tuple[Partition, ...]:
    """Return the partitions the user meant.

    Raises:
        StaysLocal: if one is unknown, or not one that the policy diverts from.
    """
    names = named or (queue.default_partition,)
    if not all(name in queue.rooms for name in names):
        raise StaysLocal("partition_unknown")
    if not all(name in policy.from_partitions for name in names):
        raise StaysLocal("partition_not_in_from")
    own = tuple(queue.rooms[name].partition for name in names)
    if any(partition.is_exclusive for partition in own):
        raise StaysLocal("exclusive")
    return own


def _waits(job: DecideRequest, shape: Shape, own: Sequence[Partition], account: str, situation: Situation) -> Waits:
    """Return what is predicted for each of the job's partitions.

    After one that is unknown no other is asked about: the job stays, and each may cost as much of its little time.
    """
    queued = (
        QueuedJob(
            partition.name,
            shape.cpus * shape.slots,
            shape.time_limit_s,
            job.user_id,
            account,
            job.qos,
            shape.nodes,
            shape.slots,
            shape.memory_mib * shape.slots,
            shape.gpus * shape.slots,
        )
        for partition in own
    )
    waits: dict[str, WaitEstimate | None] = dict.fromkeys(partition.name for partition in own)
    for each in queued:
        waits[each.partition] = situation.predict(each)
        if waits[each.partition] is None:
            break
    return waits


def best_partition(waits: Waits, policy: Policy) -> str | None:
    """Return where the job is the least likely to wait longer than it may; None if one of its waits is unknown."""
    known = {name: wait.p_exceeds(policy.wait_s(name)) for name, wait in waits.items() if wait is not None}
    return min(known, key=known.__getitem__) if known and len(known) == len(waits) else None


def _why_wait_is_borne(shape: Shape, waits: Waits, situation: Situation) -> str | None:
    """Return why the job waits at home; None if in each of its partitions the wait is likely too long."""
    for name, wait in waits.items():
        if situation.queue is None or not situation.queue.rooms[name].whole.holds(Amount(shape.cpus)):
            return "larger_than_own_partition"
        if wait is None:
            return "wait_unknown"
        if wait.p_exceeds(situation.policy.wait_s(name)) <= LIKELIER_THAN_NOT:
            return "wait_below_threshold"
    return None


def _why_diverted(job: DecideRequest, policy: Policy) -> str:
    if job.overspill_option not in LEFT_TO_US:
        return "option_always" if job.overspill_option == "always" else "option_site"
    return "mode_always" if policy.mode is Mode.ALWAYS else "wait_above_threshold"


def _admin_comment(decision_id: str, site: str, decided: Decision, image: str) -> str:
    """Return the JSON that the job carries: what `explain`, the relay and a person need to know later."""
    estimate, partition = decided.estimate, ",".join(decided.own_partitions)
    trail: dict[str, object] = {"decision": decision_id, "site": site, "partition": partition}
    if estimate is not None:
        is_endless = math.isinf(estimate.median_s)
        trail["wait_s"] = None if is_endless else round(estimate.median_s)
        trail["wait_is_upper_bound"] = estimate.is_upper_bound
    if decided.shape is not None:
        trail["time_limit_s"] = limit_text(decided.shape.time_limit_s)
    if image:
        trail["image"] = image
    return json.dumps(trail, separators=(",", ":"))


def _notice(site: SiteView) -> str:
    return (
        f"overspill: this job may run at {site.name} (partition {site.partition}) if that is sooner; "
        "--overspill=never keeps it here"
    )


def _no_such_site(option: str, overspill: Mapping[str, str]) -> str:
    sites = ", ".join(sorted(overspill.values()))
    return f"overspill: --overspill={option}: no such site ({sites}), nor auto, never or always: this job stays here"


def _no_such_image(image: str, sites: Iterable[SiteView]) -> str:
    offered = sorted({name for site in sites if site.capacity for name in site.capacity.images})
    there_is = f"there is {', '.join(offered)}" if offered else "there is none"
    return f"overspill: --overspill-image={image}: no site offers it ({there_is}): this job stays here"


def _refusal(partition: str) -> str:
    return (
        f"overspill: partition {partition} runs batch jobs only: submit a script with sbatch, "
        "or choose another partition for srun and salloc"
    )
