"""The files of a job while they are sent to the access point: for so long each job has a directory of its own."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

#: No submission takes so long.
_ABANDONED_S = 3600.0


def stage(parent: Path, contents: Mapping[str, bytes]) -> Path:
    """Return a new directory with these files. Whoever calls removes it.

    Raises:
        OSError: there is no room.
    """
    directory = Path(tempfile.mkdtemp(dir=parent))
    for name, content in contents.items():
        (directory / name).write_bytes(content)
    return directory


def remove_abandoned(parent: Path, now: float) -> None:
    """Remove what an agent has left that died while it submitted; `now` is Unix time.

    What is newer stays: `overspill check` and the operator's commands open the back end, too, while the agent submits.
    """
    for directory in parent.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is removed by who made it
            if now - directory.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(directory)
