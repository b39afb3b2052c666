"""How much of the site one cluster may have. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from overspill_agent.capacity import Slot, largest_first
from overspill_agent.config import ClusterSection
from overspill_agent.runs import Resources, Run

_KIB = 1024


def most_of(limits: ClusterSection, total: Resources) -> Resources:
    """Return the most that all unfinished runs of a cluster may have together, of a site that has `total`."""
    return Resources(
        cpus=_least(limits.share, total.cpus, limits.max_cpus),
        memory_mib=_least(limits.share, total.memory_mib, limits.max_memory_mib),
        gpus=_least(limits.share, total.gpus, limits.max_gpus),
    )


def taken_by(slurm_cluster: str, unfinished: Iterable[Run]) -> list[Resources]:
    """Return what each of the cluster's runs has."""
    return [run.resources for run in unfinished if run.request_id.slurm_cluster == slurm_cluster]


def why_beyond(limits: ClusterSection, total: Resources, taken: Iterable[Resources], wanted: Resources) -> str:
    """Return which limit of its cluster a new run would break now; empty if none.

    Args:
        limits: the cluster's.
        total: what the site has.
        taken: what each of its unfinished runs has.
        wanted: what the new one asks for.
    """
    runs = list(taken)
    if len(runs) >= limits.max_runs:
        return f"the cluster has {len(runs)} unfinished runs here, and may have {limits.max_runs}"
    would_have = sum(runs, wanted)
    if not _is_bounded(limits) or would_have.fits_in(most := most_of(limits, total)):
        return ""
    return (
        f"the cluster's runs would have {would_have.cpus} CPUs, {would_have.memory_mib} MiB and {would_have.gpus} GPUs"
        f" here, and may have {most.cpus}, {most.memory_mib} MiB and {most.gpus}"
    )


def _is_bounded(limits: ClusterSection) -> bool:
    """Tell whether the operator has decided anything: the whole site is no limit of a cluster's."""
    return limits.share < 1 or (limits.max_cpus, limits.max_memory_mib, limits.max_gpus) != (None, None, None)


def is_spec_too_large(limits: ClusterSection, spec_bytes: int) -> bool:
    return spec_bytes > limits.max_spec_kib * _KIB


def within(limits: ClusterSection, total: Resources, taken: Iterable[Resources], slots: Iterable[Slot]) -> list[Slot]:
    """Return the slots, as `left` has them, as a cluster is told of them: no larger, and no more free, than its limits.

    What is left to it is handed out to those with most free first. The other arguments are as for `why_beyond`.
    """
    runs = list(taken)
    most = most_of(limits, total)
    rest = most.less(sum(runs, Resources())) if len(runs) < limits.max_runs else Resources()
    told = []
    for slot in largest_first(slots):
        usable = slot.usable.capped(rest)
        rest = rest.less(usable)
        told.append(replace(slot, size=slot.size.capped(most), usable=usable))
    return told


def _least(share: float, total: int, limit: int | None) -> int:
    of_share = int(total * share)
    return of_share if limit is None else min(of_share, limit)
