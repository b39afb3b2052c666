"""Overspill partitions and virtual nodes, as Slurm has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from overspill.cli.finding import Finding, error, ok, warning
from overspill.cli.output import count
from overspill_sidecar.checks.spank import virtual_nodes
from overspill_sidecar.cluster import Partition
from overspill_sidecar.commands.slurm_conf import Slurm
from overspill_sidecar.config import SidecarConfig, SiteConfig

_LINES = "overspill nodes prints the lines"
_BY_US = "overspill:"


def look(slurm: Slurm, config: SidecarConfig, site_cpus: Mapping[str, int]) -> Iterator[Finding]:
    """Look at each site's partition and nodes, then at what they share.

    Args:
        slurm: what Slurm says.
        config: the sites.
        site_cpus: what each site offers, as far as it has told.
    """
    for site in config.sites:
        partition = slurm.snapshot.partitions.get(site.partition)
        if partition is None:
            what = "slurmctld does not know it, so nothing can go to the site"
            yield error(f"partition {site.partition}", what, f"add it to slurm.conf: {_LINES}")
            continue
        yield from _look_at_partition(partition, slurm)
        yield from _look_at_nodes(site, partition, slurm)
        yield from _look_at_size(site, slurm, site_cpus.get(site.name, 0))
    yield from _look_at_ports(slurm, config)


def _look_at_partition(partition: Partition, slurm: Slurm) -> Iterator[Finding]:
    subject, problems = f"partition {partition.name}", []
    if not partition.is_up:
        remedy = f"scontrol update PartitionName={partition.name} State=UP"
        problems.append(error(subject, "it is not up, so nothing goes there", remedy))
    if slurm.snapshot.config.manages_memory and not _gives_memory(partition, slurm):
        what = "neither it nor the cluster has DefMemPerCPU: a job without --mem would take a whole virtual node"
        problems.append(error(subject, what, "add DefMemPerCPU, as the partitions have that jobs come from"))
    if partition.is_default:
        problems.append(error(subject, "it is the default partition", "Default=NO: users' jobs belong to their own"))
    if partition.is_exclusive or partition.is_restricted:
        what = "it is exclusive, or restricted by groups, hosts or reservation: the router diverts nothing there"
        problems.append(warning(subject, what, "remove OverSubscribe=EXCLUSIVE, AllowGroups, RootOnly and the like"))
    yield from problems or [ok(subject, f"it is up with {count(len(partition.nodes), 'node')}")]


def _gives_memory(partition: Partition, slurm: Slurm) -> bool:
    cluster = slurm.snapshot.config
    given = (partition.memory_per_cpu_mib, partition.memory_per_node_mib)
    return any(given) or any((cluster.memory_per_cpu_mib, cluster.memory_per_node_mib))


def _look_at_nodes(site: SiteConfig, partition: Partition, slurm: Slurm) -> Iterator[Finding]:
    for name in virtual_nodes(slurm, site.partition, site.nodes):
        subject, node = f"virtual node {name}", slurm.snapshot.nodes.get(name)
        if node is None:
            what = f"sidecar.toml gives it to {site.name}, but slurmctld does not know it"
            yield error(subject, what, f"add it to slurm.conf ({_LINES}), or correct nodes in sidecar.toml")
        elif name not in partition.nodes:
            yield error(subject, f"it is not in partition {partition.name}", "add it to Nodes= of the partition")
        elif node.is_usable:
            yield ok(subject, f"it is up, with {node.cpus} CPUs and {node.memory_mib} MiB for {site.name}")
        else:
            yield _unusable(subject, name, node.reason, slurm.nodes.get(name, {}).get("State", "UNKNOWN"))


def _unusable(subject: str, name: str, reason: str, state: str) -> Finding:
    what = f"it takes no job: {state}{f', {reason}' if reason else ''}"
    if reason.startswith(_BY_US):
        return error(subject, what, "the sidecar drained it, and resumes it when the site is well again")
    if "Low " in reason:
        return error(subject, what, "set SlurmdParameters=config_overrides: the node claims more than its host has")
    if "gres" in reason.lower():
        return error(subject, what, "gres.conf must give the node a device file per GPU: overspill nodes says which")
    if "DOWN" in state or "*" in state or "UNKNOWN" in state:
        return error(subject, what, f"start slurmd -N {name} (overspill-slurmd@{name}.service); then see its log")
    return error(subject, what, f"scontrol update NodeName={name} State=RESUME, once its reason is gone")


def _look_at_size(site: SiteConfig, slurm: Slurm, offered_cpus: int) -> Iterator[Finding]:
    nodes = [slurm.snapshot.nodes.get(name) for name in virtual_nodes(slurm, site.partition, site.nodes)]
    claimed_cpus = sum(node.cpus for node in nodes if node is not None)
    if 0 < offered_cpus < claimed_cpus:
        what = f"its virtual nodes claim {claimed_cpus} CPUs, the site gives us {offered_cpus}"
        remedy = f"jobs that Slurm starts beyond that are refused there and go home: {_LINES} that fit"
        yield warning(f"site {site.name}: size", what, remedy)


def _look_at_ports(slurm: Slurm, config: SidecarConfig) -> Iterator[Finding]:
    """Several slurmd on one host need a port each, and a Slurm that was built for it."""
    names = [name for site in config.sites for name in virtual_nodes(slurm, site.partition, site.nodes)]
    hosts = [(node.get("NodeHostName", ""), node.get("Port", "")) for node in slurm.nodes.values()]
    for name in names:
        node = slurm.nodes.get(name, {})
        place = (node.get("NodeHostName", ""), node.get("Port", ""))
        if place[0] and Counter(hosts)[place] > 1:
            what = f"another node has the same host and port, {place[0]}:{place[1]}: only one of them can be up"
            yield error(f"virtual node {name}: port", what, "give each slurmd of a host its own Port=")
