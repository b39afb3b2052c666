"""One attempt of the local backend on disk: who holds its lock lives.

The lock file is opened twice and locked twice, shared: one descriptor goes to bubblewrap's monitor process (root's,
beyond the user's reach), the other to PID 1 of the run's PID namespace. Each holds its lock until it dies, so the lock
is free only when both are gone: the monitor lives until the namespace is empty, and PID 1 keeps the lock should the
monitor be killed. No pid is trusted for life or death; pids come again.

Through the first descriptor bubblewrap writes, before PID 1 runs anything, a line of JSON into the file: PID 1's number
here and its namespace's inode. A free lock on an empty file therefore means that nothing has ever run.
Source: bubblewrap 0.8.0, bubblewrap.c: monitor_child keeps --json-status-fd open, the child of --as-pid-1 --sync-fd.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from overspill_agent.runs import Seen


@dataclass(frozen=True, slots=True)
class LockDescriptors:
    """Two descriptors of one lock file, both locked; for the monitor (writable) and for PID 1 (read-only)."""

    monitor: int
    init: int


def lock_path(run_directory: Path, attempt: int) -> Path:
    return run_directory / f"attempt-{attempt}.lock"


@contextmanager
def claimed(path: Path) -> Iterator[LockDescriptors | None]:
    """Claim an attempt that was never started; yield None if it was. On exit the caller's own claim ends."""
    monitor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        init = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not _is_free(monitor) or os.fstat(monitor).st_size > 0:
                yield None
                return
            fcntl.flock(monitor, fcntl.LOCK_SH)
            fcntl.flock(init, fcntl.LOCK_SH)
            yield LockDescriptors(monitor=monitor, init=init)
        finally:
            os.close(init)
    finally:
        os.close(monitor)


def seen(path: Path) -> Seen:
    """Tell from its lock file what is left of an attempt."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return Seen.NOTHING
    try:
        if not _is_free(descriptor):
            return Seen.ALIVE
        return Seen.GONE if os.fstat(descriptor).st_size > 0 else Seen.NOTHING
    finally:
        os.close(descriptor)


def kill(path: Path) -> bool:
    """Kill PID 1 of the attempt's namespace, and with it every process in it. Return whether there was one to kill.

    The number in the file is believed only while the lock is held and if that process is in the namespace that the file
    names; the signal goes through a descriptor of that very process.
    """
    if seen(path) is not Seen.ALIVE:
        return False
    status = _read_status(path)
    if status is None:
        return False
    pid, namespace = status
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if _pid_namespace(pid) != namespace:
            return False
        signal.pidfd_send_signal(process, signal.SIGKILL)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def _is_free(descriptor: int) -> bool:
    """Tell whether nobody holds the file's lock; leaves the descriptor unlocked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return True


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
