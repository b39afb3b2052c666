"""agent.toml: what the design promises is accepted, and each mistake is told with file, key and what to do."""

import re
from pathlib import Path

import pytest

from overspill.errors import ConfigError
from overspill_agent.config import AgentConfig, load, parse
from tests.rig.parts import CHECKOUT

GOOD = """
[server]
listen = "0.0.0.0:7443"
[server.tls]
certificate = "/etc/overspill/tls/site.crt"
private_key = "/etc/overspill/tls/site.key"
ca = "/etc/overspill/tls/ca.crt"
[runner_channel]
listen = "0.0.0.0:7444"
url = "https://site:7444"
lease_s = 120
tls = { certificate = "/etc/site.crt", private_key = "/etc/site.key", ca = "/etc/ca.crt" }
[store]
path = "/var/lib/overspill-agent/agent.db"
[local]
directory = "/var/lib/overspill-agent/runs"
cpus = 8
memory_mib = 16384
private = ["/home", "/tmp", "/var/tmp", "/dev/shm"]
shared = []
python = "/usr/bin/python3"
[accounts.rig]
alice = "alice"
bob = "robert"
"""


def test_the_documented_configuration_is_accepted() -> None:
    config = parse(GOOD, "agent.toml")
    assert isinstance(config, AgentConfig)
    assert config.accounts == {"rig": {"alice": "alice", "bob": "robert"}}
    assert config.store.spool_directory == Path("/var/lib/overspill-agent/spool")
    assert config.server_files().ca == Path("/etc/overspill/tls/ca.crt")


@pytest.mark.parametrize("section", ["docker", "htcondor"])
def test_the_examples_of_the_how_to_are_accepted(section: str) -> None:
    blocks = re.findall(r"```toml\n(.*?)```", (CHECKOUT / "docs/howto-site.md").read_text(), re.DOTALL)
    (example,) = (block for block in blocks if f"[{section}]" in block)
    config = parse('server.listen = "0.0.0.0:7443"\nstore.path = "/var/lib/agent.db"\n' + example, "howto-site.md")
    assert config.backend == section
    assert config.images["base"].is_default


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("cpus = 8\n", "", "[local] cpus: this key is missing; add it"),
        ("cpus = 8", "cpu = 8", "[local] cpu: there is no such key; remove it or correct its name"),
        ("cpus = 8", "cpus = 0", "[local] cpus: Input should be greater than 0"),
        ('"0.0.0.0:7443"', '"7443"', '[server] listen: write "address:port"'),
        ("https://site:7444", "http://site:7444", '[runner_channel] url: write "https://name:port"'),
        ("lease_s = 120", "lease_s = 5", "[runner_channel] lease_s: Input should be greater than 20"),
        ('"/var/lib/overspill-agent/agent.db"', '"agent.db"', "[store] path: write an absolute path"),
        ("shared = []", 'shared = ["/home/alice"]', "[local]: /home/alice lies in /home; name only one of them"),
        ("shared = []", 'shared = ["/"]', "[local]: `/` can be neither private nor shared"),
        ("shared = []", 'shared = ["/tmp"]', "[local]: a directory is either in `private` or in `shared`"),
        ("/usr/bin/python3", "/home/me/python3", "[local]: python /home/me/python3 lies in a private directory"),
        ("[store]", "[storage]", "[storage]: there is no such key"),
        (
            "cpus = 8",
            "cpus = 8\nlimits = 'some'",
            "[local] limits: Input should be 'enforced', 'best-effort' or 'none'",
        ),
        ("cpus = 8", "cpus = 8\ngpus = 2\ngpu_ids = ['0']", "[local]: gpus = 2, but gpu_ids names 1; name each once"),
        ("cpus = 8", "cpus = ", "not TOML"),
    ],
)
def test_a_mistake_is_told_with_file_key_and_what_to_do(old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as error:
        parse(GOOD.replace(old, new), "agent.toml")
    assert f"agent.toml: {told}" in error.value.reason


def test_a_file_that_cannot_be_read_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*agent\.toml: No such file"):
        load(tmp_path / "agent.toml")
    (tmp_path / "agent.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 0"):
        load(tmp_path / "agent.toml")


DOCKER = """
[docker]
directory = "/var/lib/overspill-agent/docker"
cpus = 8
memory_mib = 16384
gpus = ["GPU-1", "GPU-2"]
gpu_type = "a100"
network = "overspill"
extra_hosts = { "agent.site" = "host-gateway" }
shared = ["/work"]
ulimits = { nofile = 131072 }
"""
LOCAL = GOOD[GOOD.index("[local]") : GOOD.index("[accounts.rig]")]


def test_the_docker_back_end_has_a_section_of_its_own() -> None:
    config = parse(GOOD.replace(LOCAL, DOCKER), "agent.toml")
    assert config.backend == "docker"
    assert config.docker is not None
    assert config.docker.gpus == ("GPU-1", "GPU-2")
    assert config.docker.private == (Path("/home"), Path("/tmp"), Path("/var/tmp"))


def test_exactly_one_back_end_is_configured() -> None:
    with pytest.raises(ConfigError, match="local, docker are all configured; have one of"):
        parse(GOOD.replace(LOCAL, LOCAL + DOCKER), "agent.toml")
    with pytest.raises(ConfigError, match=r"no back end is configured; have one of \[local\], \[docker\]"):
        parse(GOOD.replace(LOCAL, ""), "agent.toml")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('network = "overspill"', 'network = "none"', "[docker] network: runners must reach this agent"),
        ("cpus = 8", 'socket = "tcp://engine:2375"\ncpus = 8', '[docker] socket: write "unix:///path/of/docker.sock"'),
        ('"GPU-2"', '"GPU-1"', "[docker]: a GPU is listed twice"),
        ('["GPU-1", "GPU-2"]', "[]", "[docker]: `gpu_type` says of which type"),
        ('["/work"]', '["/home/alice"]', "[docker]: /home/alice lies in /home"),
    ],
)
def test_each_mistake_in_the_docker_section_is_told(old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(GOOD.replace(LOCAL, DOCKER.replace(old, new)), "agent.toml")
    assert told in error.value.reason
