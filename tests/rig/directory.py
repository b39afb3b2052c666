"""The one directory that holds everything of a rig, and the lock that says whether the rig lives."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from overspill_images import cgroups
from tests.rig.errors import AlreadyUpError, RigError
from tests.rig.parts import CHECKOUT
from tests.rig.waiting import poll

_BASE = Path("/var/tmp")
_PREFIX = f"overspill-rig.{hashlib.sha256(str(CHECKOUT).encode()).hexdigest()[:8]}"
_LOCK = "lock"


@dataclass(slots=True)
class RigDirectory:
    """The directory of a rig, and the lock if it is this program that brought the rig up.

    The hosts' PID 1 processes inherit the lock, so it is taken exactly as long as somebody of the rig lives, whatever
    becomes of process ids.
    """

    path: Path
    lock_fd: int | None = None

    @property
    def kept_fds(self) -> tuple[int, ...]:
        """What every process that counts as the rig's life inherits."""
        return () if self.lock_fd is None else (self.lock_fd,)

    def remove_after_the_end(self, timeout_s: float = 10.0) -> None:
        """Let go of the lock, wait until nobody else holds it either, and remove everything.

        Raises:
            RigError: if somebody still holds it after `timeout_s`.
        """
        self.release()
        if not poll(lambda: not is_alive(self.path), timeout_s=timeout_s):
            raise RigError(f"processes of the rig in {self.path} have outlived it")
        with _checkout_locked():
            if self.path.exists():  # Another rig that starts may have swept it away.
                remove(self.path)

    def release(self) -> None:
        """Let go of the lock; the hosts still hold it as long as they live. Idempotent."""
        if self.lock_fd is not None:
            os.close(self.lock_fd)
            self.lock_fd = None


def main_path() -> Path:
    """Return the directory of this checkout's rig that `make up` leaves running."""
    return _BASE / _PREFIX


def create(path: Path | None = None) -> RigDirectory:
    """Remove what dead rigs of this checkout left, then create the directory `path` (default: one with a fresh name).

    Raises:
        AlreadyUpError: if a rig lives in `path`.
    """
    with _checkout_locked():
        _sweep()
        if path is None:
            path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}.", dir=_BASE))
        elif is_alive(path):
            raise AlreadyUpError(f"a rig is up already in {path}; see `make status`, end it with `make down`")
        else:
            path.mkdir()
        path.chmod(0o755)  # users traverse it
        lock_fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        return RigDirectory(path, lock_fd)


def remove_leftovers() -> None:
    """Remove what dead rigs of this checkout left."""
    with _checkout_locked():
        _sweep()


def is_alive(path: Path) -> bool:
    """Return whether a process of the rig in `path` lives."""
    try:
        with (path / _LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def remove(path: Path) -> None:
    """Remove the directory of a rig whose hosts have ended.

    Raises:
        RigError: if something is mounted below it here; removing would go through to what is mounted.
    """
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    if inside := [target for target in mounted if Path(target).is_relative_to(path)]:
        raise RigError(f"not removing {path}: mounted inside it is {inside[0]}")
    shutil.rmtree(path)


def _sweep() -> None:
    cgroups.sweep()
    for leftover in _BASE.glob(f"{_PREFIX}*"):
        if not is_alive(leftover):
            remove(leftover)


@contextlib.contextmanager
def _checkout_locked() -> Iterator[None]:
    """Keep other programs of this checkout from creating or sweeping meanwhile; the lock leaves no file behind."""
    checkout_fd = os.open(CHECKOUT, os.O_RDONLY)
    try:
        fcntl.flock(checkout_fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(checkout_fd)
