"""A Debian 12 that has nothing but its essential packages, and the packages that others need, made once and kept."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from overspill_images import debian
from overspill_images.cache import locked
from overspill_images.process import run
from tests.rig.parts import CHECKOUT

_CACHE = CHECKOUT / "build/debian"
_SUITE = "bookworm"
_NEEDS_OF_CLUSTER = ("slurmctld", "slurmd", "slurm-client", "lua-socket")
_NEEDS_OF_SITE = ("bubblewrap", "ca-certificates")
#: What `make up` and every tutorial on Slurm take for granted: installed already.
_NEEDS_OF_TESTS = ("python3", "iproute2", "procps")


def base() -> Path:
    """Return a tar archive of a Debian with only its essential packages; what others need waits in its apt's cache."""
    _CACHE.mkdir(parents=True, exist_ok=True)
    sources = (Path(__file__), Path(debian.__file__))
    recipe = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    archive = _CACHE / f"{_SUITE}-{recipe}.tar"
    with locked(_CACHE / "lock"):
        if not archive.exists():
            _make_base(archive)
    return archive


def _make_base(archive: Path) -> None:
    tree = _CACHE / "root"
    shutil.rmtree(tree, ignore_errors=True)
    run("cp", "--archive", str(debian.base_tree(_SUITE)), str(tree))
    debian.lend_apt(tree)
    install = ("chroot", str(tree), "apt-get", "install", "-q", "--yes")
    run("chroot", str(tree), "apt-get", "update", "-q")
    run(*install, "--no-install-recommends", *_NEEDS_OF_TESTS)
    # Debian's images for containers throw downloads away; here they are the point.
    (tree / "etc/apt/apt.conf.d/zz-keep").write_text('Binary::apt::APT::Keep-Downloaded-Packages "true";\n')
    (tree / "etc/apt/apt.conf.d/docker-clean").unlink(missing_ok=True)
    run(*install, "--download-only", *_NEEDS_OF_CLUSTER, *_NEEDS_OF_SITE)
    partial = archive.with_suffix(".partial")
    run("tar", "-C", str(tree), "-cf", str(partial), ".")
    partial.rename(archive)
    shutil.rmtree(tree)
