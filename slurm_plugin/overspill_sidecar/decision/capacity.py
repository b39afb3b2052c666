"""What a site can take now, and whether a job of a shape fits into it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from overspill_sidecar.cluster import Node, Partition, Snapshot, is_reason_of_failing
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

    def capped(self, most: Amount) -> Amount:
        """Return no more of each than `most` has."""
        return Amount(min(self.cpus, most.cpus), min(self.memory_mib, most.memory_mib), min(self.gpus, most.gpus))

    def times(self, wanted: Amount) -> int:
        """Return how often it holds `wanted`, which is not nothing."""
        pairs = ((self.cpus, wanted.cpus), (self.memory_mib, wanted.memory_mib), (self.gpus, wanted.gpus))
        return min((have // want for have, want in pairs if want), default=0)

    def times_to_cover(self, claimed: Amount) -> int:
        """Return how many of these it takes to hold all of `claimed`, of what they have at all."""
        pairs = ((self.cpus, claimed.cpus), (self.memory_mib, claimed.memory_mib), (self.gpus, claimed.gpus))
        return max((-(-claim // have) for have, claim in pairs if have), default=0)

    def share(self, parts: int) -> Amount:
        """Return what one of `parts` equal parts needs at most."""
        return Amount(-(-self.cpus // parts), -(-self.memory_mib // parts), -(-self.gpus // parts))


def amount_of(shape: Shape) -> Amount:
    """Return what one slot takes."""
    return Amount(shape.cpus, shape.memory_mib, shape.gpus)


@dataclass(frozen=True, slots=True)
class SlotGroup:
    """Slots of a site that are alike. A job must fit whole into one.

    Attributes:
        count: how many there are.
        size: what each has.
        free: what of it is neither used by nor promised to a run.
        gpu_type: of which type its GPUs are, in lower case; empty: not told.
    """

    count: int
    size: Amount
    free: Amount
    gpu_type: str = ""


@dataclass(frozen=True, slots=True)
class SiteCapacity:
    """The agent's answer to Capacity. A site that does not manage memory says 0 MiB in all of it.

    Attributes:
        total, free, largest_free: sums, and the largest single slot's part.
        slots: those with most free first; none from an older agent, of which only the sums are known.
        images: what a job may name.
        features: what --constraint may say there; None from an older agent, which does not look at it.
        used: what this cluster's runs have; None from an older agent: then all that is not free may be theirs.
    """

    total: Amount
    free: Amount
    largest_free: Amount
    slots: tuple[SlotGroup, ...] = ()
    images: frozenset[str] = frozenset()
    features: frozenset[str] | None = None
    used: Amount | None = None


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site as the router sees it at one moment."""

    name: str
    partition: str
    is_reachable: bool
    #: None until the agent has told.
    capacity: SiteCapacity | None
    #: How long a job that Slurm starts has lately had to wait there for its script to start, seconds; None: not known.
    delay_s: float | None = None
    #: Of a CPU-hour, in whatever unit the admin counts.
    price: float = 0.0


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
    #: What jobs competing for these nodes take as soon as Slurm looks at them; nothing for those that a limit keeps.
    waiting: Amount
    #: Jobs and array tasks that run here, or that compete for these nodes among others.
    jobs: int = 0
    #: What all its nodes have.
    features: frozenset[str] = frozenset()
    gpu_types: frozenset[str] = frozenset()
    #: Of each kind of node.
    threads_per_core: frozenset[int] = frozenset()
    #: Whether the relay has drained nodes of it because its site fails its jobs.
    is_failing: bool = False


def rooms_in(snapshot: Snapshot, vain: Collection[int] = ()) -> Mapping[str, Room]:
    """Return every partition's room: one walk over the queue, so that a decision needs none.

    Args:
        snapshot: the queue.
        vain: ids of jobs that claim nothing, though they wait.
    """
    jobs, cpus, memory_mib, gpus = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for job in snapshot.jobs:
        is_competing, tasks = job.is_competing, job.tasks
        if not (is_competing or job.is_active):
            continue
        is_claiming = is_competing and not job.is_limited and job.slurm_job_id not in vain
        for name in dict.fromkeys(job.partitions):
            jobs[name] += tasks
            if is_claiming:
                cpus[name] += job.cpus * tasks
                memory_mib[name] += job.memory_mib * tasks
                gpus[name] += job.gpus * tasks
    return {
        name: _room(snapshot, partition, Amount(cpus[name], memory_mib[name], gpus[name]), jobs[name])
        for name, partition in snapshot.partitions.items()
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
        gpu_types=frozenset.intersection(*(node.gpu_types for node in nodes)) if nodes else frozenset(),
        threads_per_core=frozenset(node.threads_per_core for node in nodes),
        is_failing=any(node.is_drained and is_reason_of_failing(node.reason) for node in nodes),
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
    return _why_no_slot_fits(shape, site.capacity, room)


def _why_no_slot_fits(shape: Shape, capacity: SiteCapacity, room: Room) -> str | None:
    if shape.gpu_type not in {"", *room.gpu_types}:
        return "gpu_type"
    if not capacity.slots:
        return "gpu_type" if shape.gpu_type else None
    suited, wanted = _suited(capacity, shape), _as_counted_by(capacity, amount_of(shape))
    if not suited:
        return "gpu_type"
    return None if any(group.size.holds(wanted) for group in suited) else "larger_than_slot"


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
    unheard = _unheard(site.capacity, room)
    return (
        _have_nodes(room.free_nodes, shape)
        and (room.free - claimed).holds(everything)
        and _have_slots(site.capacity, shape, claimed + unheard)
        and (site.capacity.free - unheard - claimed).holds(_as_counted_by(site.capacity, everything))
        and (site.capacity.total - room.allocated - claimed).holds(_as_counted_by(site.capacity, everything))
    )


def _unheard(capacity: SiteCapacity, room: Room) -> Amount:
    """Return what Slurm has given to jobs here that the agent cannot have heard of yet."""
    return room.allocated - (capacity.total - capacity.free if capacity.used is None else capacity.used)


def _have_slots(capacity: SiteCapacity, shape: Shape, claimed: Amount) -> bool:
    """Tell whether every task of the job finds a slot when others have taken what they claim.

    They take it from the largest slots, and none from those that are too small for the job anyway.
    """
    wanted = _as_counted_by(capacity, amount_of(shape))
    if not capacity.slots:
        return (capacity.largest_free - claimed).holds(wanted)
    tasks, rest = 0, claimed
    for group in _suited(capacity, shape):
        if not group.free.holds(wanted):
            continue
        touched = min(group.count, group.free.times_to_cover(rest))
        if touched:
            everything = group.free * touched
            tasks += (everything - rest).capped(group.free).times(wanted)
            rest -= everything
        tasks += (group.count - touched) * group.free.times(wanted)
        if tasks >= shape.slots:
            return True
    return False


def _suited(capacity: SiteCapacity, shape: Shape) -> tuple[SlotGroup, ...]:
    """Return the slots that have the right type of GPUs, if the job asks for one."""
    if not shape.gpu_type:
        return capacity.slots
    return tuple(group for group in capacity.slots if group.gpu_type == shape.gpu_type)


def _have_nodes(nodes: Sequence[Amount], shape: Shape) -> bool:
    """Tell whether as many of the nodes as the job wants hold its part each."""
    part = amount_of(shape).share(shape.nodes)
    return sum(node.holds(part) for node in nodes) >= shape.nodes


def _as_counted_by(capacity: SiteCapacity, wanted: Amount) -> Amount:
    return wanted if capacity.total.memory_mib else replace(wanted, memory_mib=0)
