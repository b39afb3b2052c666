"""Control groups for the runs of this host: what is made and written. Pure, but for `Cgroups` and what finds them.

Both versions: v1, one hierarchy per controller, and v2, one for all. A run's cgroups are the host's topmost, beside
those of systemd's slices, as Docker's are with its cgroupfs driver: below the agent's own, v2 would allow neither the
agent a process there nor systemd 252 to start it again. Source: the kernel's Documentation/admin-guide/cgroup-v1/
memory.rst and cgroup-v2.rst ("No Internal Process Constraint"); proc(5), mountinfo.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath

import structlog

from overspill.errors import AdminError, UnavailableError
from overspill_agent.runs import Resources

log = structlog.get_logger(__name__)

PREFIX = "overspill-"
#: Who writes its pid here is in the cgroup, with all its children to come.
PROCESSES = "cgroup.procs"
_OF_A_RUN = re.compile(rf"{PREFIX}[0-9a-f]{{32}}-\d+")
_NEW_S = 30.0
_CONTROLLERS = frozenset({"memory", "cpu"})
_PERIOD_US = 100_000
#: A process that ends lets go of its files, its lock among them, before its cgroups.
_LAST_MOMENTS_S = 1.0
#: Not there where the kernel does not account for swap, or there is none: then there is nothing to limit.
_OPTIONAL = frozenset({"memory.memsw.limit_in_bytes", "memory.swap.max"})


class Limits(StrEnum):
    """What is done about limits on CPUs and memory."""

    ENFORCED = "enforced"
    """Without cgroups the agent does not start."""
    BEST_EFFORT = "best-effort"
    """Without cgroups runs have no limits, and the log says so."""
    NONE = "none"
    """Runs have no limits."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where cgroups are mounted; in v2 both controllers are in one place."""

    version: int
    memory: PurePosixPath
    cpu: PurePosixPath


@dataclass(frozen=True, slots=True)
class Group:
    """One cgroup to be made, and what is written into its files, in this order."""

    directory: PurePosixPath
    settings: tuple[tuple[str, str], ...]


def hierarchy(mounts: str) -> Hierarchy:
    """Return where memory and CPUs can be limited; v1 where it has them, since v2 then has them not.

    Args:
        mounts: /proc/self/mountinfo.

    Raises:
        AdminError: nowhere.
    """
    mounted = _mounted(mounts)
    if mounted.keys() >= _CONTROLLERS:
        return Hierarchy(1, mounted["memory"], mounted["cpu"])
    if "" in mounted:
        return Hierarchy(2, mounted[""], mounted[""])
    raise AdminError("neither cgroup v1 with memory and cpu nor cgroup v2 is mounted on this host")


def _mounted(mounts: str) -> dict[str, PurePosixPath]:
    """Return the mount points by v1 controller, and by "" for v2."""
    mounted: dict[str, PurePosixPath] = {}
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        mount_point = PurePosixPath(fields.split()[4])
        kind, _source, options = rest.split()[:3]
        for name in {"cgroup": options.split(","), "cgroup2": [""]}.get(kind, []):
            mounted.setdefault(name, mount_point)
    return mounted


def groups(place: Hierarchy, name: str, resources: Resources) -> list[Group]:
    """Return an attempt's cgroups: the CPU time of as many CPUs as it asked for, and its memory, without swap."""
    memory_bytes, quota_us = str(resources.memory_mib << 20), resources.cpus * _PERIOD_US
    if place.version == 1:
        # memsw counts memory and swap together, and is refused below the limit of memory: after it.
        memory = [("memory.limit_in_bytes", memory_bytes), ("memory.memsw.limit_in_bytes", memory_bytes)]
        cpu = [("cpu.cfs_period_us", str(_PERIOD_US)), ("cpu.cfs_quota_us", str(quota_us))]
    else:
        memory = [("memory.max", memory_bytes), ("memory.swap.max", "0")]
        cpu = [("cpu.max", f"{quota_us} {_PERIOD_US}")]
    settings: dict[PurePosixPath, list[tuple[str, str]]] = {}
    for parent, limits, amount in ((place.memory, memory, resources.memory_mib), (place.cpu, cpu, resources.cpus)):
        settings.setdefault(parent / (PREFIX + name), []).extend(limits if amount else [])
    return [Group(directory, tuple(limits)) for directory, limits in settings.items()]


class Cgroups:
    """Makes and removes the cgroups of attempts."""

    def __init__(self, place: Hierarchy) -> None:
        self._place = place

    @classmethod
    def of_this_host(cls) -> Cgroups:
        """Return them, tried out.

        Raises:
            AdminError: they cannot be had; says why and what to do.
        """
        cgroups = cls(hierarchy(Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")))
        trial = f"trial-{os.getpid()}"
        try:
            cgroups.make(trial, Resources(cpus=1, memory_mib=64))
        except OSError as error:
            raise AdminError(f"cannot limit runs by cgroups: {error.strerror} ({error.filename})") from error
        finally:
            cgroups.remove(cgroups.directories(trial))
        return cgroups

    def directories(self, name: str) -> list[Path]:
        """Return what `make` makes."""
        return [Path(group.directory) for group in groups(self._place, name, Resources())]

    def of_run(self, run_id: str) -> list[Path]:
        """Return those that the run's attempts have."""
        parents = {Path(self._place.memory), Path(self._place.cpu)}
        return [directory for parent in parents for directory in parent.glob(f"{PREFIX}{run_id}-*")]

    def make(self, name: str, resources: Resources) -> list[Path]:
        """Make an attempt's cgroups, or set the limits of those that are there; return the files that take processes.

        Raises:
            OSError: the kernel refuses.
        """
        for group in groups(self._place, name, resources):
            directory = Path(group.directory)
            directory.mkdir(exist_ok=True)
            for file, value in group.settings:
                if file not in _OPTIONAL or (directory / file).exists():
                    (directory / file).write_text(value, encoding="ascii")
        return [directory / PROCESSES for directory in self.directories(name)]

    def sweep(self) -> None:
        """Remove what agents have left that were removed with their runs: cgroups of runs without a process.

        Those that are new are left alone: another agent of this host may be about to enter them.
        """
        for parent in {Path(self._place.memory), Path(self._place.cpu)}:
            for directory in parent.glob(f"{PREFIX}*"):
                with contextlib.suppress(OSError):  # a process is in it, or it is gone meanwhile
                    is_new = time.time() - directory.stat().st_mtime < _NEW_S
                    if _OF_A_RUN.fullmatch(directory.name) and not is_new:
                        directory.rmdir()

    @staticmethod
    def remove(directories: Iterable[Path]) -> None:
        """Remove cgroups; those that are gone are. Blocks for a moment where a process is about to be gone.

        Raises:
            UnavailableError: a process is in one still.
        """
        deadline = time.monotonic() + _LAST_MOMENTS_S
        for directory in directories:
            while not _is_removed(directory, is_last_try=time.monotonic() > deadline):
                time.sleep(_LAST_MOMENTS_S / 100)


def _is_removed(directory: Path, *, is_last_try: bool) -> bool:
    try:
        directory.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if is_last_try or error.errno != errno.EBUSY:
            raise UnavailableError(f"cannot remove the cgroup {directory}: {error.strerror}") from error
        return False
    return True


def cgroups_of(limits: Limits) -> Cgroups | None:
    """Return what limits runs on this host; None where nothing does.

    Raises:
        AdminError: they are to be limited and cannot be.
    """
    if limits is Limits.NONE:
        return None
    try:
        cgroups = Cgroups.of_this_host()
        cgroups.sweep()
        return cgroups
    except AdminError as error:
        if limits is Limits.ENFORCED:
            raise AdminError(f'{error.reason}; [local] limits = "enforced" does without only as "none"') from error
        log.warning(
            "runs are not limited to the CPUs and memory that they asked for", action="no_limits", reason=error.reason
        )
        return None
