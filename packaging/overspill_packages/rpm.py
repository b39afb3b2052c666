"""A .rpm out of a staged tree, by a spec file that builds nothing."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from overspill_packages import scripts, tree
from overspill_packages.description import Common, Facts, Format, Package

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
#: rpm passes the number of versions that will be installed afterwards.
_IS_UPGRADE = "[ $1 -gt 1 ]"
_IS_REMOVAL = "[ $1 -eq 0 ]"

_SPEC = """\
# Python's files are compiled already, for the interpreter that the package depends on, and the libraries in it are
# nobody else's: what rpm would find out by itself about either is wrong.
AutoReqProv: no
%global _binary_payload w3.zstdio
%global __os_install_post %{{nil}}
%global _build_id_links none
%global _buildhost reproducible
%global use_source_date_epoch_as_buildtime 1
%global clamp_mtime_to_source_date_epoch 1
Name: {name}
Version: {version}
Release: {revision}
Summary: {summary}
License: {license}
{requires}
%description
{description}

{sections}
%files
%defattr(-,root,root,-)
{files}
"""


def build(package: Package, common: Common, *, root: Path, facts: Facts, out: Path) -> Path:
    """Write `out/<package>-<version>-<revision>.<architecture>.rpm` and return its path."""
    architecture = _ARCHITECTURES.get(facts.architecture, facts.architecture)
    top = root.with_name(f"{package.name}.rpmbuild")
    top.mkdir()
    spec = top / f"{package.name}.spec"
    spec.write_text(_spec(package, common, root, facts), encoding="utf-8")
    macros = {"_topdir": top, "_rpmdir": out, "_rpmfilename": "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm"}
    defines = [word for name, value in macros.items() for word in ("--define", f"{name} {value}")]
    argv = [
        "rpmbuild",
        "-bb",
        "--quiet",
        "--noclean",
        *defines,
        "--buildroot",
        str(root),
        "--target",
        architecture,
        str(spec),
    ]
    subprocess.run(argv, check=True)
    return out / f"{package.name}-{facts.version}-{facts.REVISION}.{architecture}.rpm"


def _spec(package: Package, common: Common, root: Path, facts: Facts) -> str:
    sections = {
        "%post": scripts.after_installation(package, is_upgrade=_IS_UPGRADE),
        "%preun": scripts.before_removal(package, is_removal=_IS_REMOVAL),
        "%postun": scripts.after_removal(package, is_removal=_IS_REMOVAL),
    }
    return _SPEC.format(
        name=package.name,
        version=facts.version,
        revision=facts.REVISION,
        summary=facts.fill(package.summary),
        license=package.license or common.license,
        requires="".join(f"Requires: {facts.fill(word)}\n" for word in package.depends.rpm),
        description=facts.fill(package.description).strip(),
        sections="".join(f"{name}\n{body}\n" for name, body in sections.items() if body),
        files="\n".join(_files(package, root)),
    )


def _files(package: Package, root: Path) -> list[str]:
    configuration = set(tree.configuration_files(package, Format.RPM))
    own_directories = [f"%dir {directory.path}" for directory in package.directories]
    whole = [f"%dir {path}" for path in _private_directories(root)]
    files = [f"%config(noreplace) {path}" if path in configuration else path for path in tree.installed_files(root)]
    return [*own_directories, *whole, *files]


def _private_directories(root: Path) -> list[str]:
    """Return the directories that no other software's package has: those that are named after us, and all in them."""
    directories = [path for path in sorted(root.rglob("*")) if path.is_dir() and not path.is_symlink()]
    installed = [f"/{path.relative_to(root)}" for path in directories]
    return [path for path in installed if re.search(r"/(slurm-)?overspill", path) and not path.startswith("/etc/")]
