"""Watching a user's file grow, from outside the rig: the hosts share this kernel's clock."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

#: The file is looked at this often, which is as much as a figure may be too large.
POLL_S = 0.0005


@dataclass
class Follower:
    """Lines of one file, each with the moment it was seen complete."""

    path: Path
    lines: list[tuple[str, int]] = field(default_factory=list)
    _file: BinaryIO | None = None
    _rest: bytes = b""
    #: Read so far; a file that is opened again goes on from there.
    _position: int = 0

    def look(self) -> None:
        """Take what has come since the last look."""
        if self._file is None:
            if not self.path.exists():
                return
            self._file = self.path.open("rb", buffering=0)
            self._file.seek(self._position)
        data = self._file.read()
        if data:
            self._position += len(data)
            seen_ns = time.time_ns()
            *complete, self._rest = (self._rest + data).split(b"\n")
            self.lines += [(line.decode(), seen_ns) for line in complete]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def follow(followers: Collection[Follower], lines: int, timeout_s: float) -> bool:
    """Look at all files until each has so many lines; return whether they have within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    try:
        while any(len(follower.lines) < lines for follower in followers):
            if time.monotonic() > deadline:
                return False
            for follower in followers:
                follower.look()
            time.sleep(POLL_S)
        return True
    finally:
        for follower in followers:
            follower.close()
