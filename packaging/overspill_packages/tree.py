"""The files of one package as they will be installed, in a directory of its own."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

from overspill_packages.description import Common, Facts, File, Format, Package

_PROGRAMS = ("/usr/bin/", "/usr/sbin/")
_BUILT = "build:"


def stage(
    package: Package,
    common: Common,
    package_format: Format,
    *,
    checkout: Path,
    built: Path,
    root: Path,
    facts: Facts,
) -> None:
    """Copy all of the package's files below `root`, each with the mode and the time that it will have."""
    root.mkdir(parents=True)
    for directory in package.directories:
        _below(root, directory.path).mkdir(parents=True)
    for file in package.files_of(package_format):
        source = built / file.source.removeprefix(_BUILT) if file.source.startswith(_BUILT) else checkout / file.source
        _copy(source, _below(root, facts.fill(file.target)))
    if package_format == Format.DEB:
        _write_debian_papers(package, common, checkout, root, facts)
    _compress_manuals(root)
    _set_modes(root)
    for directory in package.directories:
        _below(root, directory.path).chmod(int(directory.mode, 8))
    set_times(root, facts.epoch_s)


def set_times(root: Path, epoch_s: int) -> None:
    """Give everything below `root` the same time, so that the same source makes the same package."""
    for path in (*root.rglob("*"), root):
        os.utime(path, (epoch_s, epoch_s), follow_symlinks=False)


def installed_files(root: Path) -> list[str]:
    """Return the installed paths of all that is no directory, sorted."""
    return sorted(f"/{path.relative_to(root)}" for path in root.rglob("*") if path.is_symlink() or not path.is_dir())


def configuration_files(package: Package, package_format: Format) -> list[str]:
    return [file.target for file in _configuration(package, package_format)]


def _configuration(package: Package, package_format: Format) -> Iterator[File]:
    return (file for file in package.files_of(package_format) if file.is_configuration)


def _below(root: Path, installed: str) -> Path:
    return root / installed.lstrip("/")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _write_debian_papers(package: Package, common: Common, checkout: Path, root: Path, facts: Facts) -> None:
    """Write what Debian wants of each package: its licence and its changes."""
    papers = root / "usr/share/doc" / package.name
    papers.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkout / "packaging/copyright", papers / "copyright")
    (papers / "changelog.gz").write_bytes(gzip.compress((checkout / "CHANGELOG.md").read_bytes(), mtime=0))
    (papers / "changelog.Debian.gz").write_bytes(gzip.compress(_debian_changelog(common, facts).encode(), mtime=0))
    overrides = root / "usr/share/lintian/overrides"
    overrides.mkdir(parents=True)
    shutil.copyfile(checkout / "packaging/lintian" / package.name, overrides / package.name)


def _debian_changelog(common: Common, facts: Facts) -> str:
    day = formatdate(facts.epoch_s)
    entry = f"overspill ({facts.version}-{facts.REVISION}) stable; urgency=medium\n\n  * See changelog.gz.\n\n"
    return f"{entry} -- {common.maintainer}  {day}\n"


def _compress_manuals(root: Path) -> None:
    for page in root.glob("usr/share/man/man*/*"):
        page.with_name(f"{page.name}.gz").write_bytes(gzip.compress(page.read_bytes(), mtime=0))
        page.unlink()


def _set_modes(root: Path) -> None:
    """Everybody reads everything, root writes, and only programs can be executed, whatever umask the checkout has."""
    for path in (root, *root.rglob("*")):
        if path.is_symlink():
            continue
        is_program = f"/{path.relative_to(root)}".startswith(_PROGRAMS)
        path.chmod(0o755 if path.is_dir() or is_program else 0o644)
