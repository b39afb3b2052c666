"""What slurmstepd handed to the proxy instead of to the batch script: read once, sent whole, not interpreted.

SPANK's task_init, which starts the proxy, runs before slurmstepd's last steps for a local script (seen on 22.05, and
in slurmstepd's task.c and ulimits.c): the propagated soft limits are still in the environment as SLURM_RLIMIT_*,
which slurmstepd applies and removes. So does this module. TMPDIR, which slurmstepd checks last, is the runner's.
"""

from __future__ import annotations

import os
import resource
from binascii import b2a_base64

from overspill.proxy_framing import KEPT_PREFIX, PROTOCOL, TASK_PROLOG, FrameType, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: The limits that Slurm propagates (slurm_rlimits_info.c).
LIMITS = ("CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS")
UNLIMITED = resource.RLIM_INFINITY
_UNLIMITED_IN_SLURM = 2**64 - 1
_LIMIT_PREFIX = b"SLURM_RLIMIT_"
_MEBIBYTE = 1024 * 1024


class Job:
    """One batch step: what a local script would have been started with."""

    __slots__ = (
        "argv",
        "cwd",
        "environment",
        "is_output_joined",
        "restart_count",
        "rlimits",
        "script",
        "slurm_job_id",
        "umask",
    )

    def __init__(self, environment: list[bytes], argv: list[bytes], script: bytes) -> None:
        self.environment = environment
        self.argv = argv
        self.script = script
        self.slurm_job_id = _count(environment, b"SLURM_JOB_ID")
        self.restart_count = _count(environment, b"SLURM_RESTART_COUNT")
        self.cwd = b"/"
        self.umask = 0o022
        self.rlimits: dict[str, tuple[int, int]] = {}
        self.is_output_joined = False

    def opening(self, *, has_stdin: bool, stdout: int, stderr: int, was_handed_over: bool) -> bytes:
        """Return the frames that begin a connection.

        Args:
            has_stdin: standard input is something else than /dev/null.
            stdout: bytes that are written to the user's file already.
            stderr: the same for the other stream.
            was_handed_over: a relay may have submitted the job already.
        """
        hello = _json_object(
            protocol=str(PROTOCOL),
            slurm_job_id=str(self.slurm_job_id),
            restart_count=str(self.restart_count),
            cwd='"' + b2a_base64(self.cwd, newline=False).decode() + '"',
            umask=str(self.umask),
            rlimits=_json_object(**{name: f"[{soft}, {hard}]" for name, (soft, hard) in self.rlimits.items()}),
            has_stdin=str(has_stdin).lower(),
            is_output_joined=str(self.is_output_joined).lower(),
            stdout=str(stdout),
            stderr=str(stderr),
            was_handed_over=str(was_handed_over).lower(),
        )
        return b"".join(
            (
                encode(FrameType.HELLO, hello.encode()),
                encode(FrameType.SCRIPT, self.script),
                encode(FrameType.ARGV, b"\0".join(self.argv)),
                encode(FrameType.ENV, b"\0".join(self.environment)),
            )
        )


def read(argument_count: int) -> Job:
    """Read the job from this process.

    Args:
        argument_count: how many of the command line's last arguments are the script's path and its arguments. They
            are taken from /proc, because `sys.argv` has been through the locale's decoder.
    """
    environment, prolog = slurms_environment(entries(_contents("/proc/self/environ")))
    if prolog:
        from overspill_proxy import task_prolog  # noqa: PLC0415 (few sites have one, and imports cost at every start)

        environment = task_prolog.run(prolog, environment)
    argv = entries(_contents("/proc/self/cmdline"))[-argument_count:]
    job = Job(script_environment(environment), argv, _contents(argv[0]))
    job.cwd = os.getcwdb()
    job.umask = os.umask(0)
    os.umask(job.umask)
    job.rlimits = script_limits(environment, _own_limit)
    job.is_output_joined = _is_same_file(1, 2)
    return job


def slurms_environment(environment: list[bytes]) -> tuple[list[bytes], bytes]:
    """Undo what the SPANK plugin has done to the environment.

    Returns:
        The environment as slurmstepd handed it over, in its order, and the path of the site's TaskProlog, empty if
        there is none.
    """
    prolog = next((entry for entry in environment if entry.startswith(TASK_PROLOG)), b"")
    kept = [entry.removeprefix(KEPT_PREFIX) for entry in environment if entry is not prolog]
    return kept, prolog.removeprefix(TASK_PROLOG)


def entries(block: bytes) -> list[bytes]:
    """Split a block of NUL-terminated strings, as /proc shows them. Empty strings count."""
    return block.split(b"\0")[:-1]


def value_of(environment: list[bytes], name: bytes) -> bytes | None:
    """Return the value of a variable, the first one where it is there twice."""
    prefix = name + b"="
    return next((entry[len(prefix) :] for entry in environment if entry.startswith(prefix)), None)


def script_environment(environment: list[bytes]) -> list[bytes]:
    """Return what the script's environment is once slurmstepd is done with it, in the same order."""
    limits = tuple(_LIMIT_PREFIX + name.encode() + b"=" for name in LIMITS)
    return [entry for entry in environment if not entry.startswith(limits)]


def script_limits(environment: list[bytes], own_limit: Callable[[str], tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Return the limits that slurmstepd would have set, (soft, hard) with -1 for unlimited.

    The submitter's soft limits where they are propagated; a hard limit only rises, to meet a soft one. RSS is the
    job's memory: set_user_limits() in slurmstepd's ulimits.c, seen on 22.05.

    Args:
        environment: as slurmstepd handed it over.
        own_limit: the limits that this process inherited from slurmd.
    """
    limits: dict[str, tuple[int, int]] = {}
    for name in LIMITS:
        soft, hard = own_limit(name)
        wish = (value_of(environment, _LIMIT_PREFIX + name.encode()) or b"").removeprefix(b"U")
        if wish.isdigit():
            soft = UNLIMITED if int(wish) == _UNLIMITED_IN_SLURM else int(wish)
            hard = soft if _is_above(soft, hard) else hard
        limits[name] = (soft, hard)
    memory_bytes = _job_memory_mib(environment) * _MEBIBYTE
    if memory_bytes and _is_above(limits["RSS"][1], memory_bytes):
        limits["RSS"] = (memory_bytes, memory_bytes)
    return limits


def _count(environment: list[bytes], name: bytes) -> int:
    value = value_of(environment, name) or b""
    return int(value) if value.isdigit() else 0


def _job_memory_mib(environment: list[bytes]) -> int:
    per_node = value_of(environment, b"SLURM_MEM_PER_NODE") or b""
    per_cpu = value_of(environment, b"SLURM_MEM_PER_CPU") or b""
    cpus = value_of(environment, b"SLURM_CPUS_ON_NODE") or b""
    if per_node.isdigit():
        return int(per_node)
    return int(per_cpu) * int(cpus) if per_cpu.isdigit() and cpus.isdigit() else 0


def _is_above(limit: int, other: int) -> bool:
    return other != UNLIMITED and (limit == UNLIMITED or limit > other)


def _own_limit(name: str) -> tuple[int, int]:
    number: int = getattr(resource, "RLIMIT_" + name)
    return resource.getrlimit(number)


def _is_same_file(fd: int, other_fd: int) -> bool:
    status, other = os.fstat(fd), os.fstat(other_fd)
    return (status.st_dev, status.st_ino) == (other.st_dev, other.st_ino)


def _contents(path: str | bytes) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, 1024 * 1024):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def _json_object(**members: str) -> str:
    """Return a JSON object of members that are JSON already. Importing `json` would cost 4 ms at each start."""
    return "{" + ", ".join(f'"{name}": {value}' for name, value in members.items()) + "}"
