"""Trees of another Debian than this machine's, with the Slurm that it has: made once per machine, then only read."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from overspill_images.cache import CACHE, locked
from overspill_images.debian import base_tree, lend_apt
from overspill_images.process import run

_PACKAGES = Path(__file__).parents[1] / "slurm/packages.txt"
#: Where a tree says which versions it was made of.
RECORD = "etc/overspill-packages.txt"
#: What a suite's own library cannot do: suite -> (library package, suite that has a good one). Debian testing's
#: libmariadb3 11.8.9 refuses slurmdbd 26.05 every result ("maximum allowed number of columns (=0)", November 2026).
_BORROWED = {"forky": ("libmariadb3", "trixie")}
_APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
#: An archive that is mirrored may be older than it should be; its signature is checked nevertheless.
_OLD_INDEX = "Acquire::Check-Valid-Until=false"


def slurm_tree(release: str, suite: str, say: Callable[[str], None], *, cache: Path = CACHE) -> Path:
    """Return the directory of a Debian of this suite with what `images/slurm/packages.txt` lists.

    The first call of a machine takes one to two minutes, others nothing; while one program makes a tree, others wait.

    Args:
        release: the Slurm that this Debian is expected to have: "24.11".
        suite: trixie, forky, ...
        say: is told what takes its time.
        cache: where it is kept.

    Raises:
        ChildProcessError: with the end of what debootstrap or apt said.
        LookupError: this Debian has another Slurm by now.
    """
    packages = [line for line in _PACKAGES.read_text().splitlines() if line and not line.startswith("#")]
    recipe = hashlib.sha256(" ".join([*packages, *_BORROWED.get(suite, ())]).encode()).hexdigest()[:8]
    tree = cache / "slurm" / f"{release}-{recipe}"
    with locked(cache / "slurm" / f"{release}.lock"):
        if not tree.exists():
            say(f"Debian {suite} for Slurm {release}: once per machine")
            partial = tree.with_name(f"{tree.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            run("cp", "--archive", str(base_tree(suite, cache=cache)), str(partial))
            say(f"Slurm {release} and what else its host needs")
            _install(partial, packages)
            if suite in _BORROWED:
                _borrow(partial, suite, *_BORROWED[suite])
            _check_release(partial, release, suite)
            partial.rename(tree)
    return tree


def _install(tree: Path, packages: list[str]) -> None:
    lend_apt(tree)
    apt = ("chroot", str(tree), "apt-get", "--quiet", "--yes", "--option", _OLD_INDEX)
    run(*apt, "update", env=_APT_ENVIRONMENT)
    run(*apt, "install", "--no-install-recommends", *packages, env=_APT_ENVIRONMENT)
    run(*apt, "clean")
    (tree / RECORD).write_text(run("chroot", str(tree), "dpkg-query", "--show"))


def _borrow(tree: Path, suite: str, package: str, other_suite: str) -> None:
    """Replace a library's files by those of another suite, behind dpkg's back: no dependency would allow it."""
    sources = (tree / "etc/apt/sources.list").read_text().splitlines()
    main = next(line for line in sources if f" {suite} " in line)
    other = tree / "etc/apt/sources.list.d/borrowed.list"
    other.write_text(main.replace(f" {suite} ", f" {other_suite} ") + "\n")
    directory = tree / "var/cache/borrowed"
    directory.mkdir()
    inside = ("chroot", str(tree), "env", "--chdir=/var/cache/borrowed")
    run("chroot", str(tree), "apt-get", "--quiet", "--option", _OLD_INDEX, "update", env=_APT_ENVIRONMENT)
    run(*inside, "apt-get", "--quiet", "download", f"{package}/{other_suite}", env=_APT_ENVIRONMENT)
    (archive,) = directory.iterdir()
    run(*inside, "dpkg", "--extract", archive.name, "/", env=_APT_ENVIRONMENT)
    with (tree / RECORD).open("a") as record:
        record.write(f"{archive.name} of {other_suite}, in the place of its own\n")
    shutil.rmtree(directory)
    other.unlink()


def _check_release(tree: Path, release: str, suite: str) -> None:
    found = run("chroot", str(tree), "slurmctld", "-V").split()[-1]
    if not found.startswith(f"{release}."):
        raise LookupError(f"Debian {suite} has Slurm {found} by now, not {release}: see images/slurm/README.md")
