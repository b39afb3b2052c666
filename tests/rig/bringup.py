"""From two empty hosts to a cluster whose nodes are idle: which daemons there are and the order in which they start."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

from tests.rig import daemons, engine
from tests.rig.accounts import USERS
from tests.rig.condor import EXECUTE_POINTS, CondorPool
from tests.rig.daemons import DATABASE_OPTIONS, Daemon, DaemonGroup
from tests.rig.engine import HostEngine
from tests.rig.errors import RigError
from tests.rig.host import Host
from tests.rig.options import RigOptions
from tests.rig.parts import Part
from tests.rig.progress import Progress
from tests.rig.site_backend import SiteBackend
from tests.rig.slurm_conf import ACCOUNT
from tests.rig.waiting import poll

_PROGRAMS = (
    *("unshare", "nsenter", "setpriv", "mount", "pivot_root", "ip", "iptables", "start-stop-daemon"),
    *("munged", "slurmctld", "slurmd", "sbatch", "bwrap"),
)
_NODES_IDLE_TIMEOUT_S = 20.0


def check_machine(options: RigOptions) -> None:
    """Raise a `RigError` that says what to do if no rig can run here."""
    if os.geteuid() != 0:
        raise RigError("the rig makes namespaces and runs slurmd: it needs root")
    programs = (*_PROGRAMS, *(engine.PROGRAMS if options.backend.has_engine else ()))
    if missing := [name for name in programs if shutil.which(name) is None]:
        raise RigError(f"not installed: {', '.join(missing)}; run `make setup`")


@contextlib.contextmanager
def plain_umask() -> Iterator[None]:
    """Create files that others may read, whatever the caller's umask."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def define_daemons(cluster: Host, site: Host, options: RigOptions) -> None:
    """Tell each host its daemons; none is started."""
    specs = [daemons.munged(), daemons.slurmctld()]
    if options.cluster.accounting:
        specs[1:1] = [daemons.mariadbd(), daemons.slurmdbd()]
    specs += [daemons.slurmd(node, port) for node, port in options.cluster.node_ports.items()]
    if Part.SIDECAR in options.parts:
        specs += [daemons.router(), daemons.relay()]
    cluster.daemons = {spec.name: Daemon(spec, cluster) for spec in specs}
    if Part.SIDECAR in options.parts:
        cluster.groups = {"sidecar": DaemonGroup([cluster.daemons["router"], cluster.daemons["relay"]])}
    at_site = []
    if Part.AGENT in options.parts:
        at_site = [daemons.agent(), *([daemons.second_agent()] if options.cluster.has_second_site else [])]
    site.daemons = {spec.name: Daemon(spec, site) for spec in at_site}
    if options.backend.has_engine:
        HostEngine(site)


def start_daemons(cluster: Host, site: Host, options: RigOptions, progress: Progress) -> None:
    """Start all daemons, side by side where they do not need each other, and wait until the nodes are idle.

    Raises:
        DaemonError: if one does not start.
        RigError: if a node does not become idle.
    """
    _launch_site(site, options, progress)
    by_name = dict(cluster.daemons)
    for name in ("router", "relay"):
        by_name.pop(name, None)
    # slurmctld dies without munged, and slurmd waits long before it tries an absent slurmctld again.
    for name in ("munged", "mariadbd", "slurmdbd", "slurmctld"):
        if name in by_name:
            progress(f"start {name}")
            _prepare(name, cluster)
            by_name.pop(name).start()
    progress(f"start {', '.join(by_name)}")
    for daemon in by_name.values():
        daemon.launch()
    for daemon in (*site.daemons.values(), *by_name.values()):
        daemon.wait_until_ready()
    # Last: they would take a site that is not there yet for unreachable, and a while pass before they ask again.
    for name, group in cluster.groups.items():
        progress(f"start {name}")
        group.start()
    progress("all daemons accept connections; waiting for idle nodes")
    _wait_for_idle_nodes(cluster)


def _launch_site(site: Host, options: RigOptions, progress: Progress) -> None:
    if options.backend.has_engine:
        # Not that an agent needs it to start; but a pool is made of containers.
        progress("start dockerd")
        HostEngine(site).start()
    if options.backend is SiteBackend.HTCONDOR:
        progress("start the HTCondor pool")
        points = len(EXECUTE_POINTS)
        CondorPool(site).start(
            cpus=options.cluster.site_cpus // points,
            memory_mib=options.cluster.site_memory_mib // points,
            gpus=options.cluster.gpus,
            has_shared_home=options.has_shared_home,
        )
    for name, daemon in site.daemons.items():
        if not daemon.is_running:
            progress(f"start {name}")
            daemon.launch()


def _prepare(name: str, cluster: Host) -> None:
    """Do what has to be done once before the daemon `name` is started."""
    if name == "mariadbd":
        # Whoever is the user slurm of this host is the database's root: no password anywhere.
        install = ("mariadb-install-db", *DATABASE_OPTIONS, "--auth-root-socket-user=slurm", "--skip-test-db")
        cluster.run(install, user="slurm", cwd="/", check=True, timeout=60)
    elif name == "slurmctld" and "slurmdbd" in cluster.daemons:
        _associate_users(cluster)


def _associate_users(cluster: Host) -> None:
    """Tell slurmdbd the cluster, one account, and the rig's users in it; slurmctld must find them when it starts."""
    # sacctmgr has a notation of its own for odd names, and makes capitals small.
    names = ",".join(user.name for user in USERS if user.name.isalpha())
    for what in (["cluster", "rig"], ["account", ACCOUNT, "cluster=rig"], ["user", names, f"account={ACCOUNT}"]):
        cluster.run(["sacctmgr", "--immediate", "add", *what], cwd="/", check=True, timeout=60)


def _wait_for_idle_nodes(cluster: Host) -> None:
    command = ["sinfo", "--noheader", "--Node", "--format=%N %T %E"]

    def states() -> str:
        return cluster.run(command, check=True).stdout

    def all_idle() -> bool:
        return all(line.split()[1] == "idle" for line in states().splitlines())

    if not poll(all_idle, timeout_s=_NODES_IDLE_TIMEOUT_S, interval_s=0.1):
        tails = "\n".join(daemon.log_tail() for name, daemon in cluster.daemons.items() if name.startswith("slurm"))
        raise RigError(f"nodes are not idle after {_NODES_IDLE_TIMEOUT_S} s:\n{states()}{tails}")
