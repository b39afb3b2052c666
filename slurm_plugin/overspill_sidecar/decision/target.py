"""Whether Slurm would take a job in an overspill partition, and start it there. Pure.

A job with a list of partitions may be rejected as a whole for what one of them refuses. Seen on 22.05, for a job that
its own partition takes:

* EnforcePartLimits=ALL: for whatever one partition refuses (time, size, accounts, QOS, groups).
* EnforcePartLimits=ANY: for AllowGroups, AllocNodes, RootOnly and ReqResv.
* Whatever EnforcePartLimits says: for the limits of a partition's QOS that has the flag DenyOnLimit, and if the user's
  association names a partition ("Multiple partition job request not supported").

So all of it is looked at first, and what cannot be known counts as a refusal: in doubt, local.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from overspill.v1.router_pb2 import DecideRequest
from overspill_sidecar.accounting import Accounting, Demand
from overspill_sidecar.cluster import ClusterConfig, Partition
from overspill_sidecar.decision.shape import Shape

_MINUTE_S = 60


def why_target_refuses(
    job: DecideRequest,
    shape: Shape,
    own: Sequence[Partition],
    target: Partition,
    config: ClusterConfig,
    accounting: Accounting | None,
) -> str | None:
    """Return the stable reason why Slurm would reject the job in `target` or let it pend there; None if it would not.

    `accounting` is None where there is none, or where Slurm did not tell: then only what the job names is known.
    """
    account = accounting.account_of(job.user_id, job.account) if accounting else job.account
    refusals = (
        ("target_down", not target.is_up),
        ("target_restricted", target.is_restricted or target.is_exclusive),
        ("target_groups", target.is_for_some_users and target.name not in job.open_partitions),
        ("target_account", _is_refused(account, target.allow_accounts, target.deny_accounts)),
        ("target_qos", _is_refused(job.qos, target.allow_qos, target.deny_qos)),
        ("target_time_limit", _exceeds(shape.time_limit_s, target.max_time_s)),
        # No limit is nothing that could be pinned: the target must give the same by itself.
        ("target_time_default", shape.time_limit_s is None and target.given_time_s is not None),
        ("target_memory_limit", _exceeds_memory(shape, target, config)),
        ("target_cpu_limit", _exceeds(-(-shape.cpus // shape.nodes), target.max_cpus_per_node or None)),
        # Slurm would give each GPU CPUs that the job does not get at home.
        ("target_gpu_default", _adds_cpus(job, shape, target, config)),
        ("target_nodes_limit", not target.min_nodes <= shape.nodes <= _or_infinite(target.max_nodes)),
    )
    reason = next((reason for reason, holds in refusals if holds), None)
    return reason or _why_accounting_refuses(job, shape, own, target, account, config, accounting)


def _why_accounting_refuses(
    job: DecideRequest,
    shape: Shape,
    own: Sequence[Partition],
    target: Partition,
    account: str,
    config: ClusterConfig,
    accounting: Accounting | None,
) -> str | None:
    if not config.enforced:
        return None
    if accounting is None or (target.qos and target.qos not in accounting.qos):
        return "accounting_unknown"
    partitions = (*(partition.name for partition in own), target.name)
    if any((account, job.user_id, name) in accounting.associations for name in partitions):
        return "association_of_partition"
    if not accounting.has_association(job.user_id, account, target.name):
        return "no_association"
    qos = (job.qos, *([target.qos] if target.qos else []))
    if config.enforces_limits and accounting.is_limit_reached(_demand(shape), job.user_id, account, target.name, qos):
        return "limit_reached"
    return None


def _demand(shape: Shape) -> Demand:
    return Demand(
        slots=shape.slots,
        tasks=shape.tasks,
        tres={
            "cpu": shape.cpus,
            "mem": shape.memory_mib,
            "node": shape.nodes,
            "gres/gpu": shape.gpus,
            **({f"gres/gpu:{shape.gpu_type}": shape.gpus} if shape.gpu_type else {}),
        },
        nodes=shape.nodes,
        minutes=None if shape.time_limit_s is None else shape.time_limit_s / _MINUTE_S,
    )


def _is_refused(name: str, allowed: Sequence[str], denied: Sequence[str]) -> bool:
    if not name:
        return bool(allowed or denied)
    return name in denied or (bool(allowed) and name not in allowed)


def _exceeds_memory(shape: Shape, target: Partition, config: ClusterConfig) -> bool:
    """Tell whether a node's part is over a limit. Over a limit per CPU, Slurm would give the job more CPUs instead."""
    per_node = target.max_memory_per_node_mib or None
    per_cpu = target.max_memory_per_cpu_mib or None
    if per_node is None and per_cpu is None:
        per_node, per_cpu = config.max_memory_per_node_mib or None, config.max_memory_per_cpu_mib or None
    return _exceeds(-(-shape.memory_mib // shape.nodes), per_node) or _exceeds(
        -(-shape.memory_mib // shape.cpus), per_cpu
    )


def _adds_cpus(job: DecideRequest, shape: Shape, target: Partition, config: ClusterConfig) -> bool:
    by_default = target.gpu_defaults.cpus or config.gpu_defaults.cpus
    return bool(shape.gpus and by_default) and not (shape.pins.cpus_per_gpu or job.cpus_per_tres)


def _exceeds(wanted: int | None, maximum: int | None) -> bool:
    return maximum is not None and (wanted is None or wanted > maximum)


def _or_infinite(limit: int | None) -> float:
    return math.inf if limit is None else limit
