"""What a site can take now, and whether a job of a shape fits into it. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from overspill_sidecar.cluster import Node, Partition, Snapshot
from overspill_sidecar.decision.shape import Shape


@dataclass(frozen=True, slots=True)
class Amount:
    """CPUs, MiB and GPUs. Differences stop at nothing."""

    cpus: int = 0
    memory_mib: int = 0
    gpus: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.cpus + other.cpus, self.memory_mib + other.memory_mib, self.gpus + other.gpus)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            max(0, self.cpus - other.cpus), max(0, self.memory_mib - other.memory_mib), max(0, self.gpus - other.gpus)
        )

    def __mul__(self, factor: int) -> Amount:
        return Amount(self.cpus * factor, self.memory_mib * factor, self.gpus * factor)

    def holds(self, wanted: Amount) -> bool:
        return wanted.cpus <= self.cpus and wanted.memory_mib <= self.memory_mib and wanted.gpus <= self.gpus

    def share(self, parts: int) -> Amount:
        """Return what one of `parts` equal parts needs at most."""
        return Amount(-(-self.cpus // parts), -(-self.memory_mib // parts), -(-self.gpus // parts))


def amount_of(shape: Shape) -> Amount:
    """Return what one slot takes."""
    return Amount(shape.cpus, shape.memory_mib, shape.gpus)


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
    #: Of its usable nodes together: what is free, and what jobs have.
    free: Amount
    allocated: Amount
    #: What jobs competing for these nodes take as soon as Slurm looks at them.
    waiting: Amount
    #: Jobs and array tasks that run here, or that compete for these nodes among others.
    jobs: int = 0
    #: What all its nodes have.
    features: frozenset[str] = frozenset()


def rooms_in(snapshot: Snapshot) -> Mapping[str, Room]:
    """Return every partition's room: one walk over the queue, so that a decision needs none."""
    waiting: defaultdict[str, Amount] = defaultdict(Amount)
    jobs: Counter[str] = Counter()
    for job in snapshot.jobs:
        if job.is_competing:
            for name in job.partitions:
                waiting[name] += Amount(job.cpus, job.memory_mib, job.gpus) * job.tasks
        if job.is_competing or job.is_active:
            jobs.update(dict.fromkeys(job.partitions, job.tasks))
    return {
        name: _room(snapshot, partition, waiting[name], jobs[name]) for name, partition in snapshot.partitions.items()
    }


def _room(snapshot: Snapshot, partition: Partition, waiting: Amount, jobs: int) -> Room:
    nodes = tuple(snapshot.nodes_of(partition.name))
    usable = [node for node in nodes if node.is_usable]
    sizes = tuple(_size(node) for node in usable)
    free_nodes = tuple(
        _size(node) - Amount(node.cpus_allocated, node.memory_allocated_mib, node.gpus_allocated) for node in usable
    )
    free = sum(free_nodes, Amount())
    return Room(
        partition=partition,
        whole=sum((_size(node) for node in nodes), Amount()),
        nodes=sizes,
        free_nodes=free_nodes,
        free=free,
        allocated=sum(sizes, Amount()) - free,
        waiting=waiting,
        jobs=jobs,
        features=frozenset.intersection(*(node.features for node in nodes)) if nodes else frozenset(),
    )


def _size(node: Node) -> Amount:
    return Amount(node.cpus, node.memory_mib, node.gpus)


def why_never_fits(shape: Shape, site: SiteView, room: Room) -> str | None:
    """Return the stable reason why no slot of the site can ever hold the job; None if one can."""
    if site.capacity is None:
        return "capacity_unknown"
    if not room.nodes:
        return "target_nodes_down"
    slot = amount_of(shape)
    if not _have_nodes(room.nodes, shape):
        return "larger_than_node"
    if not site.capacity.total.holds(_as_counted_by(site.capacity, slot)):
        return "larger_than_site"
    return None


def can_start_now(shape: Shape, site: SiteView, room: Room, promised: Amount) -> bool:
    """Tell whether all that the job wants at once is free now, by Slurm's word and by the agent's.

    What is promised to others, and what waits for the same nodes, is taken off first. So is what Slurm has given to
    jobs on these nodes, from the site's total: the agent hears of such a job later than Slurm starts it.
    """
    if site.capacity is None:
        return False
    claimed = promised + room.waiting
    slot = amount_of(shape)
    everything = slot * shape.slots
    return (
        _have_nodes(room.free_nodes, shape)
        and (room.free - claimed).holds(everything)
        and (site.capacity.largest_free - claimed).holds(_as_counted_by(site.capacity, slot))
        and (site.capacity.free - claimed).holds(_as_counted_by(site.capacity, everything))
        and (site.capacity.total - room.allocated - claimed).holds(_as_counted_by(site.capacity, everything))
    )


def _have_nodes(nodes: Sequence[Amount], shape: Shape) -> bool:
    """Tell whether as many of the nodes as the job wants hold its part each."""
    part = amount_of(shape).share(shape.nodes)
    return sum(node.holds(part) for node in nodes) >= shape.nodes


def _as_counted_by(capacity: SiteCapacity, wanted: Amount) -> Amount:
    return wanted if capacity.total.memory_mib else replace(wanted, memory_mib=0)
