"""The site's TaskProlog, which slurmstepd runs just before the script: the proxy runs it in its place, on this host.

slurmstepd runs it after SPANK's task_init, where the proxy has taken over. What it prints counts: `export NAME=value`
and `unset NAME` change the script's environment, `print text` goes to the script's output. Its failure is the job's.
Source: https://slurm.schedmd.com/slurm.conf.html#OPT_TaskProlog; the rest was seen on 22.05, 24.11
and 26.05.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NoReturn
else:
    import _signal as signal  # see signals.py

_STDOUT = 1
_STDERR = 2
#: What it is told to be called for. slurmstepd leaves it in the script's environment, too.
_CONTEXT = (b"SLURM_SCRIPT_CONTEXT", b"prolog_task")
_EXIT_KILLED = 1


def run(path: bytes, environment: list[bytes]) -> list[bytes]:
    """Run the TaskProlog to its end; return the environment as it wants it to be.

    What it says on standard error is lost, what it leaves running is killed, and one that cannot be run is passed over.
    One that fails ends this process, as it would slurmstepd's.
    """
    environment = with_variable(environment, *_CONTEXT)
    output_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            path,
            [path],
            dict(entry.split(b"=", 1) for entry in reversed(environment) if entry.find(b"=") > 0),
            file_actions=[
                (os.POSIX_SPAWN_DUP2, write_fd, _STDOUT),
                (os.POSIX_SPAWN_OPEN, _STDERR, os.devnull, os.O_WRONLY, 0),
            ],
            setpgroup=0,
            setsigmask=[],
        )
    except OSError:
        os.close(output_fd)
        return environment
    finally:
        os.close(write_fd)
    with open(output_fd, "rb") as file:
        output = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    _kill_group(pid)
    if code < 0:
        _fail(environment, _EXIT_KILLED, b"slurm task_prolog did not exit normally. reason: " + output)
    for line in output.splitlines(keepends=True):
        environment = obeyed(line, environment)
    if code > 0:
        _fail(environment, code)
    return environment


def _kill_group(pgid: int) -> None:
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has left nothing behind


def _fail(environment: list[bytes], code: int, *reasons: bytes) -> NoReturn:
    """End as slurmstepd does whose TaskProlog has failed, in its words. No relay has heard of the job yet."""
    prefix = _complaint_prefix(environment)
    for reason in (*reasons, b"TaskProlog failed status=%d" % code):
        os.write(_STDERR, b"%berror: %b\n" % (prefix, reason))
    os._exit(code)


def _complaint_prefix(environment: list[bytes]) -> bytes:
    """Return what slurmstepd puts before what it says: its node's name, since Slurm 26.05 the time.

    Only the environment tells which Slurm this is: since 26.05 it says whether the job shares its nodes.
    """
    values = dict(entry.partition(b"=")[::2] for entry in environment)
    if b"SLURM_JOB_OVERSUBSCRIBE" in values:
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
        return b"[%b.%03d] " % (stamp.encode(), int(now * 1000) % 1000)
    return b"slurmstepd-%b: " % values.get(b"SLURMD_NODENAME", b"")


def obeyed(line: bytes, environment: list[bytes]) -> list[bytes]:
    """Do what one line of the TaskProlog's output asks for; return the environment that comes of it."""
    verb, _, rest = line.partition(b" ")
    rest = rest.lstrip()
    if verb == b"print":
        os.write(_STDOUT, rest)
    elif verb == b"export" and b"=" in rest:
        name, _, value = rest.removesuffix(b"\n").partition(b"=")
        return with_variable(environment, name.rstrip(), value)
    elif verb == b"unset":
        prefix = rest.rstrip() + b"="
        return [entry for entry in environment if not entry.startswith(prefix)]
    return environment


def with_variable(environment: list[bytes], name: bytes, value: bytes) -> list[bytes]:
    """Return the environment with a variable set: in its place, or at the end where there was none."""
    prefix, entry = name + b"=", name + b"=" + value
    if any(other.startswith(prefix) for other in environment):
        return [entry if other.startswith(prefix) else other for other in environment]
    return [*environment, entry]
