"""The directory tree that becomes a host's file system: everything but /usr, /dev, /proc and /sys is the host's own."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.rig.accounts import USERS, account_files, numbers_of

ADDRESSES = {"cluster": "10.77.0.1", "site": "10.77.0.2"}

#: What programs read at start and what is no secret. The rest of the system's /etc does not exist in a host.
_ETC_FROM_SYSTEM = (
    "alternatives", "bash.bashrc", "debian_version", "host.conf", "inputrc", "iproute2", "ld.so.cache", "ld.so.conf",
    "ld.so.conf.d", "locale.alias", "localtime", "login.defs", "os-release", "pam.conf", "pam.d", "profile",
    "protocols", "python3", "python3.[0-9]*", "rpc", "security", "services", "shells", "terminfo", "timezone",
)  # fmt: skip
_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files\nservices: files\nprotocols: files\n"
#: path -> (owner, mode)
_DIRECTORIES = {
    "dev": ("root", 0o755),
    "etc": ("root", 0o755),
    "home": ("root", 0o755),
    "mnt": ("root", 0o755),
    "opt/overspill/lib": ("root", 0o755),
    "opt/overspill/venv": ("root", 0o755),
    "proc": ("root", 0o755),
    "root": ("root", 0o700),
    "run/lock": ("root", 0o1777),
    "srv": ("root", 0o755),
    "sys": ("root", 0o755),
    "tmp": ("root", 0o1777),
    "usr": ("root", 0o755),
    "var/cache": ("root", 0o755),
    "var/lib": ("root", 0o755),
    "var/log/overspill": ("root", 0o755),
    "var/spool": ("root", 0o755),
    "var/tmp": ("root", 0o1777),
}


def build_tree(root: Path, *, system: Path, directories: dict[str, tuple[str, int]]) -> None:
    """Create the tree: system directories and `directories` (path -> owner, mode), accounts, names, homes.

    Args:
        root: where.
        system: the root directory of the Debian whose /etc it gets. The accounts are this machine's, whatever it is, so
            that a name is the same number on all hosts, as on any cluster.
        directories: what this host has of its own.
    """
    root.mkdir(mode=0o755)
    homes = {user.home.lstrip("/"): (user.name, 0o700) for user in USERS}
    for path, (owner, mode) in {**_DIRECTORIES, **homes, **directories}.items():
        make_directory(root / path, owner, mode)
    (root / "var/run").symlink_to("../run")
    (root / "var/lock").symlink_to("../run/lock")
    for pattern in _ETC_FROM_SYSTEM:
        for source in (system / "etc").glob(pattern):
            _copy(source, root / "etc" / source.name)
    etc = {
        **account_files(),
        "hostname": f"{root.name}\n",
        "hosts": "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items()),
        "nsswitch.conf": _NSSWITCH,
    }
    for name, content in etc.items():
        (root / "etc" / name).write_text(content)
    (root / "etc/shadow").chmod(0o600)


def system_mounts(root: Path, *, system: Path, local: Path) -> list[list[str]]:
    """Return the mount(8) argument lists that complete the tree; creates their mount points.

    Args:
        root: the tree.
        system: the root directory of the Debian whose /usr it shows.
        local: what is in it takes the place of /usr/local's directories of the same names.
    """
    mounts = []
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        directory = system / name
        if directory.is_symlink():
            (root / name).symlink_to(directory.readlink())
        elif directory.is_dir():
            (root / name).mkdir()
            mounts.append(bind(directory, root / name))
    mounts.append(bind(system / "usr", root / "usr"))
    mounts += [bind(directory, root / "usr/local" / directory.name) for directory in sorted(local.iterdir())]
    return [
        *mounts,
        ["--rbind", "/dev", str(root / "dev")],
        ["--types", "tmpfs", "--options", "mode=1777", "tmpfs", str(root / "dev/shm")],
        ["--types", "proc", "proc", str(root / "proc")],
        ["--rbind", "--options", "ro", "/sys", str(root / "sys")],
    ]


def bind(source: Path, target: Path, *, is_writable: bool = False) -> list[str]:
    """Return the mount(8) arguments that show `source` at `target`."""
    return ["--rbind", *([] if is_writable else ["--options", "ro"]), str(source), str(target)]


def make_directory(path: Path, owner: str, mode: int) -> None:
    """Create `path` (and what is missing above it, as root's, mode 755) with this owner and exactly this mode."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    os.chown(path, *numbers_of(owner))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True)
    elif source.exists():
        shutil.copy2(source, target, follow_symlinks=False)
