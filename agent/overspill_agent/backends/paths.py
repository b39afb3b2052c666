"""What can be said of absolute paths without looking at any file system. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

#: The kernel's NAME_MAX, and PATH_MAX less what lies above a run's directories.
_LONGEST_NAME_BYTES = 255
_LONGEST_PATH_BYTES = 3072


def is_short(path: PurePosixPath) -> bool:
    """Tell whether a directory of this path can be made, below a run's own one."""
    is_whole_short = len(os.fsencode(path)) <= _LONGEST_PATH_BYTES
    return is_whole_short and all(len(os.fsencode(name)) <= _LONGEST_NAME_BYTES for name in path.parts)


def is_below(path: PurePosixPath, roots: Iterable[PurePosixPath]) -> bool:
    """Tell whether a path is one of these or lies in one."""
    return any(path.is_relative_to(root) for root in roots)


def topmost(paths: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Return the paths that lie in no other, each once."""
    kept: list[PurePosixPath] = []
    for path in sorted(paths, key=lambda path: len(path.parts)):
        if not is_below(path, kept):
            kept.append(path)
    return kept


def with_parents(own: list[PurePosixPath], places: Iterable[PurePosixPath]) -> list[PurePosixPath]:
    """Return the run's own directories and all from each down to the wanted ones, parents first, each once."""
    ordered = dict.fromkeys(own)
    for place in places:
        root = next(root for root in own if place.is_relative_to(root))
        chain = [place, *place.parents]
        ordered.update(dict.fromkeys(reversed(chain[: chain.index(root)])))
    return list(ordered)
