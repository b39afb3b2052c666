"""The site's TaskProlog, which slurmstepd runs just before the script: the proxy runs it in its place, on this host.

slurmstepd runs it after SPANK's task_init, where the proxy has taken over. What it prints counts: `export NAME=value`
and `unset NAME` change the script's environment, `print text` goes to the script's output.
Source: https://slurm.schedmd.com/slurm.conf.html#OPT_TaskProlog; the rest was seen on 22.05.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # see signals.py

_STDOUT = 1


def run(path: bytes, environment: list[bytes]) -> list[bytes]:
    """Run the TaskProlog to its end; return the environment as it wants it to be.

    As with slurmstepd its exit code changes nothing, what it leaves running is killed, and one that cannot be run is
    passed over.
    """
    output_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.posix_spawn(
            path,
            [path],
            dict(entry.split(b"=", 1) for entry in reversed(environment) if b"=" in entry),
            file_actions=[(os.POSIX_SPAWN_DUP2, write_fd, _STDOUT)],
            setpgroup=0,
            setsigmask=[],
        )
    except OSError:
        os.close(output_fd)
        return environment
    finally:
        os.close(write_fd)
    with open(output_fd, "rb") as output:
        for line in output:
            environment = obeyed(line, environment)
    os.waitpid(pid, 0)
    _kill_group(pid)
    return environment


def _kill_group(pgid: int) -> None:
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has left nothing behind


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
