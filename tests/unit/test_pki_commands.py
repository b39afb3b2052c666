"""`overspill pki` as a new operator meets it, in the wrong order and with mistakes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from overspill.cli.main import main
from overspill_agent.config import PATH_VARIABLE

_CONFIG = """
[server]
listen = "127.0.0.1:7443"
[runner_channel]
listen = "127.0.0.1:7444"
url = "https://agent.example:7444"
[store]
path = "{0}/state/agent.db"
[local]
directory = "{0}/state/runs"
cpus = 2
memory_mib = 1000
[pki]
directory = "{0}/pki"
"""
_TLS = '[server]\ntls = { certificate = "/a", private_key = "/b", ca = "/c" }\n'


@pytest.fixture(name="config_path")
def _config_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(_CONFIG.format(tmp_path))
    monkeypatch.setenv(PATH_VARIABLE, str(path))
    return path


def _pki(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["pki", *arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("words", ["list", "invite rig", "issue rig", "revoke rig", "renew"])
@pytest.mark.usefixtures("config_path")
def test_without_an_authority_each_command_says_how_to_make_one(words: str) -> None:
    code, output = _pki(*words.split())
    assert code == 1
    assert "`overspill pki init` makes it" in output


@pytest.mark.usefixtures("config_path")
def test_from_nothing_to_a_code_and_back() -> None:
    assert _pki("init", "--name", "agent.example")[0] == 0
    code, output = _pki("invite", "rig")
    assert code == 0
    assert re.search(r"^  overspill enroll agent\.example:7444 ovs1-\S+$", output, re.MULTILINE)
    assert "1 of its codes were open and are void" in _pki("revoke", "rig")[1]
    listed = json.loads(_pki("list", "--json")[1])
    assert [each["how"] for each in listed["certificates"]] == ["init"]
    assert (listed["invitations"], listed["revoked"][0]["cluster"]) == ([], "rig")


def test_a_revocation_of_a_cluster_that_nobody_knows_is_told(config_path: Path) -> None:
    _pki("init", "--name", "agent.example")
    assert "never issued anything to rgi" in _pki("revoke", "rgi")[1]
    _pki("issue", "rig", "--out", str(config_path.parent / "rig"))
    assert "never issued" not in _pki("revoke", "rig")[1]


def test_no_code_is_given_out_for_certificates_that_the_agent_would_not_take(config_path: Path) -> None:
    _pki("init", "--name", "agent.example")
    config_path.write_text(config_path.read_text().replace("[server]\n", _TLS))
    code, output = _pki("invite", "rig")
    assert code == 1
    assert "takes certificates of that authority only" in output
