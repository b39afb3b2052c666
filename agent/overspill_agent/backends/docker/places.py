"""What a container has of the host's file system, and where. Pure.

The root is the image's, read-only. Over it come, for each run: its own empty copies of the private directories, a
directory of its own wherever the script expects one that is not the image's, and the site's shared directories as they
are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

from overspill.errors import UnrunnableError
from overspill_agent.backends.paths import is_below, is_short, topmost, with_parents
from overspill_agent.backends.run_files import CONTROL

#: Part of the image with all that is below: what lies there the script sees even where it was submitted from there.
_IMAGES = tuple(
    PurePosixPath(path)
    for path in ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/sbin", "/sys", "/usr")
)
#: Part of the image too, but anybody's directories may lie below. A job that was submitted from `/opt` itself would
#: hide the image's software from itself.
_IMAGES_OWN = frozenset(
    PurePosixPath(path)
    for path in (
        "/",
        "/opt",
        "/srv",
        "/mnt",
        "/media",
        "/run",
        "/var",
        "/var/cache",
        "/var/lib",
        "/var/run",
        "/var/spool",
    )
)
_CLOSED = (PurePosixPath("/proc"), PurePosixPath("/sys"), PurePosixPath("/dev"), CONTROL)


@dataclass(frozen=True, slots=True)
class Places:
    """Where a run can write.

    Attributes:
        own: mount points of directories of the run's own.
        directories: all that must be made for it, `own` included, parents first.
        shared: mount points of the host's directories of the same path.
    """

    own: tuple[PurePosixPath, ...]
    directories: tuple[PurePosixPath, ...]
    shared: tuple[PurePosixPath, ...]


def places(
    private: tuple[PurePosixPath, ...], shared: tuple[PurePosixPath, ...], wanted: tuple[PurePosixPath, ...]
) -> Places:
    """Return where a run can write.

    A wanted directory is left out where it is the image's or the site's, and where it cannot be made: a home that is
    none is no reason not to run, and without its working directory the runner says what is wrong.

    Args:
        private: of these each run has its own.
        shared: the same here as at the cluster.
        wanted: directories that must exist for the script.

    Raises:
        UnrunnableError: a mount point's name is not UTF-8, which the engine's API is.
    """
    made = [path for path in wanted if is_short(path) and not is_below(path, shared) and not _is_images(path, private)]
    own = topmost([*private, *made])
    for path in own:
        _check_name(path)
    return Places(tuple(own), tuple(with_parents(own, made)), shared)


def _is_images(path: PurePosixPath, private: tuple[PurePosixPath, ...]) -> bool:
    if is_below(path, private):
        return False
    return path in _IMAGES_OWN or is_below(path, (*_IMAGES, *_CLOSED))


def _check_name(path: PurePosixPath) -> None:
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        name = os.fsencode(path).decode("utf-8", "backslashreplace")
        raise UnrunnableError(
            f"the container engine can make no directory {name}, whose name is not UTF-8; submit the job from another"
        ) from None
