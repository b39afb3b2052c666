"""The private cluster's slurm.conf. Pure."""

from __future__ import annotations

from dataclasses import dataclass

CONTROLLER_PORT = 6817
ACCOUNTING_PORT = 6819
REAL_NODES_PARTITION = "batch"
OVERSPILL_PARTITION = "overspill"
VIRTUAL_NODE = "ovs1"
SECOND_PARTITION = "overspill-b"
SECOND_VIRTUAL_NODE = "ovs2"
#: The account of all users where there is accounting.
ACCOUNT = "hpc"
_FIRST_NODE_PORT = 17001


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """What a test may want to be different about the cluster, and how large the site is."""

    real_nodes: int = 4
    real_node_cpus: int = 2
    real_node_memory_mib: int = 4000
    virtual_node_cpus: int = 64
    virtual_node_memory_mib: int = 256_000
    kill_wait_s: int = 5
    #: AccountingStorageEnforce: brings a database and slurmdbd, in which all users have the account `hpc`; empty: none.
    accounting: str = ""
    #: A second site with its own agent, partition `overspill-b` and virtual node.
    has_second_site: bool = False
    #: GPUs of each node and each site; a diverted job keeps its GPUs only where there is `accounting`.
    gpus: int = 0
    #: Of which type they are; empty: Slurm and the site do not tell.
    gpu_type: str = ""
    #: What the site has for all runs together.
    site_cpus: int = 8
    site_memory_mib: int = 16_384
    #: Between two looks at pending jobs; by default they come rarely, so that a test's jobs stay where they were put.
    late_every_s: float = 3600.0
    #: Further lines for the end of slurm.conf.
    more_lines: tuple[str, ...] = ()

    @property
    def gres(self) -> str:
        return f"gpu:{self.gpu_type}:{self.gpus}" if self.gpu_type else f"gpu:{self.gpus}"

    @property
    def node_ports(self) -> dict[str, int]:
        """Each node's name and the port of its slurmd."""
        names = [*(f"c{i}" for i in range(1, self.real_nodes + 1)), *self.virtual_nodes.values()]
        return {name: _FIRST_NODE_PORT + index for index, name in enumerate(names)}

    @property
    def virtual_nodes(self) -> dict[str, str]:
        """The virtual node of each overspill partition."""
        second = {SECOND_PARTITION: SECOND_VIRTUAL_NODE} if self.has_second_site else {}
        return {OVERSPILL_PARTITION: VIRTUAL_NODE} | second


def slurm_conf(options: ClusterOptions, policy_words: tuple[str, ...], *, job_submit: bool, spank: bool) -> str:
    """Return slurm.conf for Slurm 22.05 and later, with or without the submit plugin and SPANK plugins."""
    o = options
    cluster_name = "rig"
    plugins = [
        *(["GresTypes=gpu"] if o.gpus else []),
        *(["JobSubmitPlugins=lua"] if job_submit else []),
        *(["PlugStackConfig=/etc/slurm/plugstack.conf"] if spank else []),
        *([f"SlurmctldParameters={','.join(policy_words)}"] if policy_words else []),
    ]
    nodes = []
    for name, port in o.node_ports.items():
        is_virtual = name in o.virtual_nodes.values()
        cpus = o.virtual_node_cpus if is_virtual else o.real_node_cpus
        memory_mib = o.virtual_node_memory_mib if is_virtual else o.real_node_memory_mib
        nodes.append(
            f"NodeName={name} NodeHostname=cluster NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory={memory_mib}"
            f"{f' Gres={o.gres}' if o.gpus else ''}{' Features=overspill' if is_virtual else ''} State=UNKNOWN"
        )
    # Without time limits Slurm's start estimates lie in the year 10193; without DefMemPerCPU a job takes a whole node.
    limits = "DefaultTime=00:10:00 MaxTime=1-00:00:00 DefMemPerCPU=1000 State=UP"
    return f"""\
ClusterName={cluster_name}
# Everything of Slurm's own is on loopback, so that a cut of the network between the hosts leaves the cluster intact.
SlurmctldHost=cluster(127.0.0.1)
SlurmctldPort={CONTROLLER_PORT}
SlurmUser=slurm
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
StateSaveLocation=/var/lib/slurm/slurmctld
SlurmdSpoolDir=/var/spool/slurmd/%n
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd-%n.pid
SlurmctldLogFile=/var/log/slurm/slurmctld.log
SlurmdLogFile=/var/log/slurm/slurmd-%n.log
SlurmctldDebug=verbose
SlurmdDebug=verbose
MailProg=/bin/true
MpiDefault=none
SwitchType=switch/none
# linuxproc and no task plugin: no cgroups needed, which containers often cannot give.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
{_accounting(o)}
JobCompType=jobcomp/filetxt
JobCompLoc=/var/log/slurm/jobcomp.log
SchedulerType=sched/backfill
# A batch job starts about 1 s after its submission: slurmctld looks once a second, whatever is set here.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=2,bf_min_age_reserve=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# The nodes claim more than this machine has.
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=60
KillWait={o.kill_wait_s}
MinJobAge=300
InactiveLimit=0
Waittime=0
{_joined(plugins)}{_joined(nodes)}\
PartitionName={REAL_NODES_PARTITION} Nodes=c[1-{o.real_nodes}] Default=YES {limits}
{_joined([f"PartitionName={name} Nodes={node} MaxNodes=1 {limits}" for name, node in o.virtual_nodes.items()])}\
{_joined(list(o.more_lines))}"""


def slurmdbd_conf() -> str:
    """Return slurmdbd.conf: the database is reached through its Unix socket, by the name of the user."""
    return """\
DbdHost=cluster
DbdAddr=127.0.0.1
SlurmUser=slurm
AuthType=auth/munge
PidFile=/run/slurmdbd.pid
LogFile=/var/log/slurm/slurmdbd.log
DebugLevel=info
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=slurm_acct_db
"""


def _accounting(options: ClusterOptions) -> str:
    if not options.accounting:
        return "AccountingStorageType=accounting_storage/none"
    return f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStorageEnforce={options.accounting}
{"AccountingStorageTRES=gres/gpu" if options.gpus else ""}"""


def plugstack_conf() -> str:
    """Return plugstack.conf: the SPANK plugin, told which nodes are virtual and how to start the proxy."""
    return (
        "required /opt/overspill/spank_overspill.so nodes=ovs[1-4] python=/usr/bin/python3 "
        "proxy=/opt/overspill/lib/overspill_proxy/__main__.py socket=/run/overspill/relay.sock\n"
    )


def policy_words(text: str) -> tuple[str, ...]:
    """Split the policy at commas or blanks; add the rig's `from` and `to` if it has none.

    Nor does a job stay at random in a test that does not ask for it.
    """
    words = tuple(text.replace(",", " ").split())
    keys = {word.partition("=")[0] for word in words}
    defaults = {
        "overspill_from": REAL_NODES_PARTITION,
        "overspill_to": OVERSPILL_PARTITION,
        "overspill_explore": "0",
    }
    return words + tuple(f"{key}={value}" for key, value in defaults.items() if key not in keys)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
