"""One attempt of the local backend on disk: who holds its lock lives.

The lock file is opened twice and locked twice, shared: one descriptor goes to bubblewrap's monitor process (root's,
beyond the user's reach), the other to PID 1 of the run's PID namespace. Each holds its lock until it dies, so the lock
is free only when both are gone: the monitor lives until the namespace is empty, and PID 1 keeps the lock should the
monitor be killed. No pid is trusted for life or death; pids come again.

The file's first line names the boot on which the attempt was claimed, and is on disk before anything is started. After
it bubblewrap writes through the first descriptor, before PID 1 runs anything, a line of JSON: PID 1's number here and
its namespace's inode. That line may be lost with the machine's power. So nothing has ever run where the lock is free
and the file holds no more than a claim of this very boot; a claim of an earlier one counts as a start.
Source: bubblewrap 0.8.0, bubblewrap.c: monitor_child keeps --json-status-fd open, the child of --as-pid-1 --sync-fd.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from overspill_agent.runs import Seen

#: Source: proc_sys_kernel(5), "random".
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class LockDescriptors:
    """Two descriptors of one lock file, both locked; for the monitor (writable) and for PID 1 (read-only)."""

    monitor: int
    init: int


def lock_path(run_directory: Path, attempt: int) -> Path:
    return run_directory / f"attempt-{attempt}.lock"


@contextmanager
def claimed(path: Path) -> Iterator[LockDescriptors | None]:
    """Claim an attempt that was never started; yield None if it was. On exit the caller's own claim ends.

    What is yielded survives a loss of power, with the run's directory. Of two who claim at once one gets None.
    """
    with _opened(path.parent, os.O_RDONLY | os.O_DIRECTORY) as directory:
        if not _try_lock(directory):
            yield None
            return
        with (
            _opened(path, os.O_RDWR | os.O_CREAT | os.O_APPEND) as monitor,
            _opened(path, os.O_RDONLY) as init,
        ):
            if not _is_free(monitor) or _was_started(init):
                yield None
                return
            fcntl.flock(monitor, fcntl.LOCK_SH)
            fcntl.flock(init, fcntl.LOCK_SH)
            _write_claim(monitor)
            os.fsync(directory)
            with _opened(path.parent.parent, os.O_RDONLY | os.O_DIRECTORY) as parent:
                os.fsync(parent)
            yield LockDescriptors(monitor=monitor, init=init)


def seen(path: Path) -> Seen:
    """Tell from its lock file what is left of an attempt."""
    try:
        with _opened(path, os.O_RDWR) as descriptor:
            if not _is_free(descriptor):
                return Seen.ALIVE
            return Seen.GONE if _was_started(descriptor) else Seen.NOTHING
    except FileNotFoundError:
        return Seen.NOTHING


def kill(path: Path) -> bool:
    """Kill PID 1 of the attempt's namespace, and with it every process in it. Return whether there was one to kill.

    The number in the file is believed only while the lock is held and if that process is in the namespace that the file
    names; the signal goes through a descriptor of that very process. Where bubblewrap has not come to write a number
    (its monitor was killed in between; its child then waits for good), whoever has the file open is killed.
    """
    if seen(path) is not Seen.ALIVE:
        return False
    status = _read_status(path)
    if status is None:
        return _kill_holders(path)
    pid, namespace = status
    return _kill_if(pid, lambda: _pid_namespace(pid) == namespace)


def _kill_holders(path: Path) -> bool:
    """Kill every process but this one that has the lock file open; return whether there was one."""
    file = path.stat()
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    killed = [_kill_if(pid, partial(_has_open, pid, path.name, file)) for pid in pids if pid != os.getpid()]
    return any(killed)


def _kill_if(pid: int, is_meant: Callable[[], bool]) -> bool:
    """Kill a process if it is the one that is meant, asked when its number cannot become another's any more."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_meant():
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except (ProcessLookupError, FileNotFoundError):
        return False
    finally:
        os.close(process)
    return True


def _has_open(pid: int, name: str, file: os.stat_result) -> bool:
    """Tell whether a process has a file open. Files of other names are left alone: stat(2) can hang on them."""
    with suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if entry.readlink().name == name and os.path.samestat(entry.stat(), file):
                    return True
    return False


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(descriptor: int) -> bool:
    """Tell whether nobody holds the file's lock; leaves the descriptor unlocked."""
    if not _try_lock(descriptor):
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


def _claim() -> bytes:
    """Return the first line of a lock file that is claimed on this boot."""
    return json.dumps({"boot-id": _BOOT_ID.read_text(encoding="ascii").strip()}).encode() + b"\n"


def _was_started(descriptor: int) -> bool:
    """Tell whether there may ever have been a process. A claim that a crash has cut short counts as one, too."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0) not in (b"", _claim())


def _write_claim(descriptor: int) -> None:
    """Put the claim into an unstarted attempt's file, durably."""
    if os.fstat(descriptor).st_size == 0:
        os.write(descriptor, _claim())
    os.fsync(descriptor)


def _read_status(path: Path) -> tuple[int, int] | None:
    """Return PID 1's number and its PID namespace's inode; None while bubblewrap has not written them."""
    for line in path.read_text(encoding="ascii").splitlines():
        try:
            status = json.loads(line)
        except ValueError:
            return None
        if "child-pid" in status and "pid-namespace" in status:
            return int(status["child-pid"]), int(status["pid-namespace"])
    return None


def _pid_namespace(pid: int) -> int:
    return Path(f"/proc/{pid}/ns/pid").stat().st_ino
