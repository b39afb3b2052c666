"""`overspill nodes`: the lines for slurm.conf and its neighbours."""

from __future__ import annotations

import socket
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

import click

from overspill.cli.output import json_option, print_json, print_line
from overspill.errors import ConfigError, OverspillError, UnavailableError
from overspill.v1 import sidecar_pb2 as pb
from overspill_sidecar.commands.cluster import Cluster
from overspill_sidecar.commands.completing import site_names
from overspill_sidecar.commands.node_lines import Lines, Offer, lines_for
from overspill_sidecar.commands.slurm_conf import ask_slurm

_FILES = {
    "slurm_conf": "slurm.conf",
    "gres_conf": "gres.conf",
    "topology_conf": "topology.conf",
    "plugstack_conf": "plugstack.conf",
}
_WIDTH = 118


@click.command(short_help="Lines for slurm.conf and its kin.")
@click.option("--site", help="This site only.", shell_complete=site_names)
@click.option("--host", help="Where the virtual nodes' slurmd run.  [default: this host]")
@click.option("--cpus", type=click.IntRange(min=1), help="Instead of what the site offers; needs --site.")
@click.option("--mem", "memory_mib", type=click.IntRange(min=1), help="MiB, instead of what the site offers.")
@click.option("--gpus", type=click.IntRange(min=0), help="Instead of what the site offers.")
@click.option("--slurm-conf", "is_slurm_conf", is_flag=True, help="The lines of slurm.conf alone.")
@json_option
def nodes(
    *,
    site: str | None,
    host: str | None,
    cpus: int | None,
    memory_mib: int | None,
    gpus: int | None,
    is_slurm_conf: bool,
    as_json: bool,
) -> None:
    """Print the lines that Slurm's configuration files need for the sites' virtual nodes. Writes nothing.

    Sizes are what each agent offers to this cluster now; times, memory per CPU and threads per core are those of the
    partitions that jobs come from. After a change of nodes restart slurmctld and the virtual nodes' slurmd: busy nodes
    whose size changes lose their jobs, so drain them first.

    \b
    Examples:
      overspill nodes
      overspill nodes --slurm-conf >> /etc/slurm/overspill.conf
      overspill nodes --site site-a --host overspill1 --cpus 256 --mem 1024000
      overspill nodes --json | jq -r '."slurm_conf"[]'
    """
    here = Cluster.here()
    if here.config is None:
        raise ConfigError(here.problem)
    if is_slurm_conf and as_json:
        raise click.UsageError("choose --slurm-conf or --json")
    if site is None and (cpus or memory_mib or gpus is not None):
        raise click.UsageError("--cpus, --mem and --gpus need --site")
    if site is not None and site not in here.site_by_partition.values():
        raise click.BadParameter(f"sidecar.toml has no site {site!r}", param_hint="--site")
    chosen = [name for name in here.site_by_partition.values() if site in {None, name}]
    given = Offer(cpus, memory_mib, gpus or 0) if cpus and memory_mib else None
    offers = {chosen[0]: given} if given else _offers(here, chosen, cpus=cpus, memory_mib=memory_mib, gpus=gpus)
    lines = lines_for(ask_slurm(), here.config, offers, host or socket.gethostname().partition(".")[0])
    if is_slurm_conf:
        for line in lines.slurm_conf:
            print_line(line)
    elif as_json:
        print_json(asdict(lines))
    else:
        _print(lines)


def _offers(
    here: Cluster, sites: Sequence[str], *, cpus: int | None, memory_mib: int | None, gpus: int | None
) -> dict[str, Offer]:
    statuses = {status.name: status for status in _site_statuses(here)}
    silent = [name for name in sites if name not in statuses or not statuses[name].total_cpus]
    if silent:
        raise UnavailableError(
            f"{', '.join(silent)}: the agent has not told what it offers: overspill check says why;"
            " or give --site, --cpus and --mem"
        )
    return {
        name: Offer(
            cpus or statuses[name].total_cpus,
            memory_mib or statuses[name].total_memory_mib,
            statuses[name].total_gpus if gpus is None else gpus,
            tuple(statuses[name].slots),
            tuple(statuses[name].features),
        )
        for name in sites
    }


def _site_statuses(here: Cluster) -> Sequence[pb.SiteStatus]:
    try:
        return here.daemons.router_status().sites
    except UnavailableError:
        pass  # the relay knows as much
    try:
        return here.daemons.relay_status().sites
    except OverspillError as error:
        raise UnavailableError(f"{error.reason}; start it, or give --site, --cpus and --mem") from error


def _print(lines: Lines) -> None:
    for note in lines.notes:
        for line in textwrap.wrap(note, _WIDTH - 2):
            print_line(f"# {line}")
    for key, name in _FILES.items():
        if written := asdict(lines)[key]:
            print_line()
            print_line(f"# {name}")
            for line in written:
                print_line(line)
