"""A small cluster to decide about: partition `batch` of four nodes, `overspill` of one virtual node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from overspill_sidecar.cluster import ClusterConfig, Job, Node, Partition, Snapshot
from overspill_sidecar.decision.capacity import Amount, SiteCapacity, SiteView, rooms_in
from overspill_sidecar.decision.situation import Queue

NOW_S = 1_800_000_000
CONFIG = ClusterConfig(
    cluster_name="rig",
    kill_wait_s=5,
    manages_memory=True,
    memory_per_cpu_mib=100,
    memory_per_node_mib=None,
    parameters=(
        "overspill_mode=on,overspill_wait=00:01:00,overspill_from=batch+long,overspill_to=overspill,overspill_explore=0",
        "",
    ),
)
TOTAL = Amount(8, 16384)
IDLE_SITE = SiteView("site-a", "overspill", is_reachable=True, capacity=SiteCapacity(TOTAL, TOTAL, TOTAL))


def job(slurm_job_id: int = 1, **changes: Any) -> Job:
    """Return a pending single-CPU job of an hour in `batch`, but for `changes`."""
    plain = Job(
        slurm_job_id=slurm_job_id,
        array_job_id=slurm_job_id,
        array_task_id=None,
        tasks=1,
        user_id=2001,
        user_name="alice",
        group_id=2001,
        state="PENDING",
        reason="Priority",
        partitions=("batch",),
        nodes="",
        batch_host="",
        cpus=1,
        memory_mib=100,
        gpus=0,
        time_limit_s=3600,
        start_time_s=None,
        end_time_s=None,
        submit_time_s=NOW_S - 100,
        priority=1_000_000 - slurm_job_id,
        restart_count=0,
        can_requeue=True,
        admin_comment="",
        trail=None,
        eligible_time_s=NOW_S - 100,
    )
    return replace(plain, **changes)


def running(slurm_job_id: int, node: str, cpus: int = 2, left_s: int | None = 3600, **changes: Any) -> Job:
    """Return a job that runs on `node` for `left_s` more seconds; None is for ever."""
    return job(
        slurm_job_id,
        **{
            "state": "RUNNING",
            "reason": "None",
            "nodes": node,
            "batch_host": node,
            "cpus": cpus,
            "start_time_s": NOW_S - 60,
            "end_time_s": None if left_s is None else NOW_S + left_s,
            "time_limit_s": None if left_s is None else left_s + 60,
            **changes,
        },
    )


def partition(name: str = "batch", nodes: tuple[str, ...] = ("c1", "c2", "c3", "c4"), **changes: Any) -> Partition:
    plain = Partition(
        name=name,
        is_default=name == "batch",
        is_up=True,
        nodes=nodes,
        max_time_s=86400,
        default_time_s=None,
        max_nodes=None,
        memory_per_cpu_mib=None,
        memory_per_node_mib=None,
        max_memory_per_node_mib=None,
        max_cpus_per_node=None,
        is_exclusive=False,
        is_restricted=False,
        allow_accounts=(),
        deny_accounts=(),
        allow_qos=(),
        deny_qos=(),
    )
    return replace(plain, **changes)


OVERSPILL = partition("overspill", ("ovs1",), max_time_s=None, max_nodes=1)


def node(name: str, cpus: int = 2, memory_mib: int = 2000, **changes: Any) -> Node:
    plain = Node(name, ("batch",), True, cpus, 0, memory_mib, 0)
    return replace(plain, **changes)


def snapshot(
    *jobs: Job,
    partitions: tuple[Partition, ...] = (partition(), partition("long", ("c1", "c2"), max_time_s=None), OVERSPILL),
    **changes: Any,
) -> Snapshot:
    """Return a snapshot in which the nodes' allocations are those of the running jobs."""
    nodes = {name: node(name) for name in ("c1", "c2", "c3", "c4")}
    nodes["ovs1"] = node("ovs1", 8, 16384, partitions=("overspill",))
    for each in jobs:
        if each.is_active and each.nodes in nodes:
            host = nodes[each.nodes]
            nodes[each.nodes] = replace(
                host,
                cpus_allocated=host.cpus_allocated + each.cpus,
                memory_allocated_mib=host.memory_allocated_mib + each.memory_mib,
            )
    plain = Snapshot(0.0, NOW_S, CONFIG, jobs, {each.name: each for each in partitions}, nodes)
    return replace(plain, **changes)


def queue(of: Snapshot) -> Queue:
    return Queue(of.config, of.default_partition.name if of.default_partition else "", rooms_in(of))


def full_batch(left_s: int | None = 3600) -> tuple[Job, ...]:
    """Return jobs that take all of `batch` for `left_s` more seconds."""
    return tuple(running(100 + number, f"c{number}", 2, left_s) for number in range(1, 5))
