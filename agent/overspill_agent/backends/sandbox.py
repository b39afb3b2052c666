"""What a run sees of the agent's host, as bubblewrap's arguments. Pure: the host is asked through `HostView`.

The root is new and built of the host's top-level entries, read-only. Over them come, for each run: its own empty copies
of the private directories, the shared ones as they are, and a directory of its own wherever the script expects one that
the host does not have. Where such a place does not exist its nearest existing ancestor is rebuilt, entry by entry, so
that a mount point can be made in it.

/run is empty but for what name resolution needs: a read-only mount does not keep anybody from connecting to a socket.
Sockets elsewhere in the file system can be reached as far as their modes allow; list their directories as `private`.
The network is the host's, and with it every abstract Unix socket: services must not trust who comes from this machine.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Protocol

from overspill_agent.backends.paths import is_below, is_short, topmost, with_parents
from overspill_agent.backends.run_files import CONTROL

_ROOT = PurePosixPath("/")
_OWN = (PurePosixPath("/proc"), PurePosixPath("/dev"), CONTROL)
#: Nothing can be made in what is the kernel's, and nothing may be made in what is the runner's.
_CLOSED = (PurePosixPath("/sys"), *_OWN)
#: Where services have their sockets.
_SOCKETS = (PurePosixPath("/run"), PurePosixPath("/var/run"))
_RESOLVER = PurePosixPath("/etc/resolv.conf")
#: Part of the machine, not of anybody's data: the script sees them even where it was submitted from there.
_SYSTEM = tuple(PurePosixPath(path) for path in ("/bin", "/boot", "/dev", "/etc", "/proc", "/sbin", "/sys", "/usr"))


class HostView(Protocol):
    """What there is on the host."""

    def mode(self, path: PurePosixPath) -> int | None:
        """Return st_mode of the path itself (a symlink's own); None if there is nothing."""

    def owner(self, path: PurePosixPath) -> int:
        """Return the uid of what the path leads to."""

    def link_target(self, path: PurePosixPath) -> str: ...

    def resolve(self, path: PurePosixPath) -> PurePosixPath:
        """Return the path with the symlinks of its existing part followed."""

    def entries(self, path: PurePosixPath) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Emptied:
    """`HostView` of a host on which some directories are empty."""

    host: HostView
    directories: tuple[PurePosixPath, ...]

    def mode(self, path: PurePosixPath) -> int | None:
        return None if is_below(path.parent, self.directories) else self.host.mode(path)

    def owner(self, path: PurePosixPath) -> int:
        return self.host.owner(path)

    def link_target(self, path: PurePosixPath) -> str:
        return self.host.link_target(path)

    def resolve(self, path: PurePosixPath) -> PurePosixPath:
        return self.host.resolve(path)

    def entries(self, path: PurePosixPath) -> list[str]:
        return [] if path in self.directories else self.host.entries(path)


@dataclass(frozen=True, slots=True)
class Roots:
    """The site's rules.

    Attributes:
        private: of these each run has its own, empty ones.
        shared: the same here as at the cluster.
        hidden: empty for every run: the agent's own.
    """

    private: tuple[PurePosixPath, ...]
    shared: tuple[PurePosixPath, ...]
    hidden: tuple[PurePosixPath, ...]


@dataclass(slots=True)
class Sandbox:
    """What is to be made before the launch, and how to launch.

    Attributes:
        private_directories: paths below the run's own `files` directory that must exist and be the user's; in the order
            in which to make them. Each is what the run sees at the same path below `/`.
        mounts: bubblewrap's arguments that build the view, with sources below `files` and `control` as given.
    """

    private_directories: list[PurePosixPath] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Directories that must exist for the script, absolute.

    Attributes:
        script: where the runner writes the script; always the run's own, unless it is a part of the machine.
        others: working directory and homes: the run's own unless the host has them for everybody.
    """

    script: PurePosixPath
    others: tuple[PurePosixPath, ...] = ()


def build(host: HostView, roots: Roots, wanted: Wanted, *, files: PurePosixPath, control: PurePosixPath) -> Sandbox:
    """Return the sandbox for one run.

    Args:
        host: the agent's host.
        roots: the site's rules.
        wanted: the run's needs.
        files: directory on the host below which the run's private directories are.
        control: directory on the host with the runner's own files.
    """
    whole_host, emptied = host, [path for path in _SOCKETS if _is_directory(host, path)]
    host = Emptied(whole_host, tuple(emptied))
    private = [host.resolve(path) for path in roots.private]
    shared = [host.resolve(path) for path in roots.shared]
    hidden = topmost([path for path in map(host.resolve, roots.hidden) if host.mode(path) is not None])
    hidden = [path for path in hidden if not is_below(path, private)]
    places = [place for place in _places(host, wanted, private) if not is_below(place, shared)]
    own = topmost([*private, *places])
    missing = [path for path in (*own, *shared) if host.mode(path) is None]
    resolver = [path for path in [host.resolve(_RESOLVER)] if host.mode(path) != whole_host.mode(path)]
    rebuilt = {*_ancestors(host, missing), *emptied, *(parent for path in emptied for parent in path.parents)}

    sandbox = Sandbox(private_directories=with_parents(own, places))
    _bind_host(host, _ROOT, rebuilt, {*own, *shared, *_OWN}, sandbox.mounts)
    for parent in _missing_parents(host, [*missing, *resolver]):
        sandbox.mounts += ["--perms", "0755", "--dir", str(parent)]
    for path in resolver:
        sandbox.mounts += ["--ro-bind-try", str(path), str(path)]
    sandbox.mounts += ["--proc", "/proc", "--dev", "/dev", "--bind", str(control), str(CONTROL)]
    for path in sorted({*own, *shared, *hidden}, key=lambda path: (len(path.parts), path)):
        if path in own:
            sandbox.mounts += ["--bind", str(files / path.relative_to("/")), str(path)]
        elif path in shared:
            sandbox.mounts += ["--bind", str(path), str(path)]
        else:
            sandbox.mounts += ["--tmpfs", str(path)]
    return sandbox


def _places(host: HostView, wanted: Wanted, private: list[PurePosixPath]) -> list[PurePosixPath]:
    """Return where the wanted directories are to be made, with symlinks followed outside private ones.

    Left out is what cannot be made: a home that is none is no reason not to run, and without its working directory the
    runner says what is wrong.
    """
    places = []
    for path in (wanted.script, *wanted.others):
        place = path if is_below(path, private) else host.resolve(path)
        is_in_private = is_below(place, private)
        if not is_short(place) or not (is_in_private or _can_be_made(host, place)):
            continue
        if is_in_private or not _is_of_the_machine(host, place, is_script=path == wanted.script):
            places.append(place)
    return places


def _can_be_made(host: HostView, place: PurePosixPath) -> bool:
    """Tell whether the place is open to runs and passes through directories only."""
    if is_below(place, _CLOSED):
        return False
    return all(host.mode(path) is None or _is_directory(host, path) for path in (place, *place.parents))


def _is_directory(host: HostView, path: PurePosixPath) -> bool:
    mode = host.mode(path)
    return mode is not None and stat.S_ISDIR(mode)


def _is_of_the_machine(host: HostView, path: PurePosixPath, *, is_script: bool) -> bool:
    """Tell whether the host has this directory for everybody: then the run sees it as any user of the host does."""
    if path == _ROOT:
        return True
    mode = host.mode(path)
    if mode is None:
        return False
    is_roots_own = host.owner(path) == 0 and not mode & stat.S_IWOTH
    return is_below(path, _SYSTEM) or (is_roots_own and not is_script)


def _ancestors(host: HostView, missing: list[PurePosixPath]) -> set[PurePosixPath]:
    """Return the existing directories that must be rebuilt so that each missing path can be made in one."""
    return {parent for path in missing for parent in path.parents if host.mode(parent) is not None}


def _missing_parents(host: HostView, missing: list[PurePosixPath]) -> list[PurePosixPath]:
    """Return the directories to be made above missing mount points, parents first; bubblewrap would make them 0700."""
    parents = {parent for path in missing for parent in path.parents if host.mode(parent) is None}
    return sorted(parents, key=lambda path: (len(path.parts), path))


def _bind_host(
    host: HostView,
    directory: PurePosixPath,
    rebuilt: set[PurePosixPath],
    bound: set[PurePosixPath],
    mounts: list[str],
) -> None:
    """Append what shows the host's `directory`, which is being rebuilt, read-only and entry by entry."""
    for name in host.entries(directory):
        path = directory / name
        mode = host.mode(path)
        if path in bound or mode is None:
            continue
        if stat.S_ISLNK(mode):
            mounts += ["--symlink", host.link_target(path), str(path)]
        elif path in rebuilt:
            mounts += ["--perms", f"{stat.S_IMODE(mode):04o}", "--dir", str(path)]
            _bind_host(host, path, rebuilt, bound, mounts)
        else:
            mounts += ["--ro-bind-try", str(path), str(path)]
