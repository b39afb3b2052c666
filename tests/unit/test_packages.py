"""What the packages are built from agrees with what everything else is built from."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from overspill_agent.config import AgentConfig
from overspill_packages import manuals
from overspill_packages.description import Facts
from overspill_packages.facts import slurm_release
from overspill_packages.tables import as_lists
from overspill_sidecar.config import SidecarConfig

CHECKOUT = Path(__file__).parents[2]


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_packages_bring_the_versions_that_are_tested() -> None:
    tested = _pins(CHECKOUT / "requirements.lock")
    assert _pins(CHECKOUT / "packaging/requirements.lock").items() <= tested.items()


def test_packages_bring_every_library_that_the_programs_need() -> None:
    brought = _pins(CHECKOUT / "packaging/requirements.lock")
    declared = (CHECKOUT / "pyproject.toml").read_text().partition("[dependency-groups]")[0]
    needed = re.findall(r'^  "([A-Za-z0-9_-]+)(?:\[[a-z]+\])?[>=]=', declared, re.MULTILINE)
    assert "grpcio" in needed
    missing = {name.lower() for name in needed} - set(brought)
    assert not missing, "run `make lock`"


def test_slurms_release_is_read_from_its_header() -> None:
    assert slurm_release("#define SLURM_VERSION_NUMBER 0x160508\n") == (22, 5)


def test_a_header_without_a_version_is_refused() -> None:
    with pytest.raises(ValueError, match="--slurm-include"):
        slurm_release("#define SOMETHING 1\n")


def _failed_build(tmp_path: Path, *options: str, **environment: str) -> str:
    """Return what a build of all packages says that comes to nothing."""
    known = {**os.environ, "PYTHONPATH": str(CHECKOUT / "packaging"), "SOURCE_DATE_EPOCH": "1", **environment}
    argv = [sys.executable, "-m", "overspill_packages", "--out", str(tmp_path / "out"), *options]
    done = subprocess.run(argv, env=known, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def test_whoever_has_no_library_of_slurms_is_told_of_both_ways_on(tmp_path: Path) -> None:
    said = _failed_build(tmp_path, "--slurm-library", str(tmp_path))
    assert f"no libslurmfull.so below {tmp_path}: name its directory with --slurm-library" in said
    assert "leave overspill-pyslurm out with --no-pyslurm" in said


def test_whoever_does_not_reach_pyslurms_source_is_told_so_before_all_else_is_built(tmp_path: Path) -> None:
    said = _failed_build(tmp_path, PIP_NO_INDEX="1", PIP_FIND_LINKS="", TMPDIR=str(tmp_path))
    assert "pyslurm==25.11.2" in said
    assert "overspill-pyslurm cannot be built: --no-pyslurm leaves it out" in said
    assert not list(tmp_path.glob("overspill-packages.*"))


@pytest.mark.parametrize(
    ("page", "model"), [("sidecar.toml.md", SidecarConfig), ("agent.toml.md", AgentConfig)], ids=["sidecar", "agent"]
)
def test_the_manual_of_a_configuration_file_names_every_key(page: str, model: type[BaseModel]) -> None:
    text = (CHECKOUT / "docs" / page).read_text()
    missing = [key for key in _keys(model) if f"**{key}**" not in text and f"[{key}" not in text]
    assert missing == []


def test_a_manual_page_spells_words_with_underscores_as_they_are(tmp_path: Path) -> None:
    facts = Facts(version="1", architecture="amd64", python="3.11", slurm="22.05", slurm_next="22.06", epoch_s=0)
    manuals.build(CHECKOUT / "docs", tmp_path / "man", facts)
    page = (tmp_path / "man/overspill-agent.toml.5").read_text().replace("\\", "")
    assert "certificate_life_s" in page


def _keys(model: type[BaseModel]) -> Iterator[str]:
    """Yield the keys of a model and of all tables in it."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from _keys(part)


def test_a_table_is_a_list_in_a_manual() -> None:
    page = "Words:\n\n| word | meaning | default |\n|---|---|---|\n| `a` | A. | 1 |\n| `b` | B. |  |\n\nEnd.\n"
    assert as_lists(page) == "Words:\n\n`a`\n: A. default: 1.\n\n`b`\n: B.\n\nEnd.\n"
