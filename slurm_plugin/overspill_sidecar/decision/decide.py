"""Where one submission goes. Pure: the same request in the same situation is always decided alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.accounting import Accounting
from overspill_sidecar.cluster import ClusterConfig, Partition
from overspill_sidecar.decision.capacity import Amount, Room, SiteView, can_start_now, why_never_fits
from overspill_sidecar.decision.eligibility import features_of, why_never_diverted, why_policy_keeps
from overspill_sidecar.decision.shape import Pins, Shape, StaysLocal, shape_of
from overspill_sidecar.decision.target import why_target_refuses
from overspill_sidecar.policy import Mode, Policy
from overspill_sidecar.slurm_text import names_host
from overspill_sidecar.wait import QueuedJob, WaitEstimate

#: Values of `--overspill` that leave it to the router whether the job goes, and all that are no site's name.
_LEFT_TO_US = frozenset({"", "auto"})
#: Virtual nodes have it beside the site's own.
_VIRTUAL_NODES_FEATURE = "overspill"
_CHOICES = _LEFT_TO_US | {"never", "always"}


class Verdict(StrEnum):
    LOCAL = "LOCAL"
    DIVERT = "DIVERT"
    REFUSE = "REFUSE"


@dataclass(frozen=True, slots=True)
class Queue:
    """What a fresh snapshot of Slurm comes down to for a decision."""

    config: ClusterConfig
    default_partition: str
    rooms: Mapping[str, Room]
    #: None where there is none, or where Slurm does not tell.
    accounting: Accounting | None = None
    is_federated: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything a decision rests on besides the request."""

    policy: Policy
    #: None while Slurm has never answered, or not for too long: then nothing is diverted.
    queue: Queue | None
    sites: Sequence[SiteView]
    #: By site: what decisions promised whose jobs no snapshot shows yet.
    promised: Mapping[str, Amount]
    predict: Callable[[QueuedJob], WaitEstimate | None]
    unix_time_s: float
    #: By site: how many jobs and array tasks these promises are for.
    promised_jobs: Mapping[str, int] = field(default_factory=dict)
    #: Of the users whom the policy names.
    user_ids: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer and why.

    `reason` is one stable word. With LOCAL and mode shadow, `would_be` is what mode on would have answered.
    """

    verdict: Verdict
    reason: str
    site: str = ""
    partition: str = ""
    pins: Pins = field(default_factory=Pins)
    admin_comment: str = ""
    user_message: str = ""
    shape: Shape | None = None
    own_partitions: tuple[str, ...] = ()
    estimate: WaitEstimate | None = None
    would_be: Verdict | None = None
    #: By site: why it did not take the job, one stable word each. Sites after the chosen one were not asked.
    refusals: Mapping[str, str] = field(default_factory=dict)


def decide(job: DecideRequest, situation: Situation, decision_id: str) -> Decision:
    """Return where `job` goes. In doubt it stays where the user sent it."""
    named = tuple(dict.fromkeys(name for name in job.partition.split(",") if name))
    overspill = {site.partition: site.name for site in situation.sites}
    aimed_at = [name for name in named if name in overspill]
    if aimed_at and not job.has_script:
        return Decision(Verdict.REFUSE, "interactive_in_overspill", user_message=_refusal(aimed_at[0]))
    if aimed_at:
        return Decision(Verdict.LOCAL, "overspill_partition_named")
    if job.overspill_option not in {*_CHOICES, *overspill.values()}:
        return Decision(Verdict.LOCAL, "option_unknown", user_message=_no_such_site(job.overspill_option, overspill))
    try:
        return _decide_batch_job(job, named, situation, decision_id)
    except StaysLocal as answer:
        return Decision(Verdict.LOCAL, answer.reason)


def _decide_batch_job(job: DecideRequest, named: tuple[str, ...], situation: Situation, decision_id: str) -> Decision:
    policy, queue = situation.policy, situation.queue
    if policy.mode is Mode.OFF:
        raise StaysLocal("mode_off")
    if reason := why_never_diverted(job, situation.unix_time_s):
        raise StaysLocal(reason)
    if queue is None:
        raise StaysLocal("queue_unknown")
    if queue.is_federated:
        raise StaysLocal("federated")
    own = _own_partitions(named, policy, queue)
    shape = shape_of(job, own, queue.config)
    names = tuple(partition.name for partition in own)
    account = queue.accounting.account_of(job.user_id, job.account) if queue.accounting else job.account
    if reason := why_policy_keeps(job, shape, names, policy, account, situation.user_ids):
        raise StaysLocal(reason)
    estimate = _estimate(shape, names, situation)
    local = Decision(Verdict.LOCAL, "", shape=shape, own_partitions=names, estimate=estimate)
    is_forced = policy.mode is Mode.ALWAYS or job.overspill_option not in _LEFT_TO_US
    if not is_forced and (reason := _why_wait_is_borne(shape, names, situation)):
        return replace(local, reason=reason)
    if _are_too_many(shape, "", situation.sites, situation):
        return replace(local, reason="max_jobs")
    site, refusals = _choose_site(job, shape, own, situation, is_forced=is_forced)
    local = replace(local, refusals=refusals)
    if site is None:
        is_nowhere = bool(refusals) and set(refusals.values()) == {"site_image"}
        message = _no_such_image(job.image, situation.sites) if is_nowhere else ""
        return replace(local, reason=next(iter(refusals.values()), "no_site"), user_message=message)
    diverted = replace(
        local,
        verdict=Verdict.DIVERT,
        reason=_why_diverted(job, policy),
        site=site.name,
        partition=site.partition if is_forced else ",".join((*names, site.partition)),
        pins=shape.pins,
        admin_comment=_admin_comment(decision_id, site.name, ",".join(names), estimate, job.image),
        user_message=_notice(site) if any(policy.is_notifying(name) for name in names) else "",
    )
    if policy.mode is Mode.SHADOW:
        return replace(local, reason=f"shadow_{diverted.reason}", site=site.name, would_be=Verdict.DIVERT)
    return diverted


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


def _estimate(shape: Shape, names: tuple[str, ...], situation: Situation) -> WaitEstimate | None:
    """Return the shortest of the waits in the job's partitions; None if one of them is unknown."""
    waits = [situation.predict(_queued(shape, name)) for name in names]
    known = [wait for wait in waits if wait is not None]
    return min(known, key=lambda wait: wait.median_s) if known and len(known) == len(waits) else None


def _queued(shape: Shape, partition: str) -> QueuedJob:
    return QueuedJob(partition, shape.cpus * shape.slots, shape.time_limit_s)


def _why_wait_is_borne(shape: Shape, names: tuple[str, ...], situation: Situation) -> str | None:
    """Return why the job waits at home; None if in each of its partitions the wait is likely too long."""
    for name in names:
        if situation.queue is None or not situation.queue.rooms[name].whole.holds(Amount(shape.cpus)):
            return "larger_than_own_partition"
        wait = situation.predict(_queued(shape, name))
        if wait is None:
            return "wait_unknown"
        if wait.p_exceeds(situation.policy.wait_s(name)) <= 0.5:  # noqa: PLR2004 - more likely than not
            return "wait_below_threshold"
    return None


def _choose_site(
    job: DecideRequest, shape: Shape, own: Sequence[Partition], situation: Situation, *, is_forced: bool
) -> tuple[SiteView | None, Mapping[str, str]]:
    """Return the first site in the policy's order that takes the job, and why those before it do not."""
    by_partition = {site.partition: site for site in situation.sites}
    refusals: dict[str, str] = {}
    for partition in _wanted(own, by_partition, situation.policy):
        site = by_partition.get(partition)
        if site is not None and job.overspill_option not in {*_CHOICES, site.name}:
            continue
        reason = "no_such_site" if site is None else _why_not(site, job, shape, own, situation, is_forced=is_forced)
        if reason is None:
            return site, refusals
        refusals[site.name if site else partition] = reason
    return None, refusals


def _wanted(own: Sequence[Partition], configured: Iterable[str], policy: Policy) -> Sequence[str]:
    """Return the overspill partitions to try, in order: of several own partitions, those that each may go to."""
    orders = [policy.to_partitions(partition.name) or tuple(configured) for partition in own]
    return [name for name in orders[0] if all(name in order for order in orders)]


def _why_not(  # noqa: PLR0911 - one return for each reason
    site: SiteView,
    job: DecideRequest,
    shape: Shape,
    own: Sequence[Partition],
    situation: Situation,
    *,
    is_forced: bool,
) -> str | None:
    queue = situation.queue
    room = queue.rooms.get(site.partition) if queue else None
    if not site.is_reachable:
        return "site_unreachable"
    if queue is None or room is None:
        return "target_unknown"
    if _excludes(job.excluded_nodes, room.partition):
        return "node_list"
    if not (features_of(job) or frozenset()) <= room.features:
        return "target_feature"
    if reason := _why_not_offered(job, site):
        return reason
    if _are_too_many(shape, site.partition, [site], situation):
        return "max_jobs"
    target = room.partition
    if reason := why_target_refuses(job, shape, own, target, queue.config, queue.accounting):
        return reason
    if reason := why_never_fits(shape, site, room):
        return reason
    promised = situation.promised.get(site.name, Amount())
    return None if is_forced or can_start_now(shape, site, room, promised) else "no_free_slot"


def _why_not_offered(job: DecideRequest, site: SiteView) -> str | None:
    """Return why the site has not what the job names: an image, or a feature beside that of virtual nodes."""
    if site.capacity is None:
        return "capacity_unknown"
    if job.image and job.image not in site.capacity.images:
        return "site_image"
    features = (features_of(job) or frozenset()) - {_VIRTUAL_NODES_FEATURE}
    if site.capacity.features is not None and not features <= site.capacity.features:
        return "site_feature"
    return None


def _are_too_many(shape: Shape, partition: str, sites: Iterable[SiteView], situation: Situation) -> bool:
    """Tell whether the job would be one too many for `overspill_max_jobs`, in `partition` or (empty) in all."""
    most = situation.policy.max_jobs(partition)
    if most is None or situation.queue is None:
        return False
    rooms = situation.queue.rooms
    diverted = sum(
        situation.promised_jobs.get(site.name, 0) + (rooms[site.partition].jobs if site.partition in rooms else 0)
        for site in sites
    )
    return diverted + shape.slots > most


def _excludes(excluded: str, partition: Partition) -> bool:
    """Tell whether `--exclude` may name a node of the partition; an unreadable list may name any."""
    try:
        return any(names_host(excluded, node) for node in partition.nodes)
    except ValueError:
        return True


def _why_diverted(job: DecideRequest, policy: Policy) -> str:
    if job.overspill_option not in _LEFT_TO_US:
        return "option_always" if job.overspill_option == "always" else "option_site"
    return "mode_always" if policy.mode is Mode.ALWAYS else "wait_above_threshold"


def _admin_comment(decision_id: str, site: str, partition: str, estimate: WaitEstimate | None, image: str) -> str:
    """Return the JSON that the job carries: what `explain`, the relay and a person need to know later."""
    trail: dict[str, object] = {"decision": decision_id, "site": site, "partition": partition}
    if estimate is not None:
        is_endless = math.isinf(estimate.median_s)
        trail["wait_s"] = None if is_endless else round(estimate.median_s)
        trail["wait_is_upper_bound"] = estimate.is_upper_bound
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
