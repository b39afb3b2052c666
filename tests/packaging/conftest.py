"""The packages, built once, and machines on which they were installed as docs/howto-admin.md says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from overspill_images.cache import locked
from tests.packaging import how_to
from tests.packaging.machines import Machines
from tests.rig.parts import CHECKOUT

#: Any time will do, if only it is the same at each build.
EPOCH_S = 1_700_000_000
HOW_TO = CHECKOUT / "docs/howto-admin.md"


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with all packages, built once for all of xdist's workers."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    out = shared / "packages"
    with locked(shared / "packages.lock"):
        if not out.exists():
            build(out.with_suffix(".partial"), "deb", "rpm")
            out.with_suffix(".partial").rename(out)
    return out


@pytest.fixture(scope="session")
def debs(packages: Path) -> list[Path]:
    return sorted(packages.glob("*.deb"))


def build(out: Path, *formats: str) -> None:
    """Build the packages of these formats into `out`."""
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT / "packaging"), "SOURCE_DATE_EPOCH": str(EPOCH_S)}
    argv = [sys.executable, "-m", "overspill_packages", "--out", str(out)]
    argv += [word for package_format in formats for word in ("--format", package_format)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def installed(debs: list[Path]) -> Iterator[Machines]:
    """Two machines on which an admin has followed the how-to to its end."""
    with Machines.up(debs) as machines:
        how_to.follow(how_to.read(HOW_TO), {"cluster": machines.cluster, "site": machines.site})
        yield machines
