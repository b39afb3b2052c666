"""Which Debian packages an image has, and what has changed since that was last written down in the checkout."""

from __future__ import annotations

from pathlib import Path

from overspill_images.recipe import IMAGES

_HEADER = "# Debian packages of the image as last recorded with `make images LOCK=1`: name, version, architecture.\n"


def lock_file(name: str) -> Path:
    """Return where the checkout keeps the packages of the image of this name."""
    return IMAGES / name / "packages.lock"


def record(name: str, packages: Path) -> None:
    """Write down that the image has these packages."""
    lock_file(name).write_text(_HEADER + packages.read_text())


def drift(name: str, packages: Path) -> list[str]:
    """Return a line per package that is not as it was written down."""
    lock = lock_file(name)
    before, now = _read(lock.read_text() if lock.exists() else ""), _read(packages.read_text())
    return [
        f"{package}: {before.get(package, 'absent')} -> {now.get(package, 'absent')}"
        for package in sorted(before.keys() | now.keys())
        if before.get(package) != now.get(package)
    ]


def _read(table: str) -> dict[str, str]:
    rows = [line.split("\t") for line in table.splitlines() if line and not line.startswith("#")]
    return {f"{name}:{architecture}": version for name, version, architecture in rows}
