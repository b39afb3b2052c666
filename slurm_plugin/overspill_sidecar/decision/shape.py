"""What a job asks for once its own partition's defaults are filled in. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.cluster import ClusterConfig, GpuDefaults, Partition
from overspill_sidecar.decision.gpus import gpu_count, gpu_type, is_readable, per_gpu
from overspill_sidecar.slurm_text import count_array_tasks

#: INFINITE and NO_VAL of slurm.h, should a shim pass them on: the user asked for no limit, or for nothing.
_INFINITE = 0xFFFFFFFF
_NO_VALUE = 0xFFFFFFFE


class StaysLocal(Exception):  # noqa: N818 - an answer, not an error
    """The job is to run where the user sent it; carries the stable reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Pins(NamedTuple):
    """Defaults of the job's own partition that must be set before its partition changes; 0: nothing to set."""

    time_limit_min: int = 0
    memory_per_cpu_mib: int = 0
    memory_per_node_mib: int = 0
    memory_per_gpu_mib: int = 0
    cpus_per_gpu: int = 0


class Shape(NamedTuple):
    """What one slot must offer, and how many such slots the job takes at once."""

    #: CPUs, memory and GPUs are those of all nodes of one task together.
    cpus: int
    #: 0 where Slurm does not manage memory.
    memory_mib: int
    #: None is unlimited.
    time_limit_s: int | None
    #: Array tasks that run at once; 1 for a plain job.
    slots: int
    pins: Pins
    gpus: int = 0
    nodes: int = 1
    #: In lower case; empty: any.
    gpu_type: str = ""
    #: Array tasks in all; 1 for a plain job.
    tasks: int = 1


def nodes_of(job: DecideRequest) -> int:
    """Return the least number of nodes that the job asks for, or that its geometry needs."""
    return max(job.min_nodes, -(-job.num_tasks // job.tasks_per_node) if job.tasks_per_node else 1, 1)


def shape_of(job: DecideRequest, own: Sequence[Partition], config: ClusterConfig) -> Shape:
    """Return the job's shape in its own partitions.

    Raises:
        StaysLocal: if its defaults cannot be told or kept: its partitions differ in them, or it would get whole nodes;
            or if it asks for generic resources other than a number of GPUs of one type.
    """
    if not is_readable(job):
        raise StaysLocal("gres")
    nodes, tasks = nodes_of(job), _tasks(job)
    gpus = gpu_count(job, nodes, tasks) if job.tres else 0
    gpu_defaults = _gpu_defaults(own, config) if gpus else GpuDefaults()
    cpus, cpus_per_gpu_pin = _cpus(job, tasks, gpus, gpu_defaults)
    time_limit_s, time_pin_min = _time_limit(job, own)
    per_cpu_pin = per_node_pin = per_gpu_pin = 0
    if gpus and (memory := _gpu_memory(job, gpus, gpu_defaults)):
        memory_mib, per_gpu_pin = memory
    else:
        memory_mib, per_cpu_pin, per_node_pin = _memory(job, own, config, cpus, nodes)
    pins = Pins(time_pin_min, per_cpu_pin, per_node_pin, per_gpu_pin, cpus_per_gpu_pin)
    slots, all_tasks = _slots(job.array), _slots(job.array.partition("%")[0])
    wanted_type = gpu_type(job) if gpus else ""
    return Shape(cpus, memory_mib, time_limit_s, slots, pins, gpus, nodes, wanted_type, all_tasks)


def _tasks(job: DecideRequest) -> int:
    return job.num_tasks or job.tasks_per_node * max(job.min_nodes, 1) or max(job.min_nodes, 1)


def _cpus(job: DecideRequest, tasks: int, gpus: int, defaults: GpuDefaults) -> tuple[int, int]:
    """Return the CPUs and what to pin for each GPU."""
    cpus = max(job.min_cpus, tasks * max(job.cpus_per_task, 1), 1)
    asked = per_gpu(job.cpus_per_tres)
    if asked or not gpus or not defaults.cpus:
        return max(cpus, gpus * asked), 0
    if job.cpus_per_task:
        # Which of the two Slurm would go by is not documented.
        raise StaysLocal("gpu_default_unclear")
    return max(cpus, gpus * defaults.cpus), defaults.cpus


def _slots(array: str) -> int:
    if not array:
        return 1
    try:
        return max(1, count_array_tasks(array))
    except ValueError:
        raise StaysLocal("array_unreadable") from None


def _time_limit(job: DecideRequest, own: Sequence[Partition]) -> tuple[int | None, int]:
    """Return the time limit in seconds and what to pin in minutes."""
    if job.time_limit_min == _INFINITE:
        return None, 0
    if job.time_limit_min not in {0, _NO_VALUE}:
        return job.time_limit_min * 60, 0
    given = {partition.given_time_s for partition in own}
    if len(given) != 1:
        raise StaysLocal("defaults_differ")
    limit_s = given.pop()
    return (None, 0) if limit_s is None else (limit_s, -(-limit_s // 60))


def _gpu_defaults(own: Sequence[Partition], config: ClusterConfig) -> GpuDefaults:
    """Return what each GPU brings. A partition's own JobDefaults come before the cluster's, one by one."""
    given = {
        GpuDefaults(
            partition.gpu_defaults.cpus or config.gpu_defaults.cpus,
            partition.gpu_defaults.memory_mib or config.gpu_defaults.memory_mib,
        )
        for partition in own
    }
    if len(given) != 1:
        raise StaysLocal("defaults_differ")
    return given.pop()


def _gpu_memory(job: DecideRequest, gpus: int, defaults: GpuDefaults) -> tuple[int, int] | None:
    """Return MiB per slot and what to pin per GPU; None if the job's memory does not go by GPUs."""
    if asked := per_gpu(job.mem_per_tres):
        return gpus * asked, 0
    if defaults.memory_mib and not job.memory_per_node_mib and not job.memory_per_cpu_mib:
        return gpus * defaults.memory_mib, defaults.memory_mib
    return None


def _memory(
    job: DecideRequest, own: Sequence[Partition], config: ClusterConfig, cpus: int, nodes: int
) -> tuple[int, int, int]:
    """Return MiB per slot and what to pin per CPU and per node."""
    if job.memory_per_node_mib:
        return job.memory_per_node_mib * nodes, 0, 0
    if job.memory_per_cpu_mib:
        return job.memory_per_cpu_mib * cpus, 0, 0
    if not config.manages_memory:
        return 0, 0, 0
    given = {_default_memory(partition, config) for partition in own}
    if len(given) != 1:
        raise StaysLocal("defaults_differ")
    per_cpu_mib, per_node_mib = given.pop()
    if per_cpu_mib:
        return per_cpu_mib * cpus, per_cpu_mib, 0
    if per_node_mib:
        return per_node_mib * nodes, 0, per_node_mib
    raise StaysLocal("default_is_all_memory")


def _default_memory(partition: Partition, config: ClusterConfig) -> tuple[int, int]:
    """Return the defaults per CPU and per node. Either of a partition's replaces both of the cluster's."""
    if partition.memory_per_cpu_mib or partition.memory_per_node_mib:
        return partition.memory_per_cpu_mib or 0, partition.memory_per_node_mib or 0
    return config.memory_per_cpu_mib or 0, config.memory_per_node_mib or 0
