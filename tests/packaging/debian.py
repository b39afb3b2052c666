"""A Debian 12 that has nothing but its essential packages, and the packages that others need, made once and kept.

Everything comes from where this machine's own apt gets it; no mirror is named here.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.rig.parts import CHECKOUT

_CACHE = CHECKOUT / "build/debian"
_SUITE = "bookworm"
#: What apt on this machine needs to reach its sources. Copied, where it exists.
_APT_FILES = (
    *("etc/apt/sources.list", "etc/apt/sources.list.d", "etc/apt/apt.conf.d", "etc/apt/auth.conf.d"),
    *("etc/apt/preferences.d", "etc/apt/keyrings", "etc/apt/trusted.gpg.d", "usr/share/keyrings"),
    *("etc/ssl/certs", "usr/local/share/ca-certificates", "etc/resolv.conf", "etc/hosts"),
)
#: Nothing is started at installation; and a test's machine need not survive a power cut.
_OURS = {"usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n", "etc/dpkg/dpkg.cfg.d/fast": "force-unsafe-io\n"}
_NEEDS_OF_CLUSTER = ("slurmctld", "slurmd", "slurm-client", "lua-socket")
_NEEDS_OF_SITE = ("bubblewrap", "ca-certificates")
#: What `make up` and every tutorial on Slurm take for granted: installed already.
_NEEDS_OF_TESTS = ("python3", "iproute2", "procps")


def base() -> Path:
    """Return a tar archive of a Debian with only its essential packages; what others need waits in its apt's cache."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
    archive = _CACHE / f"{_SUITE}-{recipe}.tar"
    with locked(_CACHE / "lock"):
        if not archive.exists():
            _make_base(archive)
    return archive


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep everybody else out who wants the same lock; it ends with its process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make_base(archive: Path) -> None:
    tree = _CACHE / "root"
    shutil.rmtree(tree, ignore_errors=True)
    _run("debootstrap", "--variant=minbase", _SUITE, str(tree), _mirror())
    for name in _APT_FILES:
        _replace(Path("/", name), tree / name)
    for name, content in _OURS.items():
        (tree / name).write_text(content)
        (tree / name).chmod(0o755)
    install = ("chroot", str(tree), "apt-get", "install", "-q", "--yes")
    _run("chroot", str(tree), "apt-get", "update", "-q")
    _run(*install, "--no-install-recommends", *_NEEDS_OF_TESTS)
    # Debian's images for containers throw downloads away; here they are the point.
    (tree / "etc/apt/apt.conf.d/zz-keep").write_text('Binary::apt::APT::Keep-Downloaded-Packages "true";\n')
    (tree / "etc/apt/apt.conf.d/docker-clean").unlink(missing_ok=True)
    _run(*install, "--download-only", *_NEEDS_OF_CLUSTER, *_NEEDS_OF_SITE)
    partial = archive.with_suffix(".partial")
    _run("tar", "-C", str(tree), "-cf", str(partial), ".")
    partial.rename(archive)
    shutil.rmtree(tree)


def _mirror() -> str:
    """Return where this machine's apt gets the suite from."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", f"Codename: {_SUITE}", "Created-By: Packages"]
    found = subprocess.run(targets, check=True, capture_output=True, text=True).stdout.split()
    if not found:
        raise LookupError(f"apt has no source of {_SUITE} on this machine: add one to /etc/apt/sources.list.d")
    return found[0]


def _replace(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, symlinks=False, ignore_dangling_symlinks=True)
    elif source.exists():
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _run(*argv: str) -> None:
    """Execute a command that is quiet unless it fails.

    Raises:
        ChildProcessError: with the end of what it said.
    """
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChildProcessError(f"{' '.join(argv)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
