"""What a pending job asks for, as the decision about a submission wants it: so that both judge alike. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import ClusterConfig, Job, JobRequest, Partition

#: INFINITE of slurm.h.
_INFINITE = 0xFFFFFFFF
#: An option that no site is called by: what the user wished is not known.
_UNKNOWN = "?"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user has said about Overspill, which Slurm shows nobody; the submit hook has noted it in the job.

    Attributes:
        option, image: values of --overspill and --overspill-image; empty where he gave none.
        stays: why the job is never to be looked at again, a stable word; empty if nothing forbids it.
    """

    option: str = ""
    image: str = ""
    stays: str = ""


def wish_of(admin_comment: str) -> Wish:
    """Return the user's wish. In a comment that cannot be ours to write there is none that could be honoured."""
    try:
        whole = json.loads(admin_comment or "{}")
        ours = whole.get("overspill", {}) if isinstance(whole, dict) else None
    except ValueError:
        ours = None
    if not isinstance(ours, dict):
        return Wish(stays="comment_not_ours")
    texts = [ours.get(key, "") for key in ("option", "image", "stays")]
    return Wish(*(text if isinstance(text, str) else _UNKNOWN for text in texts))


def request_of(
    job: Job, asked: JobRequest, wish: Wish, own: Sequence[Partition], config: ClusterConfig
) -> DecideRequest:
    """Return the request that a submission of this job, or of one task of this array, would have been.

    A value that is the default of one of its own partitions counts as not asked for: nobody knows any more whether its
    user gave it, and what the decision makes of it, pins included, is the same.

    Args:
        job: one that is pending in its own partitions only.
        asked: the rest of what it asks for.
        wish: what its user wants of us.
        own: its partitions.
        config: the cluster's.
    """
    memory_per_cpu_mib, memory_per_node_mib = _memory(asked, own, config)
    return DecideRequest(
        user_id=job.user_id,
        account=job.account,
        qos=job.qos,
        partition=",".join(partition.name for partition in own),
        has_script=asked.has_script,
        time_limit_min=_time_limit_min(job, own),
        min_nodes=asked.min_nodes,
        max_nodes=asked.max_nodes,
        num_tasks=asked.num_tasks,
        cpus_per_task=asked.cpus_per_task,
        min_cpus=job.cpus,
        memory_per_node_mib=memory_per_node_mib,
        memory_per_cpu_mib=memory_per_cpu_mib,
        asks_all_memory=asked.asks_all_memory and config.manages_memory,
        tres=asked.tres,
        tres_scopes=asked.tres_scopes,
        features=asked.features,
        reservation=job.reservation,
        licenses=asked.licenses,
        required_nodes=asked.required_nodes,
        excluded_nodes=asked.excluded_nodes,
        dependency=asked.dependency,
        burst_buffer=asked.burst_buffer,
        container=asked.container,
        begin_time_s=job.eligible_time_s or 0,
        is_held=asked.is_held,
        is_het=asked.is_het,
        is_exclusive=asked.is_exclusive,
        odd_options=[*asked.odd_options, *job.hidden_options],
        overspill_option=wish.option,
        tasks_per_node=asked.tasks_per_node,
        is_cron=asked.is_cron,
        cpus_per_tres=asked.cpus_per_tres,
        mem_per_tres=asked.mem_per_tres,
        image=wish.image,
    )


def _time_limit_min(job: Job, own: Sequence[Partition]) -> int:
    if any(job.time_limit_s == partition.given_time_s for partition in own):
        return 0
    return _INFINITE if job.time_limit_s is None else -(-job.time_limit_s // 60)


def _memory(asked: JobRequest, own: Sequence[Partition], config: ClusterConfig) -> tuple[int, int]:
    """Return MiB per CPU and per node, 0 where it is a default."""
    per_cpu = {partition.memory_per_cpu_mib or config.memory_per_cpu_mib or 0 for partition in own}
    per_node = {partition.memory_per_node_mib or config.memory_per_node_mib or 0 for partition in own}
    if asked.memory_per_cpu_mib in per_cpu and not asked.memory_per_node_mib:
        return 0, 0
    if asked.memory_per_node_mib in per_node and not asked.memory_per_cpu_mib:
        return 0, 0
    return asked.memory_per_cpu_mib, asked.memory_per_node_mib
