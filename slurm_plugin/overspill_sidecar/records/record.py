"""A decision and what it rested on, in the form in which it is kept and shown. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from overspill.v1 import router_pb2
from overspill.v1.sidecar_pb2 import AccountUse, DecisionRecord, SiteAnswer
from overspill_sidecar.decision.budget import HOUR_S, UNLIMITED_S, Budget
from overspill_sidecar.decision.capacity import SiteView
from overspill_sidecar.decision.decide import Decision
from overspill_sidecar.policy import Policy
from overspill_sidecar.wait import WaitEstimate

#: A user may ask for 2**48 CPUs, and for more memory than any number holds.
_UINT32_MAX, _UINT64_MAX = 2**32 - 1, 2**64 - 1


@dataclass(frozen=True, slots=True)
class Late:
    """What a decision about a pending job has beside one about a submission.

    Attributes:
        change: "added" to a site's partition, or "recalled" from it.
        job: its name, "12" or "12_3".
        waited_s: how long it had waited.
        after: the decision that it carried before; empty if none.
    """

    change: str
    job: str
    waited_s: float
    after: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A decision with its inputs."""

    decision_id: str
    #: On the monotonic clock.
    decided_at: float
    decided_at_unix_s: float
    request: router_pb2.DecideRequest
    decision: Decision
    policy: Policy
    sites: Sequence[SiteView]
    #: None for a submission.
    late: Late | None = None


def message_of(record: Record) -> DecisionRecord:
    """Return the record as it is kept."""
    request, decision, estimate = record.request, record.decision, record.decision.estimate
    message = DecisionRecord(
        decision_id=record.decision_id,
        decided_at_ms=round(record.decided_at_unix_s * 1000),
        user_id=request.user_id,
        job_name=request.job_name,
        partition=request.partition,
        verdict=decision.verdict.value,
        reason=decision.reason,
        site=decision.site,
        would_be=decision.would_be.value if decision.would_be else "",
        own_partitions=decision.own_partitions,
        mode=record.policy.mode.value,
        overspill_option=request.overspill_option,
        sites=[_site_answer(site, decision) for site in record.sites],
        array=request.array,
    )
    if decision.wait_limit_s is not None:
        message.wait_limit_s = decision.wait_limit_s
    if estimate is not None:
        _add_estimate(message, estimate)
    if decision.budget is not None:
        message.budget.CopyFrom(message_of_budget(decision.budget))
    if late := record.late:
        message.late_change, message.late_job, message.after_decision_id = late.change, late.job, late.after
        message.waited_s = late.waited_s
    if shape := decision.shape:
        message.cpus, message.slots = min(shape.cpus, _UINT32_MAX), min(shape.slots, _UINT32_MAX)
        message.memory_mib = min(shape.memory_mib, _UINT64_MAX)
        message.time_limit_s = shape.time_limit_s or 0
    return message


def _add_estimate(message: DecisionRecord, estimate: WaitEstimate) -> None:
    message.wait_model = estimate.MODEL
    if message.HasField("wait_limit_s"):
        message.exceeds_probability = estimate.p_exceeds(message.wait_limit_s)
    if not math.isinf(estimate.median_s):
        message.wait_s = estimate.median_s
        message.is_wait_upper_bound = estimate.is_upper_bound


def _site_answer(site: SiteView, decision: Decision) -> SiteAnswer:
    capacity = site.capacity
    return SiteAnswer(
        name=site.name,
        delay_s=site.delay_s,
        price=site.price,
        is_reachable=site.is_reachable,
        free_cpus=capacity.free.cpus if capacity else 0,
        free_memory_mib=capacity.free.memory_mib if capacity else 0,
        reason=decision.refusals.get(site.name, ""),
    )


def message_of_budget(budget: Budget) -> AccountUse:
    """Return an account's use and limits as they are kept and shown."""
    is_endless = budget.asked.cpu_s >= UNLIMITED_S
    return AccountUse(
        account=budget.account,
        jobs=min(budget.used.jobs, _UINT32_MAX),
        max_jobs=budget.max_jobs,
        cpu_hours=budget.used.cpu_s / HOUR_S,
        max_cpu_hours=budget.max_cpu_hours,
        asked_jobs=min(budget.asked.jobs, _UINT32_MAX),
        asked_cpu_hours=None if is_endless else budget.asked.cpu_s / HOUR_S,
    )
