"""What Slurm said at one moment, as plain values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from overspill_sidecar.accounting import Accounting

#: States in which a job holds its nodes, `squeue`'s long names. COMPLETING is included: its processes may still live.
_PENDING_STATES = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
ENDED_STATES = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)
#: As `scontrol requeue Incomplete` has it; a COMPLETING job may be a cancelled one.
_STARTED_STATES = frozenset({"CONFIGURING", "RESIZING", "RUNNING", "SIGNALING", "STOPPED", "SUSPENDED"})
#: Every state that squeue may show, by its long name.
STATES = _PENDING_STATES | _STARTED_STATES | ENDED_STATES | {"COMPLETING", "STAGE_OUT"}
#: Reasons of pending jobs that do not compete for nodes now. Source: squeue(1), JOB REASON CODES.
_WAITS_FOR_ITSELF = (
    "Dependency",
    "BeginTime",
    "JobHeld",
    "JobArrayTaskLimit",
    "Licenses",
    "Reservation",
    "Prolog",
    "launch failed",
)

#: Reasons of those that a limit of accounting keeps back, whatever is free. Source: as above.
_LIMITED = ("Assoc", "QOS")
#: Reasons of those that ask for more than their partition gives anybody. Source: as above.
_OUT_OF_BOUNDS = frozenset({"PartitionNodeLimit", "PartitionTimeLimit"})


@dataclass(frozen=True, slots=True)
class Trail:
    """What Overspill wrote into a job's admin_comment when it diverted it."""

    decision_id: str
    site: str
    #: Partition list as the user meant it, where the job goes if the site cannot take it.
    partition: str
    #: Sites that could not take the job, which is not to be sent there again.
    refused_by: tuple[str, ...] = ()
    #: Site where an older attempt may still run; empty if all are known to be dead.
    unfenced_at: str = ""
    #: The site's image that the user has named; empty if none.
    image: str = ""
    #: Time limit that it had when we changed it, as `limit_text` has it; empty: not known.
    time_limit: str = ""
    #: Unix seconds at which the site's partition was last added to a pending job's list, and taken off; 0: never.
    added_at_s: int = 0
    recalled_at_s: int = 0

    @property
    def own_partition(self) -> str:
        """The first of the partitions that the user meant."""
        return self.partition.partition(",")[0]


def limit_text(time_limit_s: int | None) -> str:
    """Return a time limit as a trail keeps it: whole minutes, as Slurm does."""
    return "unlimited" if time_limit_s is None else str(-(-time_limit_s // 60) * 60)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a pending job asks for beside its `Job`, as far as Slurm shows it; what is not asked for is empty.

    Attributes:
        has_script, is_het, is_cron, is_held: what kind of job it is, and whether it is held.
        is_exclusive, asks_all_memory: whether it wants whole nodes, or all memory of its nodes (--mem=0).
        memory_per_cpu_mib, memory_per_node_mib: at most one is set, by the job or by its partition's default.
        tres, tres_scopes: generic resources as written, and of what each is asked for.
        odd_options: options that a site cannot honour, as sbatch spells them.
    """

    features: str = ""
    licenses: str = ""
    required_nodes: str = ""
    excluded_nodes: str = ""
    dependency: str = ""
    burst_buffer: str = ""
    container: str = ""
    has_script: bool = True
    is_het: bool = False
    is_cron: bool = False
    is_held: bool = False
    is_exclusive: bool = False
    asks_all_memory: bool = False
    min_nodes: int = 1
    max_nodes: int = 0
    num_tasks: int = 1
    cpus_per_task: int = 0
    tasks_per_node: int = 0
    memory_per_cpu_mib: int = 0
    memory_per_node_mib: int = 0
    tres: tuple[str, ...] = ()
    tres_scopes: tuple[str, ...] = ()
    cpus_per_tres: str = ""
    mem_per_tres: str = ""
    odd_options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobDetails:
    """What a job that starts at a site has asked for beside its `Job`; what cannot be told is empty.

    Attributes:
        constraint: --constraint as Slurm has it.
        gpu_type: of which type its GPUs are to be, in lower case.
    """

    constraint: str = ""
    gpu_type: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One record of squeue: a job, an array task, or the tasks of an array that are still pending together."""

    slurm_job_id: int
    #: The id that all of an array's tasks share, and that one of them has for its own; of other jobs, their own.
    array_job_id: int
    array_task_id: int | None
    #: Array tasks that this record stands for and that may run at once; 1 for all other jobs.
    tasks: int
    user_id: int
    user_name: str
    group_id: int
    state: str
    reason: str
    #: While pending, all partitions it may start in; afterwards the one it runs in.
    partitions: tuple[str, ...]
    nodes: str
    batch_host: str
    #: Per task.
    cpus: int
    memory_mib: int
    gpus: int
    #: None is unlimited.
    time_limit_s: int | None
    #: Planned by the scheduler while pending; None where unknown.
    start_time_s: int | None
    end_time_s: int | None
    submit_time_s: int
    priority: int
    restart_count: int
    can_requeue: bool
    #: As set, whoever set it; `trail` is our part of it.
    admin_comment: str
    trail: Trail | None
    #: Options of sbatch that keep a job local and that no submit hook sees, so that only the started job shows them.
    hidden_options: tuple[str, ...] = ()
    #: Array tasks that this record stands for, whether they may run at once or not; 1 for all other jobs.
    all_tasks: int = 1
    #: Since when nothing that its user wished keeps it from starting, or until when a begin time does; None while a
    #: dependency or a hold does. What it waits for nodes counts from here, not from its submission.
    eligible_time_s: int | None = None
    #: Of a pending job the least that it takes.
    node_count: int = 1
    #: What it is charged to; empty where it is none that any accounting has.
    account: str = ""
    #: Empty where there is no accounting.
    qos: str = ""
    #: Asked for while pending, used by it afterwards; empty: none.
    reservation: str = ""
    #: Of a record that stands for several tasks: which, as an array expression without a throttle; else empty.
    array_tasks: str = ""

    @property
    def name(self) -> str:
        """What to call it in a change: the bare id of the task that has the array's means every task (scontrol(1))."""
        if self.array_task_id is None:
            return str(self.slurm_job_id)
        return f"{self.array_job_id}_{self.array_task_id}"

    @property
    def queued_at_s(self) -> int:
        """Since when it waits for nodes: a begin time or a dependency may have kept it longer than its submission."""
        return max(self.submit_time_s, self.eligible_time_s or 0)

    @property
    def is_pending(self) -> bool:
        return self.state in _PENDING_STATES

    @property
    def is_active(self) -> bool:
        """Whether processes of this attempt may exist: neither pending nor over."""
        return not self.is_pending and self.state not in ENDED_STATES

    @property
    def has_attempt(self) -> bool:
        """Whether this attempt goes on: it is active, and Slurm is not ending it for whatever reason."""
        return self.state in _STARTED_STATES

    @property
    def is_limited(self) -> bool:
        """Whether a limit of its association or QOS keeps it pending: then no free node starts it."""
        return self.is_pending and self.reason.startswith(_LIMITED)

    @property
    def is_out_of_bounds(self) -> bool:
        """Whether its only partition's limits keep it pending until somebody changes the one or the other."""
        return self.is_pending and len(self.partitions) == 1 and self.reason in _OUT_OF_BOUNDS

    @property
    def is_diverted(self) -> bool:
        """Whether Overspill has sent it to a site, or let it go there, and it is not over."""
        if self.trail is None or self.state in ENDED_STATES:
            return False
        own = self.trail.partition.split(",")
        return any(name not in own for name in self.partitions)

    @property
    def is_competing(self) -> bool:
        """Whether it is pending for want of nodes or priority, not for reasons of its own."""
        return self.is_pending and not self.reason.startswith(_WAITS_FOR_ITSELF)


@dataclass(frozen=True, slots=True)
class GpuDefaults:
    """What a job gets for each GPU if it does not say (JobDefaults). None: nothing."""

    cpus: int | None = None
    memory_mib: int | None = None


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. None in a limit is unlimited; empty `allow_*` admits all."""

    name: str
    is_default: bool
    is_up: bool
    nodes: tuple[str, ...]
    max_time_s: int | None
    default_time_s: int | None
    max_nodes: int | None
    memory_per_cpu_mib: int | None
    memory_per_node_mib: int | None
    max_memory_per_node_mib: int | None
    max_cpus_per_node: int | None
    #: Whole nodes for a job or a user.
    is_exclusive: bool
    #: AllocNodes or ReqResv: what neither the router nor the shim can judge.
    is_restricted: bool
    allow_accounts: tuple[str, ...]
    deny_accounts: tuple[str, ...]
    allow_qos: tuple[str, ...]
    deny_qos: tuple[str, ...]
    #: AllowGroups or RootOnly: slurmctld tells the shim for whom.
    is_for_some_users: bool = False
    #: The QOS whose limits hold for every job of the partition; empty: none.
    qos: str = ""
    min_nodes: int = 0
    max_memory_per_cpu_mib: int | None = None
    gpu_defaults: GpuDefaults = GpuDefaults()
    #: Whether the jobs that it has are started: one in state DRAIN takes no new ones, but starts these.
    starts_jobs: bool = True

    @property
    def given_time_s(self) -> int | None:
        """Time limit of a job that asks for none."""
        return self.max_time_s if self.default_time_s is None else self.default_time_s


#: How the reasons of the nodes that we drain begin, and what they say of a site that fails its jobs.
OURS = "overspill: "
FAILS = "fails its jobs"


def is_reason_of_failing(reason: str) -> bool:
    """Tell whether a node's reason is what the relay writes for a site that fails its jobs."""
    return reason.startswith(OURS) and f" {FAILS} (" in reason


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    partitions: tuple[str, ...]
    is_usable: bool
    cpus: int
    cpus_allocated: int
    memory_mib: int
    memory_allocated_mib: int
    #: Whether it is to start no more jobs, be it `DRAINED` already or `DRAINING` still.
    is_drained: bool = False
    #: Why it is drained or down, in the words of who did it; empty if it is neither.
    reason: str = ""
    #: As far as Slurm accounts for them (AccountingStorageTRES=gres/gpu); else a job's own would be unknown, too.
    gpus: int = 0
    gpus_allocated: int = 0
    features: frozenset[str] = frozenset()
    #: Types in Gres, in lower case.
    gpu_types: frozenset[str] = frozenset()
    #: Slurm gives a job whole cores: its CPUs are a multiple of this where cores are what is allocated.
    threads_per_core: int = 1
    #: Whether the backfill scheduler keeps it for a job that it has planned.
    is_planned: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """Nodes that are kept for some jobs, or for none, from `start_s` to `end_s`, Unix seconds.

    Attributes:
        cpus: that it takes of its nodes; None: all.
    """

    name: str
    nodes: tuple[str, ...]
    start_s: int
    end_s: int
    cpus: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterConfig:
    """What Overspill needs of slurm.conf, as slurmctld runs it."""

    cluster_name: str
    kill_wait_s: int
    manages_memory: bool
    memory_per_cpu_mib: int | None
    memory_per_node_mib: int | None
    #: SlurmctldParameters and SchedulerParameters: where policy words are.
    parameters: tuple[str, ...]
    max_memory_per_cpu_mib: int | None = None
    max_memory_per_node_mib: int | None = None
    gpu_defaults: GpuDefaults = GpuDefaults()
    #: AccountingStorageEnforce; empty where there is none: then accounts and QOS are free text.
    enforced: frozenset[str] = frozenset()
    has_slurmdbd: bool = False
    #: Of several controllers the one that acts, as SlurmctldHost names it; empty where there is but one.
    acting_controller: str = ""
    #: Of slurmctld: "24.11"; empty where it does not tell.
    slurm_release: str = ""
    #: How much priority a pending job gains by its age at most, and at which age; 0 where it gains none.
    priority_weight_age: int = 0
    priority_max_age_s: int = 0

    @property
    def enforces_limits(self) -> bool:
        """Whether limits of associations or QOS keep jobs back."""
        return not self.enforced.isdisjoint({"limits", "qos"})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Slurm's state between two moments of this host's monotonic clock; none of it is older than `asked_at`."""

    asked_at: float
    #: Wall clock, Unix seconds, at `asked_at`: what Slurm's own times compare with.
    unix_time_s: float
    config: ClusterConfig
    jobs: tuple[Job, ...]
    partitions: Mapping[str, Partition]
    nodes: Mapping[str, Node]
    #: None where Slurm enforces nothing of it.
    accounting: Accounting | None = None
    #: Whether the cluster is a member of a federation, so that any job may have siblings on other clusters.
    is_federated: bool = False
    #: Who read the queue, and why nobody else.
    reader: str = ""
    #: Those that are not over; None where Slurm does not tell.
    reservations: tuple[Reservation, ...] | None = None

    @property
    def decisions(self) -> frozenset[str]:
        """Ids of the decisions whose jobs it shows."""
        return frozenset(job.trail.decision_id for job in self.jobs if job.trail)

    @property
    def default_partition(self) -> Partition | None:
        return next((partition for partition in self.partitions.values() if partition.is_default), None)

    def nodes_of(self, partition: str) -> Iterable[Node]:
        """Return the nodes of a partition that Slurm knows."""
        found = self.partitions.get(partition)
        return (self.nodes[name] for name in (found.nodes if found else ()) if name in self.nodes)
