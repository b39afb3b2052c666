"""This host's file system, as the sandbox asks for it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path, PurePosixPath


class Host:
    """`sandbox.HostView` of the real thing."""

    def mode(self, path: PurePosixPath) -> int | None:
        with contextlib.suppress(OSError):
            return os.lstat(path).st_mode
        return None

    def owner(self, path: PurePosixPath) -> int:
        return Path(path).stat().st_uid

    def link_target(self, path: PurePosixPath) -> str:
        return str(Path(path).readlink())

    def resolve(self, path: PurePosixPath) -> PurePosixPath:
        return PurePosixPath(os.path.realpath(path))

    def entries(self, path: PurePosixPath) -> list[str]:
        return sorted(entry.name for entry in Path(path).iterdir())
