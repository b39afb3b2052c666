"""Memory and CPU time of a host's processes, as /proc tells them from outside."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.rig.host import Host

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: What a process is, by a part of its command line; the first that occurs counts.
_ROLES = {
    "slurmstepd:": "slurmstepd",
    "overspill_proxy": "proxy",
    "overspill_sidecar": "sidecar",
    "overspill_agent": "agent",
    "bwrap": "sandbox",
    "overspill_runner": "runner",
    "runner.py": "runner",
    "slurm_script": "job",
    "sleep": "job",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """Of all processes of one role."""

    processes: int = 0
    pss_mib: float = 0.0
    rss_mib: float = 0.0
    cpu_s: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.processes + other.processes,
            self.pss_mib + other.pss_mib,
            self.rss_mib + other.rss_mib,
            self.cpu_s + other.cpu_s,
        )


def usage_by_role(hosts: Collection[Host]) -> Mapping[str, Usage]:
    """Return what the living processes of the hosts use."""
    found: defaultdict[str, Usage] = defaultdict(Usage)
    for host in hosts:
        for pid in host.processes().values():
            found[_role(pid)] += _usage(pid)
    return found


def cpu_seconds() -> float:
    """Return the CPU time that the whole machine has spent since its start, whatever it was spent on."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / _TICKS_PER_S


def _role(pid: int) -> str:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "other"
    return next((role for part, role in _ROLES.items() if part in command), "other")


def _usage(pid: int) -> Usage:
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        # The name, in parentheses, may hold blanks: fields are counted from behind it.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return Usage()
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in rollup[1:])}
    user_ticks, system_ticks = int(stat[11]), int(stat[12])  # Source: proc(5), /proc/pid/stat, utime and stime
    return Usage(1, kib["Pss"] / 1024, kib["Rss"] / 1024, (user_ticks + system_ticks) / _TICKS_PER_S)
