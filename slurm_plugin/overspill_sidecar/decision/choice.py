"""Which of the sites gets a job. Pure.

Of the sites that can start it now, those count as equally soon whose delay, from Slurm's start of a job to that of
its script, has lately been within a minute of the shortest; a site that has shown none yet is one of them, else it
would never show any. Of these the cheapest is taken, and of those that cost the same the first in the policy's order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import Partition
from overspill_sidecar.decision.capacity import Amount, SiteView, can_start_now, why_never_fits
from overspill_sidecar.decision.eligibility import LEFT_TO_US, SITE_CHOICES, features_of
from overspill_sidecar.decision.shape import Shape
from overspill_sidecar.decision.situation import Situation
from overspill_sidecar.decision.target import why_target_refuses
from overspill_sidecar.decision.trial import MOST_JOBS
from overspill_sidecar.policy import Choice, Mode, Policy
from overspill_sidecar.slurm_text import names_host

#: Virtual nodes have it beside the site's own.
_VIRTUAL_NODES_FEATURE = "overspill"
#: Delays that differ by no more than this are alike: jobs are diverted for waits of many minutes.
_ALIKE_S = 60.0


@dataclass(frozen=True, slots=True)
class Submission:
    """One job on its way to a site."""

    job: DecideRequest
    shape: Shape
    own: Sequence[Partition]
    #: Sites that could not take it before.
    refused_by: Sequence[str] = ()

    def is_forced(self, policy: Policy) -> bool:
        """Tell whether it goes to a site even if it has to wait there."""
        return policy.mode is Mode.ALWAYS or self.job.overspill_option not in LEFT_TO_US


def choose_site(submission: Submission, situation: Situation) -> tuple[SiteView | None, Mapping[str, str]]:
    """Return the site that gets the job, if any does, and why each of the others does not: one stable word each."""
    by_partition = {site.partition: site for site in situation.sites}
    policy, option = situation.policy, submission.job.overspill_option
    refusals: dict[str, str] = {}
    able: list[SiteView] = []
    busy: list[SiteView] = []
    own = [partition.name for partition in submission.own]
    for partition in wanted_partitions(own, by_partition, policy):
        site = by_partition.get(partition)
        if site is not None and option not in {*SITE_CHOICES, site.name}:
            continue
        reason = "no_such_site" if site is None else _why_not(site, submission, situation)
        if site is not None and reason is None:
            able.append(site)
        elif site is not None and reason == "no_free_slot" and submission.is_forced(policy):
            busy.append(site)
        else:
            refusals[site.name if site else partition] = reason or ""
    best, losers = best_of(able or busy, own, policy)
    full = {site.name: "no_free_slot" for site in busy} if able else {}
    return best, {**refusals, **full, **losers}


def best_of(sites: Sequence[SiteView], own: Iterable[str], policy: Policy) -> tuple[SiteView | None, Mapping[str, str]]:
    """Return the best of sites that would all do, given in order, for a job of these partitions; and why not others."""
    if not sites:
        return None, {}
    if any(policy.choice(name) is Choice.ORDER for name in own):
        return sites[0], {site.name: "later_in_order" for site in sites[1:]}
    shortest_s = min((site.delay_s for site in sites if site.delay_s is not None), default=0.0)
    soon = [site for site in sites if site.delay_s is None or site.delay_s <= shortest_s + _ALIKE_S]
    best = min(soon, key=lambda site: site.price)

    def why_not(site: SiteView) -> str:
        if site not in soon:
            return "starts_later"
        return "dearer" if site.price > best.price else "later_in_order"

    return best, {site.name: why_not(site) for site in sites if site is not best}


def wanted_partitions(own: Iterable[str], configured: Iterable[str], policy: Policy) -> Sequence[str]:
    """Return the overspill partitions to try, in order: of several own partitions, those that each may go to."""
    orders = [policy.to_partitions(name) or tuple(configured) for name in own]
    return [name for name in orders[0] if all(name in order for order in orders)]


def _why_not(  # noqa: PLR0911 - one return for each reason
    site: SiteView, submission: Submission, situation: Situation
) -> str | None:
    job, shape, queue = submission.job, submission.shape, situation.queue
    room = queue.rooms.get(site.partition) if queue else None
    if site.name in submission.refused_by:
        return "came_back"
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
    if reason := _why_limited(site, shape, situation):
        return reason
    if reason := why_target_refuses(job, shape, submission.own, room.partition, queue.config, queue.accounting):
        return reason
    if reason := why_never_fits(shape, site, room):
        return reason
    promised = situation.promised.get(site.name, Amount())
    return None if can_start_now(shape, site, room, promised) else "no_free_slot"


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


def _why_limited(site: SiteView, shape: Shape, situation: Situation) -> str | None:
    if are_too_many(shape, [site], situation.policy.max_jobs(site.partition), situation):
        return "max_jobs"
    is_on_trial = site.partition in situation.on_trial
    return "site_on_trial" if is_on_trial and are_too_many(shape, [site], MOST_JOBS, situation) else None


def are_too_many(shape: Shape, sites: Iterable[SiteView], most: int | None, situation: Situation) -> bool:
    """Tell whether the job would be one too many of the `most` that sites may have together; None is no limit."""
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
