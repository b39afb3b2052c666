"""Memory and CPU time of a host's processes, as /proc tells them from outside."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rig.host import Host

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: What a process is, by a part of its command line; the first that occurs counts.
_ROLES = {
    "slurmstepd:": "slurmstepd",
    "overspill_proxy": "proxy",
    "--role router": "router",
    "--role relay": "relay",
    "overspill_agent": "agent",
    "bwrap": "sandbox",
    "from runner import": "runner",
    "slurm_script": "job",
    "sleep": "job",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all living processes of one role."""

    processes: int = 0
    pss_mib: float = 0.0
    rss_mib: float = 0.0
    own_cpu_s: float = 0.0
    #: Of children that have ended and were waited for, and of theirs.
    ended_cpu_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.processes + other.processes,
            self.pss_mib + other.pss_mib,
            self.rss_mib + other.rss_mib,
            self.own_cpu_s + other.own_cpu_s,
            self.ended_cpu_s + other.ended_cpu_s,
        )


def usage_by_role(host: Host) -> Mapping[str, Usage]:
    """Return what the host's processes use, those in sandboxes included; a role without processes uses nothing."""
    found: defaultdict[str, Usage] = defaultdict(Usage)
    for pid in _processes(host):
        try:
            found[_role(pid)] += _usage(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
    return found


def cpu_seconds(host: Host) -> float:
    """Return the CPU time of the host's living processes and of all ended ones that somebody waited for."""
    return sum(usage.own_cpu_s + usage.ended_cpu_s for usage in usage_by_role(host).values())


def machine_cpu_seconds() -> float:
    """Return the CPU time that this machine has spent since its start, whatever on."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _processes(host: Host) -> Iterator[int]:
    """Yield the pids, seen from outside. A sandbox has a PID namespace of its own, but the host's network."""
    network = _network(host.init_pid)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and network is not None and _network(int(entry.name)) == network:
            yield int(entry.name)


def _network(pid: int) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/net")  # noqa: PTH115 - its target is no path
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _role(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return next((role for part, role in _ROLES.items() if part in command), "other")


def _usage(pid: int) -> Usage:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    # The name, in parentheses, may hold blanks: fields are counted from behind it.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in rollup[1:])}
    # Source: proc(5), /proc/pid/stat: utime, stime, cutime, cstime.
    user, system, ended_user, ended_system = (int(field) / _TICKS_PER_S for field in fields[11:15])
    return Usage(1, kib["Pss"] / 1024, kib["Rss"] / 1024, user + system, ended_user + ended_system)
