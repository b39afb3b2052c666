"""The lines that a site needs in Slurm's configuration files. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.cluster import Partition
from overspill_sidecar.commands.slurm_conf import Slurm
from overspill_sidecar.config import SidecarConfig, SiteConfig
from overspill_sidecar.policy import Policy, parse_policy
from overspill_sidecar.slurm_text import expand_hosts

_DEFAULT_PORT = 6818
#: What Slurm takes for a type of GPUs, and for a feature; a site's word is not trusted to be either.
_GPU_TYPE = re.compile(r"[A-Za-z][\w.-]*", re.ASCII)
_FEATURE = re.compile(r"[\w.-]+", re.ASCII)
_GPU_FILES = "/var/lib/overspill/gpus"
_CONFIG_OVERRIDES = (
    "SlurmdParameters=config_overrides is for the whole cluster: a real node that has less memory or fewer CPUs than"
    " slurm.conf says is no longer taken out of service for it. Keep a health check (HealthCheckProgram) that does."
)
_BILLING = (
    "A diverted job is charged as a local one. TRESBillingWeights=CPU=0.5,Mem=0.05G on the partition, say, charges it"
    " otherwise; a wrong weight stops slurmctld 22.05, so try it on a test cluster."
)
_ALLOW = "The partition takes everybody's jobs: add AllowAccounts= or AllowQos= to narrow it; the router heeds them."


@dataclass(frozen=True, slots=True)
class Offer:
    """What a site offers to this cluster.

    Attributes:
        cpus, memory_mib, gpus: all its slots together.
        slots: of which sizes they are; none where that is not known.
        features: what --constraint may say there.
    """

    cpus: int
    memory_mib: int
    gpus: int = 0
    slots: tuple[pb.SiteSlots, ...] = ()
    features: tuple[str, ...] = ()

    def gpu_kinds(self) -> list[tuple[str, int]]:
        """Return how many GPUs there are of each type; of no type where one slot's is not told."""
        if not self.gpus:
            return []
        types: Counter[str] = Counter()
        for slots in self.slots:
            types[slots.gpu_type if _GPU_TYPE.fullmatch(slots.gpu_type) else ""] += slots.count * slots.gpus
        kinds = sorted((name, count) for name, count in types.items() if count)
        is_known = sum(count for _, count in kinds) == self.gpus and all(name for name, _ in kinds)
        return kinds if is_known else [("", self.gpus)]


@dataclass(slots=True)
class Lines:
    """By file, in the order in which to write them; `notes` are for the person who does."""

    slurm_conf: list[str] = field(default_factory=list)
    gres_conf: list[str] = field(default_factory=list)
    topology_conf: list[str] = field(default_factory=list)
    plugstack_conf: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Own:
    """What jobs get in the partitions that they come from."""

    threads_per_core: int
    memory_per_cpu_mib: int | None
    max_time: str
    default_time: str


def lines_for(slurm: Slurm, config: SidecarConfig, offers: Mapping[str, Offer], host: str) -> Lines:
    """Return the lines for the sites in `offers`.

    Args:
        slurm: the cluster as it is.
        config: the sites.
        offers: what each offers, by site.
        host: where the virtual nodes' slurmd run, unless Slurm has them elsewhere already.
    """
    lines = Lines(notes=[_CONFIG_OVERRIDES, _BILLING, _ALLOW])
    policy, _ = parse_policy(slurm.snapshot.config.parameters)
    own = _own(slurm, policy)
    sites = [site for site in config.sites if site.name in offers]
    lines.slurm_conf += _cluster_lines(slurm, policy, sites, has_gpus=any(offer.gpus for offer in offers.values()))
    ports = _ports_in_use(slurm)
    for site in sites:
        offer = offers[site.name]
        names = expand_hosts(site.nodes) if site.nodes else _existing(slurm, site) or (f"ovs-{site.name}",)
        if len(names) > 1:
            lines.notes.append(f"{site.name}: the first of its nodes, {names[0]}, stands for the whole site")
        lines.slurm_conf.append(_node_line(slurm, names[0], offer, own, host, ports))
        lines.slurm_conf.append(_partition_line(site, names[0], offer, own))
        lines.gres_conf += _gres_lines(names[0], offer)
        if note := _slot_note(site, offer):
            lines.notes.append(note)
        if slurm.values.get("TopologyPlugin", "").endswith("tree"):
            lines.topology_conf.append(f"SwitchName=overspill-{site.name} Nodes={names[0]}")
    if not any(_existing(slurm, site) for site in sites):
        lines.plugstack_conf.append(_plugstack_line(config, lines.slurm_conf))
    return lines


def _own(slurm: Slurm, policy: Policy) -> _Own:
    partitions = slurm.snapshot.partitions
    named = [partitions[name] for name in policy.from_partitions if name in partitions]
    default = slurm.snapshot.default_partition
    origins = named or ([default] if default else [])
    nodes = {name for origin in origins for name in origin.nodes}
    threads = [int(slurm.nodes[name].get("ThreadsPerCore", "1")) for name in nodes if name in slurm.nodes]
    cluster = slurm.snapshot.config
    memory = [origin.memory_per_cpu_mib or cluster.memory_per_cpu_mib for origin in origins]
    return _Own(
        threads_per_core=min(threads, default=1),
        memory_per_cpu_mib=max((mib for mib in memory if mib), default=None),
        max_time=_longest(origins),
        default_time=_minutes(next((it.default_time_s for it in origins if it.default_time_s), None), "NONE"),
    )


def _longest(origins: Iterable[Partition]) -> str:
    limits = [origin.max_time_s for origin in origins]
    known = [limit for limit in limits if limit is not None]
    return _minutes(max(known), "") if known and len(known) == len(limits) else "UNLIMITED"


def _minutes(seconds: int | None, otherwise: str) -> str:
    return otherwise if seconds is None else str(-(-seconds // 60))


def _cluster_lines(slurm: Slurm, policy: Policy, sites: Sequence[SiteConfig], *, has_gpus: bool) -> list[str]:
    lines = []
    if not slurm.has("JobSubmitPlugins", "lua"):
        lines.append(f"JobSubmitPlugins={_with(slurm, 'JobSubmitPlugins', 'lua')}")
    if not slurm.has("SlurmdParameters", "config_overrides"):
        lines.append(f"SlurmdParameters={_with(slurm, 'SlurmdParameters', 'config_overrides')}")
    if has_gpus and not slurm.has("GresTypes", "gpu"):
        lines.append(f"GresTypes={_with(slurm, 'GresTypes', 'gpu')}")
    if not policy.words:
        default = slurm.snapshot.default_partition
        targets = "+".join(site.partition for site in sites)
        words = f"overspill_mode=shadow,overspill_wait=00:30:00,overspill_from={default.name if default else '…'}"
        lines.append(f"SlurmctldParameters={_with(slurm, 'SlurmctldParameters', f'{words},overspill_to={targets}')}")
    return lines


def _with(slurm: Slurm, key: str, word: str) -> str:
    """Return a list of slurm.conf's with one more word."""
    return ",".join(part for part in (slurm.values.get(key, ""), word) if part)


def _existing(slurm: Slurm, site: SiteConfig) -> Sequence[str]:
    found = slurm.snapshot.partitions.get(site.partition)
    return found.nodes if found else ()


def _ports_in_use(slurm: Slurm) -> set[int]:
    ports = {int(node["Port"]) for node in slurm.nodes.values() if node.get("Port", "").isdecimal()}
    usual = slurm.values.get("SlurmdPort", "")
    controller = slurm.values.get("SlurmctldPort", "").split("-")
    return ports | {int(port) for port in (usual, *controller) if port.isdecimal()} | {_DEFAULT_PORT}


def _node_line(slurm: Slurm, name: str, offer: Offer, own: _Own, host: str, ports: set[int]) -> str:
    known = slurm.nodes.get(name, {})
    port = known.get("Port", "")
    if not port.isdecimal():
        port = str(max(ports) + 1)
        ports.add(int(port))
    address = known.get("NodeAddr", "")
    place = f"NodeHostname={known.get('NodeHostName', host)}" + (f" NodeAddr={address}" if address else "")
    cores = offer.cpus // own.threads_per_core
    shape = f"Sockets=1 CoresPerSocket={cores} ThreadsPerCore={own.threads_per_core}"
    gpus = ",".join(f"gpu:{kind}:{count}" if kind else f"gpu:{count}" for kind, count in offer.gpu_kinds())
    gres = f" Gres={gpus}" if gpus else ""
    features = ",".join(("overspill", *(name for name in offer.features if _FEATURE.fullmatch(name))))
    memory = f" RealMemory={offer.memory_mib}" if offer.memory_mib else ""
    cpus = cores * own.threads_per_core
    return f"NodeName={name} {place} Port={port} CPUs={cpus} {shape}{memory}{gres} Features={features} State=UNKNOWN"


def _partition_line(site: SiteConfig, node: str, offer: Offer, own: _Own) -> str:
    memory = own.memory_per_cpu_mib or offer.memory_mib // max(1, offer.cpus)
    given = f" DefMemPerCPU={memory}" if memory else ""
    times = f"DefaultTime={own.default_time} MaxTime={own.max_time}"
    return f"PartitionName={site.partition} Nodes={node} Default=NO MaxNodes=1 {times}{given} State=UP"


def _gres_lines(node: str, offer: Offer) -> list[str]:
    """Return the line of gres.conf: Slurm counts files, and these are nobody's devices."""
    if not offer.gpus:
        return []
    lines = [f"# mkdir -p {_GPU_FILES} && touch {_GPU_FILES}/{node}-{{0..{offer.gpus - 1}}}"]
    first = 0
    for kind, count in offer.gpu_kinds():
        typed = f" Type={kind}" if kind else ""
        lines.append(f"NodeName={node} Name=gpu{typed} File={_GPU_FILES}/{node}-[{first}-{first + count - 1}]")
        first += count
    return lines


def _slot_note(site: SiteConfig, offer: Offer) -> str:
    """Return what to know where the site's slots are smaller than the node that stands for them; else nothing."""
    if not offer.slots or (len(offer.slots) == 1 and offer.slots[0].count == 1):
        return ""
    largest = max(offer.slots, key=lambda slots: (slots.cpus, slots.memory_mib, slots.gpus))
    gpus = f", {largest.gpus} GPUs" if largest.gpus else ""
    return (
        f"{site.name}: a job runs on one of its {sum(slots.count for slots in offer.slots)} slots, so the largest has"
        f" {largest.cpus} CPUs, {largest.memory_mib} MiB{gpus}: fewer than its node. Larger ones stay here."
    )


def _plugstack_line(config: SidecarConfig, slurm_conf: Iterable[str]) -> str:
    nodes = ",".join(line.split()[0].removeprefix("NodeName=") for line in slurm_conf if line.startswith("NodeName="))
    return (
        f"required /usr/lib/overspill/spank_overspill.so nodes={nodes} python=/usr/bin/python3"
        f" proxy=/usr/lib/overspill/overspill_proxy/__main__.py socket={config.relay.socket}"
    )
