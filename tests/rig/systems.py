"""What a host's /usr, /etc and Python environment are made of: this machine's own, or another Debian's tree."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from overspill_images.cache import CACHE, locked
from overspill_images.process import run
from overspill_images.slurm import slurm_tree
from overspill_pyslurm import building, pruning
from tests.rig.errors import RigError
from tests.rig.parts import CHECKOUT, VENV
from tests.rig.progress import Progress, silent
from tests.rig.releases import Release

_REQUIREMENTS = CHECKOUT / "packaging/requirements.lock"
_SPANK_SOURCE = CHECKOUT / "slurm_plugin/spank"
_SPANK_BUILD = CHECKOUT / "build/spank"
_PYTHON = "/usr/bin/python3"


@dataclass(frozen=True, slots=True)
class System:
    """A Debian with a Slurm, and what of Overspill fits no other."""

    #: The directory that has its usr and etc.
    root: Path
    #: The environment of the sidecar and of the command `overspill`, for its Python.
    venv: Path
    #: Compiled for its Slurm.
    spank_plugin: Path


THIS_MACHINE = System(Path("/"), VENV, CHECKOUT / "build/spank_overspill.so")


def of_release(release: Release, progress: Progress = silent) -> System:
    """Return the system that has this Slurm; make it first if this machine has none yet, in two to four minutes.

    Raises:
        RigError: if it cannot be made.
    """
    if release.suite is None:
        return THIS_MACHINE
    try:
        tree = slurm_tree(release.name, release.suite, progress)
        return System(tree, _environment(tree, release, progress), _spank_plugin(tree, release))
    except (ChildProcessError, LookupError, pruning.OtherSourceError) as error:
        raise RigError(f"no host for Slurm {release.name}: {error}") from error


def compile_packages(system: System, lib: Path, packages: Collection[str]) -> None:
    """Compile these packages in `lib` with the system's own Python."""
    compiled = [f"/mnt/{name}" for name in packages if (lib / name).is_dir()]
    _run_inside(system.root, lib, _PYTHON, "-m", "compileall", "-q", *compiled)


def _environment(tree: Path, release: Release, progress: Progress) -> Path:
    """Return the environment for the tree's Python with the libraries that our packages bring along."""
    ingredients = (_REQUIREMENTS, building.LOCK, Path(building.__file__), Path(pruning.__file__))
    texts = " ".join(path.read_text() for path in ingredients)
    recipe = hashlib.sha256(f"{tree.name} {texts}".encode()).hexdigest()[:8]
    environment = CACHE / "slurm" / f"{release.name}-python-{recipe}"
    with locked(CACHE / "slurm" / f"{release.name}-python.lock"):
        if not environment.exists():
            progress(f"Python environment for Slurm {release.name}'s host")
            partial = environment.with_name(f"{environment.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _run_inside(tree, partial, _PYTHON, "-m", "venv", "--without-pip", "/mnt")
            _install_libraries(partial)
            progress(f"pyslurm for Slurm {release.name}")
            _build_pyslurm(tree, partial)
            _run_inside(tree, partial, _PYTHON, "-m", "compileall", "-q", "/mnt/lib")
            partial.rename(environment)
    return environment


def _install_libraries(environment: Path) -> None:
    """Install from outside, for that Python: the tree needs neither pip nor a way to this machine's index."""
    (libraries,) = environment.glob("lib/python*/site-packages")
    version = libraries.parent.name.removeprefix("python")
    uv = str(Path(sys.executable).with_name("uv"))
    what = ("--require-hashes", "--requirements", str(_REQUIREMENTS), "--only-binary", ":all:")
    where = ("--target", str(libraries), "--python-version", version, "--link-mode", "copy")
    run(uv, "pip", "install", "--quiet", *what, *where)


def _build_pyslurm(tree: Path, environment: Path) -> None:
    (libraries,) = environment.glob("lib/python*/site-packages")
    version = libraries.parent.name.removeprefix("python")
    with TemporaryDirectory() as links:
        building.build(building.tree(tree, version, Path(links)), libraries)


def _spank_plugin(tree: Path, release: Release) -> Path:
    """Return the plugin; it is compiled if it has not been, or its source is younger."""
    out = _SPANK_BUILD / release.name
    include = out / "include"
    with locked(_SPANK_BUILD / "lock"):
        include.mkdir(parents=True, exist_ok=True)
        # Slurm's headers alone: beside them lie those of a C library that is not the compiler's.
        (include / "slurm").unlink(missing_ok=True)
        (include / "slurm").symlink_to(tree / "usr/include/slurm")
        run("make", "--silent", "-C", str(_SPANK_SOURCE), f"OUT={out}", f"SLURM_INCLUDE={include}")
    return out / "spank_overspill.so"


def _run_inside(root: Path, writable: Path, *argv: str) -> None:
    """Execute a program of the system's, which sees the directory `writable` as /mnt."""
    mounts = ("--ro-bind", str(root), "/", "--bind", str(writable), "/mnt", "--dev", "/dev", "--proc", "/proc")
    run("bwrap", *mounts, "--", *argv)
