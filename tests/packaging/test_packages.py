"""What is in the packages, seen with the tools of Debian and Red Hat."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import build

pytestmark = pytest.mark.timeout(300)

PACKAGES = ("overspill-agent", "overspill-common", "overspill-pyslurm", "overspill-sidecar", "slurm-overspill")


@pytest.fixture(scope="module")
def rpms(packages: Path) -> dict[str, Path]:
    query = ["rpm", "--query", "--package", "--queryformat=%{NAME}"]
    return {_output(*query, str(path)): path for path in packages.glob("*.rpm")}


def test_lintian_finds_nothing_wrong(debs: list[Path]) -> None:
    # They are not for Debian's own archive, where a new package closes the bug that asked for it.
    lintian = ["lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags=initial-upload-closes-no-bugs"]
    done = subprocess.run([*lintian, *debs], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_same_source_makes_the_same_packages(debs: list[Path], tmp_path: Path) -> None:
    build(tmp_path, "deb")
    assert _digests(sorted(tmp_path.glob("*.deb"))) == _digests(debs)


def test_all_packages_exist_as_deb_and_rpm(debs: list[Path], rpms: dict[str, Path]) -> None:
    assert tuple(path.name.partition("_")[0] for path in debs) == PACKAGES
    assert tuple(sorted(rpms)) == PACKAGES


@pytest.mark.parametrize("name", PACKAGES)
def test_an_rpm_holds_what_the_deb_holds(name: str, debs: list[Path], rpms: dict[str, Path]) -> None:
    deb = next(path for path in debs if path.name.startswith(f"{name}_"))
    listed = _output("dpkg-deb", "--contents", str(deb)).splitlines()
    of_deb = {line.split()[5].removeprefix(".") for line in listed if line[0] != "d"}
    of_rpm = set(_output("rpm", "--query", "--package", "--list", str(rpms[name])).splitlines())
    assert {path for path in of_deb - of_rpm if not path.startswith(_DEBIANS_OWN)} == set()


@pytest.mark.parametrize("name", PACKAGES)
def test_an_rpms_scripts_are_scripts(name: str, rpms: dict[str, Path]) -> None:
    for tag in ("POSTIN", "PREUN", "POSTUN"):
        script = _output("rpm", "--query", "--package", f"--queryformat=%{{{tag}}}", str(rpms[name]))
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_configuration_in_an_rpm_is_the_admins(rpms: dict[str, Path]) -> None:
    found = [_output("rpm", "--query", "--package", "--configfiles", str(path)).split() for path in rpms.values()]
    assert sorted(path for paths in found for path in paths) == [
        "/etc/overspill/agent.toml",
        "/etc/overspill/sidecar.toml",
        "/etc/slurm/plugstack.conf.d/overspill.conf",
    ]


def test_rpms_can_be_installed_side_by_side_and_removed(rpms: dict[str, Path], tmp_path: Path) -> None:
    """Into an empty root: no conflict of files, and nothing is left. Dependencies are not there and not asked for."""
    root = tmp_path / "root"
    rpm = ["rpm", f"--root={root}", "--nodeps", "--noscripts"]
    subprocess.run([*rpm, "--install", *map(str, rpms.values())], check=True)
    assert (root / "usr/sbin/overspill-agent").stat().st_mode & 0o777 == 0o755
    assert (root / "usr/lib/overspill/venv/bin/python").is_symlink()
    subprocess.run([*rpm, "--erase", *rpms], check=True)
    assert list(root.rglob("*overspill*")) == []


#: Licence, changes and lintian's overrides are in each .deb only.
_DEBIANS_OWN = ("/usr/share/doc/", "/usr/share/lintian/", "/usr/share/zsh/")


def _digests(packages: list[Path]) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in packages}


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
