"""Files of the hosts, written as daemons need it that may read them at any moment."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, content: bytes, *, owner: tuple[int, int], mode: int) -> None:
    """Put a file in place in one step: who reads it meanwhile reads the old one or the new one, whole.

    slurmd reads slurm.conf some time after `scontrol reconfigure` has returned, and ends if it finds it empty.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        os.fchown(file.fileno(), *owner)
        os.fchmod(file.fileno(), mode)
    Path(name).rename(path)


def rewrite_file(path: Path, content: bytes) -> None:
    """Replace a file's content as `replace_file` does; owner and mode stay."""
    before = path.stat()
    replace_file(path, content, owner=(before.st_uid, before.st_gid), mode=before.st_mode & 0o7777)
