"""A .deb out of a staged tree."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from overspill_packages import scripts, tree
from overspill_packages.description import Common, Facts, Format, Package

#: What dpkg passes to the scripts. Source: Debian Policy, 6.5.
_IS_UPGRADE = '[ "$1" = configure ] && [ -n "$2" ]'
_IS_REMOVAL = '[ "$1" = remove ]'


def build(package: Package, common: Common, *, root: Path, facts: Facts, out: Path) -> Path:
    """Write `out/<package>_<version>_<architecture>.deb` and return its path; adds DEBIAN/ to `root`."""
    control = root / "DEBIAN"
    control.mkdir()
    size_kib = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir()) // 1024
    contents = {
        "control": _control(package, common, facts, size_kib),
        "md5sums": _md5sums(root),
        "conffiles": "".join(f"{path}\n" for path in tree.configuration_files(package, Format.DEB)),
        "postinst": _script(scripts.after_installation(package, is_upgrade=_IS_UPGRADE)),
        "prerm": _script(scripts.before_removal(package, is_removal=_IS_REMOVAL)),
        "postrm": _script(scripts.after_removal(package, is_removal=_IS_REMOVAL) + _on_purge(scripts.purge(package))),
    }
    for name, content in contents.items():
        if content:
            (control / name).write_text(content, encoding="utf-8")
            (control / name).chmod(0o755 if content.startswith("#!") else 0o644)
    control.chmod(0o755)
    tree.set_times(root, facts.epoch_s)
    package_file = out / f"{package.name}_{facts.version}-{facts.REVISION}_{facts.architecture}.deb"
    argv = ["dpkg-deb", "--root-owner-group", "-Zxz", "-z0", "--build", str(root), str(package_file)]
    subprocess.run(argv, check=True, capture_output=True)
    return package_file


def _control(package: Package, common: Common, facts: Facts, size_kib: int) -> str:
    fields = {
        "Package": package.name,
        "Source": "overspill",
        "Version": f"{facts.version}-{facts.REVISION}",
        "Architecture": facts.architecture,
        "Maintainer": common.maintainer,
        "Installed-Size": str(size_kib),
        "Depends": facts.fill(", ".join(package.depends.deb)),
        "Recommends": facts.fill(", ".join(package.recommends.deb)),
        "Section": "net",
        "Priority": "optional",
        "Description": facts.fill(package.summary),
    }
    lines = [f"{name}: {value}" for name, value in fields.items() if value]
    description = facts.fill(package.description).strip().splitlines()
    return "\n".join([*lines, *(f" {line}" for line in description)]) + "\n"


def _md5sums(root: Path) -> str:
    """Return the sums by which `dpkg --verify` finds damage; MD5 is what its format has."""
    regular = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    kept = [path for path in regular if "DEBIAN" not in path.relative_to(root).parts]
    sums = {path: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in kept}
    return "".join(f"{digest}  {path.relative_to(root)}\n" for path, digest in sums.items())


def _script(body: str) -> str:
    return f"#!/bin/sh\nset -e\n\n{body}\nexit 0\n" if body else ""


def _on_purge(body: str) -> str:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return f'if [ "$1" = purge ]; then\n{lines}fi\n' if body else ""
