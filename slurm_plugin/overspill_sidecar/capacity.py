"""What a site can take now, and whether a job of a shape fits into it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from overspill_sidecar.cluster import Node, Partition, Snapshot
from overspill_sidecar.shape import Shape


@dataclass(frozen=True, slots=True)
class Amount:
    """CPUs and MiB. Differences stop at nothing."""

    cpus: int = 0
    memory_mib: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpus + other.cpus, self.memory_mib + other.memory_mib)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(max(0, self.cpus - other.cpus), max(0, self.memory_mib - other.memory_mib))

    def __mul__(self, factor: int) -> Amount:
        return Amount(self.cpus * factor, self.memory_mib * factor)

    def holds(self, wanted: Amount) -> bool:
        return wanted.cpus <= self.cpus and wanted.memory_mib <= self.memory_mib


@dataclass(frozen=True, slots=True)
class SiteCapacity:
    """The agent's answer to Capacity. A site that does not manage memory says 0 MiB in all three."""

    total: Amount
    free: Amount
    largest_free: Amount


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site as the router sees it at one moment."""

    name: str
    partition: str
    is_reachable: bool
    #: None until the agent has told.
    capacity: SiteCapacity | None


@dataclass(frozen=True, slots=True)
class Room:
    """The nodes of one partition, as of a snapshot."""

    partition: Partition
    #: All its nodes together, usable now or not.
    whole: Amount
    #: Its usable nodes.
    nodes: tuple[Amount, ...]
    free_nodes: tuple[Amount, ...]
    #: What jobs competing for these nodes take as soon as Slurm looks at them.
    waiting: Amount

    @property
    def free(self) -> Amount:
        return sum(self.free_nodes, Amount())


def rooms_in(snapshot: Snapshot) -> Mapping[str, Room]:
    """Return every partition's room: one walk over the queue, so that a decision needs none."""
    waiting: defaultdict[str, Amount] = defaultdict(Amount)
    for job in snapshot.jobs:
        if job.is_competing:
            for name in job.partitions:
                waiting[name] += Amount(job.cpus, job.memory_mib) * job.tasks
    return {name: _room(snapshot, partition, waiting[name]) for name, partition in snapshot.partitions.items()}


def _room(snapshot: Snapshot, partition: Partition, waiting: Amount) -> Room:
    nodes = tuple(snapshot.nodes_of(partition.name))
    usable = [node for node in nodes if node.is_usable]
    return Room(
        partition=partition,
        whole=sum((_size(node) for node in nodes), Amount()),
        nodes=tuple(_size(node) for node in usable),
        free_nodes=tuple(_size(node) - Amount(node.cpus_allocated, node.memory_allocated_mib) for node in usable),
        waiting=waiting,
    )


def _size(node: Node) -> Amount:
    return Amount(node.cpus, node.memory_mib)


def why_never_fits(shape: Shape, site: SiteView, room: Room) -> str | None:
    """Return the stable reason why no slot of the site can ever hold the job; None if one can."""
    if site.capacity is None:
        return "capacity_unknown"
    if not room.nodes:
        return "target_nodes_down"
    slot = Amount(shape.cpus, shape.memory_mib)
    if not any(node.holds(slot) for node in room.nodes):
        return "larger_than_node"
    if not site.capacity.total.holds(_as_counted_by(site.capacity, slot)):
        return "larger_than_site"
    return None


def can_start_now(shape: Shape, site: SiteView, room: Room, promised: Amount) -> bool:
    """Tell whether all that the job wants at once is free now, by Slurm's word and by the agent's.

    What is promised to others, and what waits for the same nodes, is taken off first.
    """
    if site.capacity is None:
        return False
    claimed = promised + room.waiting
    slot = Amount(shape.cpus, shape.memory_mib)
    everything = slot * shape.slots
    return (
        any(node.holds(slot) for node in room.free_nodes)
        and (room.free - claimed).holds(everything)
        and (site.capacity.largest_free - claimed).holds(_as_counted_by(site.capacity, slot))
        and (site.capacity.free - claimed).holds(_as_counted_by(site.capacity, everything))
    )


def _as_counted_by(capacity: SiteCapacity, wanted: Amount) -> Amount:
    return wanted if capacity.total.memory_mib else Amount(wanted.cpus)


def why_partition_refuses(shape: Shape, target: Partition, account: str, qos: str) -> str | None:
    """Return the stable reason why Slurm would reject the job in `target` or let it pend there; None if it would not.

    What only slurmdbd could tell (the user's default account, say) counts as a refusal: in doubt, local.
    """
    refusals = (
        ("target_down", not target.is_up),
        ("target_restricted", target.is_restricted or target.is_exclusive),
        ("target_account", _is_refused(account, target.allow_accounts, target.deny_accounts)),
        ("target_qos", _is_refused(qos, target.allow_qos, target.deny_qos)),
        ("target_time_limit", _exceeds(shape.time_limit_s, target.max_time_s)),
        # No limit is nothing that could be pinned: the target must give the same by itself.
        ("target_time_default", shape.time_limit_s is None and target.given_time_s is not None),
        ("target_memory_limit", _exceeds(shape.memory_mib, target.max_memory_per_node_mib or None)),
        ("target_cpu_limit", _exceeds(shape.cpus, target.max_cpus_per_node or None)),
        ("target_nodes_limit", target.max_nodes == 0),
    )
    return next((reason for reason, holds in refusals if holds), None)


def _is_refused(name: str, allowed: Sequence[str], denied: Sequence[str]) -> bool:
    if not name:
        return bool(allowed or denied)
    return name in denied or (bool(allowed) and name not in allowed)


def _exceeds(wanted: int | None, maximum: int | None) -> bool:
    return maximum is not None and (wanted is None or wanted > maximum)
