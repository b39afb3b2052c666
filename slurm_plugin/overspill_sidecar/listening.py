"""Unix sockets: one owner each, no stale file in the way, no file taken from a living server."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from pathlib import Path
from typing import Self

from overspill.errors import ConfigError


class SocketPath:
    """The right to listen on one path, held by a lock on `<path>.lock` for as long as this object is open.

    The kernel drops the lock when the process ends, however it ends.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd: int | None = None

    def __enter__(self) -> Self:
        """Take the path and clear away what a dead server left there.

        Raises:
            ConfigError: if the directory is missing or open to others, or another server owns the path.
        """
        _check_directory(self.path.parent)
        lock_fd = self._lock()
        try:
            _remove_stale(self.path)
        except ConfigError:
            os.close(lock_fd)
            raise
        self._lock_fd = lock_fd
        return self

    def __exit__(self, *_: object) -> None:
        """Give the path up. The socket file goes with it, so that callers are refused at once."""
        if self._lock_fd is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._lock_fd)
            self._lock_fd = None

    def _lock(self) -> int:
        lock = self.path.with_name(self.path.name + ".lock")
        try:
            lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot open {lock}: {error.strerror}") from error
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock_fd)
            raise ConfigError(f"another sidecar serves {self.path}: stop it first") from None
        return lock_fd


def _check_directory(directory: Path) -> None:
    """Refuse a directory in which others could put their own socket.

    Raises:
        ConfigError: if it is missing, is somebody else's, or is writable for group or others.
    """
    try:
        status = directory.stat()
    except OSError as error:
        raise ConfigError(f"cannot use {directory} for a socket: {error.strerror}: create it") from error
    if status.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{directory} belongs to uid {status.st_uid}: it must be ours or root's")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{directory} is writable for others: chmod go-w it")


def _remove_stale(path: Path) -> None:
    """Remove a socket file behind which nobody listens.

    Raises:
        ConfigError: if somebody does, or the file is no socket.
    """
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ConfigError(f"{path} exists and is no socket: remove it or choose another path")
    if _is_answered(path):
        raise ConfigError(f"another server answers on {path}: stop it first")
    path.unlink()


def _is_answered(path: Path) -> bool:
    """Tell whether a socket file has somebody behind it. What cannot be told counts as yes."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except PermissionError:
            # Somebody else's file: the kernel's list of bound sockets tells all the same. Source: proc(5).
            bound = Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
            return any(line.endswith(f" {path}") for line in bound.splitlines())
        except OSError:
            return True
    return True
