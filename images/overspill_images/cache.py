"""What is expensive to make and the same for every checkout of this machine: made once, kept in one directory."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

#: Removing it costs time, nothing else.
CACHE = Path(os.environ.get("OVERSPILL_CACHE", "/var/cache/overspill-rig"))


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep everybody else out who wants the same lock; it ends with its process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
