"""The command line as an operator meets it."""

import sqlite3
from pathlib import Path

import pytest
import trustme
from click.testing import CliRunner

import overspill
from overspill_agent.cli import main
from overspill_agent.store import Store
from tests.unit.test_agent_config import GOOD
from tests.unit.test_agent_store import RUN


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """A configuration whose certificates exist and whose accounts may run."""
    authority = trustme.CA()
    issued = authority.issue_cert("site")
    issued.private_key_pem.write_to_path(str(tmp_path / "site.key"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "site.crt"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.crt"))
    text = GOOD.replace("/etc/overspill/tls/", f"{tmp_path}/").replace('"/etc/', f'"{tmp_path}/')
    text = text.replace("/var/lib/overspill-agent", str(tmp_path / "state"))
    text = text.replace('alice = "alice"\nbob = "robert"\n', "")
    (tmp_path / "agent.toml").write_text(text)
    return tmp_path / "agent.toml"


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def test_help_shows_examples_and_each_command(config_path: Path) -> None:
    code, output = run("--help")
    assert code == 0
    for word in ("Examples:", "overspill-agent run", "runs --json"):
        assert word in output
    for command in ("run", "runs"):
        assert "--config" in run(command, "--help")[1]


def test_the_version_is_the_distributions() -> None:
    assert run("--version") == (0, f"overspill-agent, version {overspill.__version__}\n")


def test_no_runs_are_listed_before_there_is_a_store(config_path: Path) -> None:
    code, output = run("runs", "--config", str(config_path))
    assert code == 1
    assert "the agent has not run yet" in output


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith(("-shm", "-wal"))}


async def test_runs_are_listed_without_touching_the_store(config_path: Path) -> None:
    path = config_path.parent / "state" / "agent.db"
    store = Store(path)
    await store.insert(RUN, b"spec")
    while_open = run("runs", "--config", str(config_path))
    store.close()
    before = contents(path.parent)
    assert run("runs", "--config", str(config_path)) == while_open
    assert while_open[0] == 0
    assert while_open[1].split()[1:] == ["r1", str(RUN.request_id), "alice", "ACCEPTED", "-", "local", "-", "-", "-"]
    assert contents(path.parent) == before


@pytest.mark.parametrize("statement", ["UPDATE alembic_version SET version_num = '9999'", "DROP TABLE alembic_version"])
def test_a_store_of_another_version_is_not_read_and_not_migrated(config_path: Path, statement: str) -> None:
    path = config_path.parent / "state" / "agent.db"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    before = contents(path.parent)
    code, output = run("runs", "--config", str(config_path))
    assert code == 1
    assert "has schema revision" in output
    assert "this version of overspill-agent reads 0003" in output
    assert contents(path.parent) == before
