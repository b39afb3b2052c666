"""sidecar.toml."""

from pathlib import Path

import pytest

from overspill.errors import ConfigError
from overspill_sidecar.config import load

_SITE = """
[[sites]]
name = "site-a"
partition = "overspill"
agent = "site:7443"
tls = { certificate = "/t/c.crt", private_key = "/t/c.key", ca = "/t/ca.crt" }
"""


def _write(directory: Path, text: str) -> Path:
    path = directory / "sidecar.toml"
    path.write_text(text)
    return path


def test_a_file_with_one_site_is_enough(tmp_path: Path) -> None:
    config = load(_write(tmp_path, _SITE))
    assert str(config.router.socket) == "/run/overspill/router.sock"
    assert config.relay.unreachable_grace_s == 60
    assert config.sites[0].tls_files.ca == Path("/t/ca.crt")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "sites: is missing: add it"),
        ("sites = []", "sites: Tuple should have at least 1 item"),
        ("[router]\nsockett = '/x'\n" + _SITE, "router.sockett: no such key: check its spelling, or remove it"),
        ("[relay]\nsocket = 'x.sock'\n" + _SITE, "relay.socket: write an absolute path"),
        ("[slurm]\nrefresh_s = 0\n" + _SITE, "slurm.refresh_s: Input should be greater than or equal to 0.2"),
        (_SITE.replace("site:7443", "site"), "sites[0].agent: String should match pattern"),
        (_SITE.replace("[[sites]]", "[[sites]]\nnodes = 'ovs[1-'"), "sites[0].nodes: 'ovs[1-' is no host list"),
        (_SITE + _SITE, "the file: two sites have the same name: give each its own"),
        ("sites = ", "is no TOML file"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key_and_what_to_do(tmp_path: Path, text: str, complaint: str) -> None:
    path = _write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load(path)
    assert complaint in error.value.reason
    assert str(path) in error.value.reason


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*absent\.toml: No such file"):
        load(tmp_path / "absent.toml")
