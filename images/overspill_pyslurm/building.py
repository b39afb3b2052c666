"""From PyPI's source to a package that can be imported: fetched with a hash, pruned, compiled, put in place.

Source of what each Slurm needs: pyslurm 25.11.2 tried on 22.05.8, 24.11.5 and 26.05.5 of Debian, November 2026.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from overspill_pyslurm.pruning import prune

#: The source, with its hash.
LOCK = Path(__file__).with_name("requirements.lock")
_LIBRARY = "libslurmfull.so"
#: Where a Slurm's packages put that library, below the directory of libraries.
_LIBRARY_DIRECTORIES = ("slurm-wlm", "slurm", "")
#: What an older or younger Slurm calls otherwise, by the word that it lacks: a definition for the compiler.
_OTHERWISE = {
    # Until 22.05 a list is a pointer's name; and a structure of messages that the queue is not asked with.
    "list_t": "-Dlist_t=struct xlist",
    "list_itr_t": "-Dlist_itr_t=struct listIterator",
    "slurm_node_alias_addrs_t": "-Dslurm_node_alias_addrs_t=int",
    "slurm_job_state_reason_string": "-Dslurm_job_state_reason_string=slurm_job_reason_string",
}
#: 26.05's headers have the names of before on demand.
_ALWAYS = ("-DSLURM_BACKWARD_COMPAT",)
_WARNINGS = ("-w", "-fmax-errors=5")


@dataclass(frozen=True, slots=True)
class Target:
    """What it is compiled for."""

    #: Directories that hold `slurm/slurm.h` and the library of Slurm, as this build sees them.
    slurm_include: Path
    slurm_library: Path
    #: Where the library is on the machine that will run it.
    installed_library: Path
    #: Directories with the headers of the Python that will import it.
    python_includes: tuple[Path, ...]


def this_machine(slurm_include: Path, library: Path | None) -> Target:
    """Return the Target for the Python that runs this and the Slurm whose headers are in `slurm_include`.

    Args:
        slurm_include: see `Target`.
        library: the directory of Slurm's libraries; None: where this machine's distribution has them.

    Raises:
        LookupError: saying what to install, if something is missing.
    """
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    roots = [library] if library else [Path("/usr/lib") / multiarch, Path("/usr/lib64"), Path("/usr/lib")]
    found = find_library(roots)
    python = Path(sysconfig.get_path("include"))
    if not (python / "Python.h").exists():
        raise LookupError(f"no Python.h in {python}: install libpython3-dev (RHEL: python3-devel)")
    return Target(slurm_include, found, found, (python,))


def tree(root: Path, python: str, links: Path) -> Target:
    """Return the Target for another Debian's tree, compiled from outside with this machine's compiler.

    Args:
        root: the tree's root directory, with Slurm's headers and Python's.
        python: its version: "3.13".
        links: an empty directory, for links to the headers that are needed: beside these lie those of a C library.
    """
    multiarch = sysconfig.get_config_var("MULTIARCH")
    (links / multiarch).mkdir()
    for name in ("slurm", f"{multiarch}/python{python}"):
        (links / name).symlink_to(root / "usr/include" / name)
    library = find_library([root / "usr/lib" / multiarch])
    return Target(links, library, Path("/") / library.relative_to(root), (links, root / f"usr/include/python{python}"))


def find_library(roots: list[Path]) -> Path:
    """Return the directory of Slurm's full library.

    Raises:
        LookupError: if it is below none of the roots.
    """
    for root in roots:
        for name in _LIBRARY_DIRECTORIES:
            if (root / name / _LIBRARY).exists():
                return root / name
    raise LookupError(f"no {_LIBRARY} below {', '.join(map(str, roots))}: name its directory with --slurm-library")


def build(target: Target, directory: Path, archive_to: Path | None = None) -> str:
    """Put the package `pyslurm` into `directory`, in the place of one that is there; return the release it is for.

    Args:
        target: what it is for.
        directory: where to put it.
        archive_to: a directory for the unchanged source, which must go with the result to whoever else gets it.

    Raises:
        ChildProcessError: with the end of what the failed command said.
        LookupError: the headers are not Slurm's.
        OtherSourceError: PyPI's source is not the one that the rules were written for.
    """
    release = slurm_release(target.slurm_include)
    with TemporaryDirectory(prefix="overspill-pyslurm.") as name:
        source = _fetch(Path(name), archive_to)
        package = source / "pyslurm"
        prune(package, source=source.name, release=release)
        # By relative names: what is built does not say where.
        modules = sorted(path.relative_to(source) for path in package.rglob("*.pyx"))
        _run(sys.executable, "-m", "Cython.Build.Cythonize", "--quiet", *map(str, modules), cwd=source)
        flags = (*_ALWAYS, *_definitions(target))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda module: _compile(module, source, target, flags), modules))
        _put(package, source, directory)
    return release


def slurm_release(include: Path) -> str:
    """Return the release that these headers belong to: "24.11".

    Raises:
        LookupError: if they are not Slurm's.
    """
    header = include / "slurm/slurm_version.h"
    if not header.exists():
        raise LookupError(f"no {header}: install libslurm-dev (RHEL: slurm-devel), or name a directory")
    text = header.read_text(encoding="utf-8")
    number = re.search(r"^#define\s+SLURM_VERSION_NUMBER\s+(0x[0-9a-fA-F]{6})", text, re.MULTILINE)
    if number is None:
        raise LookupError(f"{header} tells no version")
    version = int(number[1], 16)
    return f"{version >> 16}.{version >> 8 & 0xFF:02d}"


def _fetch(directory: Path, archive_to: Path | None) -> Path:
    """Return the directory of the unpacked source, from whatever index this machine is set up for."""
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps")
    how = ("--no-binary", ":all:", "--no-build-isolation", "--require-hashes", "--requirement", str(LOCK))
    _run(*pip, *how, "--dest", str(directory))
    (archive,) = directory.glob("pyslurm-*.tar.gz")
    shutil.unpack_archive(archive, directory)
    if archive_to is not None:
        shutil.copy(archive, archive_to)
    return directory / archive.name.removesuffix(".tar.gz")


def _definitions(target: Target) -> Iterator[str]:
    """Return what to call otherwise: what neither the headers know nor the library."""
    known = " ".join(path.read_text(encoding="utf-8") for path in (target.slurm_include / "slurm").glob("slurm*.h"))
    known += _run("nm", "--dynamic", "--defined-only", str(target.slurm_library / _LIBRARY))
    words = set(re.findall(r"\w+", known))
    return (definition for word, definition in _OTHERWISE.items() if word not in words)


def _compile(module: Path, source: Path, target: Target, flags: tuple[str, ...]) -> None:
    includes = [f"-I{path}" for path in (Path(), target.slurm_include, *target.python_includes)]
    libraries = [f"-L{target.slurm_library}", "-lslurmfull", f"-Wl,-rpath,{target.installed_library}"]
    files = (str(module.with_suffix(".c")), "-o", str(module.with_suffix(".so")))
    options = ("-O1", "-fPIC", "-shared", "-s", *_WARNINGS, *flags, *includes)
    _run("gcc", *options, *files, *libraries, cwd=source)


def _put(package: Path, source: Path, directory: Path) -> None:
    """Copy what is imported and what must go with it: its licence."""
    built = directory / "pyslurm"
    shutil.rmtree(built, ignore_errors=True)
    for path in sorted(package.rglob("*")):
        if path.suffix in {".py", ".so"}:
            copy = built / path.relative_to(package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    shutil.copyfile(source / "COPYING.txt", built / "COPYING.txt")


def _run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ChildProcessError(f"{' '.join(argv)}: exit code {done.returncode}\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout
