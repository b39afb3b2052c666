"""What `make status` shows."""

from __future__ import annotations

from tests.rig.daemons import Daemon
from tests.rig.host import Host
from tests.rig.overspill_conf import AGENT_PORT
from tests.rig.rig import Rig
from tests.rig.site_backend import SiteBackend

_CONNECT = f"import socket; socket.create_connection(('site', {AGENT_PORT}), timeout=2)"


def report(rig: Rig) -> str:
    """Return daemons, nodes, queue and reachability as text for a terminal."""
    options = rig.options
    home = "shared" if options.has_shared_home else "not shared"
    lines = [
        f"rig in {rig.path}, back end {options.backend}, Slurm {options.slurm.name}, /home {home}",
        f"policy {' '.join(options.policy_words)}",
        "",
    ]
    lines += [f"{'DAEMON':12} {'HOST':8} {'PID':>7}  STATE"]
    lines += [
        f"{daemon.name:12} {daemon.host.name:8} {daemon.pid or '-':>7}  {_state(daemon)}" for daemon in _daemons(rig)
    ]
    lines += ["", f"agent {'reachable' if is_agent_reachable(rig) else 'NOT reachable'} from the cluster", ""]
    lines += [_show_pool(rig)] if options.backend is SiteBackend.HTCONDOR else []
    lines += [_show(rig.cluster, ["sinfo"]), _show(rig.cluster, ["squeue"])]
    return "\n".join(lines)


def is_healthy(rig: Rig) -> bool:
    """Return whether all daemons are ready and the agent, if the rig has one, can be reached."""
    return all(daemon.is_ready for daemon in _daemons(rig)) and (not rig.site.daemons or is_agent_reachable(rig))


def is_agent_reachable(rig: Rig) -> bool:
    """Return whether the cluster can open a TCP connection to the agent now."""
    return rig.cluster.run(["/usr/bin/python3", "-I", "-S", "-c", _CONNECT]).returncode == 0


def _daemons(rig: Rig) -> list[Daemon]:
    return [*rig.cluster.daemons.values(), *rig.site.daemons.values()]


def _state(daemon: Daemon) -> str:
    if not daemon.is_running:
        return "NOT RUNNING"
    return "ready" if daemon.is_ready else "running, NOT READY"


def _show_pool(rig: Rig) -> str:
    try:
        return rig.pool.tool("condor_status", "-any") + rig.pool.tool("condor_q", "-allusers")
    except ChildProcessError as error:
        return f"the HTCondor pool does not answer: {error}\n"


def _show(host: Host, argv: list[str]) -> str:
    shown = host.run(argv, timeout=15.0)
    return shown.stdout + shown.stderr
