"""The unit files, as systemd itself reads them. No systemd has to run for that."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.rig.parts import CHECKOUT

UNITS = sorted((CHECKOUT / "packaging/systemd").glob("*.service"))
#: systemd's own measure, from 0 (confined) to 10. The agent is root, and users' programs inherit from it.
_MOST_EXPOSED = {"overspill-router.service": 2.0, "overspill-relay.service": 2.0, "overspill-agent.service": 7.8}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A file system with the units and the programs that they name, and nothing else."""
    (tmp_path / "usr/lib/systemd/system").mkdir(parents=True)
    (tmp_path / "usr/sbin").mkdir()
    for unit in UNITS:
        (tmp_path / "usr/lib/systemd/system" / unit.name).write_text(unit.read_text())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kill").touch(mode=0o755)
    for program in ("overspill-sidecar", "overspill-agent", "slurmd"):
        (tmp_path / "usr/sbin" / program).touch(mode=0o755)
    return tmp_path


@pytest.mark.parametrize("unit", [unit.name.replace("@", "@ovs1") for unit in UNITS])
def test_systemd_finds_nothing_wrong_with_a_unit(unit: str, root: Path) -> None:
    argv = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", f"--root={root}", unit]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stderr.splitlines() if "overspill" in line]
    assert (done.returncode, complaints) == (0, []), done.stderr


@pytest.mark.parametrize(("unit", "most"), _MOST_EXPOSED.items())
def test_a_service_is_confined(unit: str, most: float) -> None:
    argv = ["systemd-analyze", "security", "--offline=yes", "--json=short", str(CHECKOUT / "packaging/systemd" / unit)]
    threshold = [*argv, f"--threshold={round(most * 10)}"]
    done = subprocess.run(threshold, capture_output=True, text=True, check=False)
    exposed = [check["name"] for check in json.loads(done.stdout) if check["set"] is False]
    assert done.returncode == 0, f"systemd-analyze says more than {most} of {unit}: {exposed}"
