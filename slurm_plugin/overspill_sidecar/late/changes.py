"""What is told to Slurm of a job that is added to a site's partition, or recalled from it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

from overspill_sidecar.cluster import Job, limit_text
from overspill_sidecar.decision.decide import Decision
from overspill_sidecar.decision.shape import Pins
from overspill_sidecar.trail import our_part_changed


def addition(job: Job, decision: Decision, partition: str, now_s: float) -> Mapping[str, str] | None:
    """Return the fields that let the job start at the decision's site as well, as `scontrol update` names them.

    They go in one update, which slurmctld makes under one lock: nobody sees half of it.

    Args:
        job: as Slurm shows it.
        decision: to divert it.
        partition: the site's.
        now_s: Unix time.

    Returns:
        None if that cannot be told to Slurm: its comment is not ours to write, or a default has no field.
    """
    pins = decision.pins
    if pins.memory_per_gpu_mib or pins.cpus_per_gpu:
        return None
    trail: dict[str, object] = json.loads(decision.admin_comment)
    trail |= {"added_at_s": int(now_s), "time_limit_s": limit_text(job.time_limit_s)}
    comment = our_part_changed(job.admin_comment, trail)
    if comment is None:
        return None
    fields = {"Partition": ",".join((*decision.own_partitions, partition)), "AdminComment": comment}
    return fields | _pinned(pins)


def _pinned(pins: Pins) -> dict[str, str]:
    named = {
        "TimeLimit": pins.time_limit_min,
        "MinMemoryCPU": pins.memory_per_cpu_mib,
        "MinMemoryNode": pins.memory_per_node_mib,
    }
    return {name: str(value) for name, value in named.items() if value}


def recall(job: Job, decision_id: str, now_s: float) -> Mapping[str, str] | None:
    """Return the fields that give a diverted job its own partitions alone; None if its comment is not ours to write.

    What was pinned stays: it is what its own partition gave it, and Slurm has no way to unset it.
    """
    if job.trail is None:
        return None
    trail: dict[str, object] = {"site": None, "wait_s": None, "wait_is_upper_bound": None}
    trail |= {"decision": decision_id, "recalled_at_s": int(now_s), "time_limit_s": limit_text(job.time_limit_s)}
    comment = our_part_changed(job.admin_comment, trail)
    return None if comment is None else {"Partition": job.trail.partition, "AdminComment": comment}
