"""`overspill check` against a cluster and a site that are misconfigured in each of the ways there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from tests.e2e.commands import overspill
from tests.e2e.diversion import wait_until_diverting
from tests.rig import Rig
from tests.rig.waiting import poll

_CONF = "/etc/slurm/slurm.conf"
_HOOK = "/etc/slurm/job_submit.lua"
_PLUGSTACK = "/etc/slurm/plugstack.conf"
_SIDECAR = "/etc/overspill/sidecar.toml"
_AGENT = "/etc/overspill/agent.toml"
_MARK = "-----BEGIN CERTIFICATE"
_KEY = "/var/lib/overspill/pki/site-a/cluster.pem"


@pytest.fixture(name="sound", scope="module")
def _sound() -> Iterator[Rig]:
    """A rig that each test breaks and mends again."""
    with Rig.up(policy="overspill_mode=always") as rig:
        wait_until_diverting(rig)
        yield rig


@dataclass(frozen=True)
class Fault:
    """What is wrong, and what `check` must say of it."""

    file: str
    change: Callable[[str], str]
    subject: str
    says: str
    level: str = "error"
    #: slurmctld is to read it again.
    is_reconfigured: bool = False
    at: str = "cluster"


def _replace(old: str, new: str) -> Callable[[str], str]:
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new)

    return change


FAULTS = {
    "sidecar.toml is no TOML": Fault(_SIDECAR, lambda _: "[[", "sidecar.toml", "is no TOML file"),
    "sidecar.toml has an unknown key": Fault(
        _SIDECAR, lambda text: f"colour = 1\n{text}", "sidecar.toml", "colour: no such key"
    ),
    "metrics on a port that the running daemon does not know": Fault(
        _SIDECAR, _replace('"127.0.0.1:9465"', '"127.0.0.1:9499"'), "metrics", "nobody answers on", "warning"
    ),
    "metrics on a port that the running agent does not know": Fault(
        _AGENT, _replace('"127.0.0.1:9467"', '"127.0.0.1:9499"'), "metrics", "nobody answers on", "warning", at="site"
    ),
    "a wrong word": Fault(
        _CONF,
        _replace("overspill_mode=always", "overspill_mode=always,overspill_weight=3"),
        "slurm.conf: overspill_weight=3",
        "no such word",
        is_reconfigured=True,
    ),
    "an unknown partition": Fault(
        _CONF,
        _replace("overspill_from=batch", "overspill_from=batch+bacth"),
        "slurm.conf: overspill_from",
        "bacth",
        is_reconfigured=True,
    ),
    "no memory default": Fault(
        _CONF,
        _replace("MaxNodes=1 DefaultTime=00:10:00 MaxTime=1-00:00:00 DefMemPerCPU=1000", "MaxNodes=1 MaxTime=600"),
        "partition overspill",
        "neither it nor the cluster has DefMemPerCPU",
        is_reconfigured=True,
    ),
    "mode shadow": Fault(
        _CONF,
        _replace("overspill_mode=always", "overspill_mode=shadow"),
        "slurm.conf: policy",
        "the mode is shadow",
        level="warning",
        is_reconfigured=True,
    ),
    "no partition of that name": Fault(
        _SIDECAR,
        _replace('partition = "overspill"', 'partition = "overspil"'),
        "partition overspil",
        "slurmctld does not know it",
    ),
    "no node of that name": Fault(
        _SIDECAR, _replace('nodes = "ovs1"', 'nodes = "ovs9"'), "virtual node ovs9", "slurmctld does not know it"
    ),
    "the hook does not parse": Fault(_HOOK, lambda text: text + "\nend end\n", "job_submit.lua", "'<eof>' expected"),
    "the hook does not ask": Fault(
        _HOOK, lambda _: "return slurm.SUCCESS\n", "job_submit.lua", "does not require overspill"
    ),
    "the hook asks elsewhere": Fault(
        _HOOK,
        lambda text: text + '\n-- overspill.configure { socket = "/tmp/x.sock" }\n',
        "job_submit.lua: socket",
        "it asks /tmp/x.sock",
    ),
    "no SPANK line": Fault(_PLUGSTACK, lambda _: "# nothing\n", "plugstack.conf", "does not name spank_overspill.so"),
    "no SPANK plugin": Fault(
        _PLUGSTACK,
        _replace("/opt/overspill/spank_overspill.so", "/opt/overspil/spank_overspill.so"),
        "plugstack.conf: plugin",
        "is not there",
    ),
    "no proxy": Fault(
        _PLUGSTACK, _replace("proxy=/opt", "proxy=/optional"), "plugstack.conf: proxy=", "cannot be used"
    ),
    "another socket": Fault(
        _PLUGSTACK,
        _replace("socket=/run/overspill/relay.sock", "socket=/run/relay.sock"),
        "plugstack.conf: socket=",
        "the relay listens on /run/overspill/relay.sock",
    ),
    "a virtual node without SPANK": Fault(
        _PLUGSTACK, _replace("nodes=ovs[1-4]", "nodes=ovs[2-4]"), "plugstack.conf: nodes=", "does not name ovs1"
    ),
    "a key that is none": Fault(
        _KEY, lambda text: text[text.index(_MARK) :], "site site-a: private key", "no private key in PEM"
    ),
    "agent.toml has an unknown key": Fault(
        _AGENT, lambda text: f"colour = 1\n{text}", "agent.toml", "colour", at="site"
    ),
    "an account of the system": Fault(
        _AGENT, _replace('"alice" = "alice"', '"alice" = "root"'), "accounts: rig", "mapped to root", at="site"
    ),
    "an account that is none": Fault(
        _AGENT, _replace('"alice" = "alice"', '"alice" = "alise"'), "accounts: rig", "alise", at="site"
    ),
    "a Python that is none": Fault(
        _AGENT,
        _replace('python = "/usr/bin/python3"', 'python = "/usr/bin/python2"'),
        "runner: Python",
        "cannot run the runner",
        at="site",
    ),
    "another port": Fault(
        _AGENT,
        _replace('listen = "0.0.0.0:7443"', 'listen = "0.0.0.0:7999"'),
        "relays' service: port",
        "nobody",
        at="site",
    ),
    "no space": Fault(
        _AGENT,
        _replace("[store]\n", "[store]\nreserve_mib = 999999999\n"),
        "disk",
        "new runs are refused",
        at="site",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_what_to_do(sound: Rig, name: str) -> None:
    fault = FAULTS[name]
    host = sound.cluster if fault.at == "cluster" else sound.site
    before = host.path(fault.file).read_bytes()
    try:
        host.rewrite(fault.file, fault.change(before.decode()))
        if fault.is_reconfigured:
            sound.cluster.run(["scontrol", "reconfigure"], check=True)
        found = _found(sound, at=fault.at)
    finally:
        host.rewrite(fault.file, before)
        if fault.is_reconfigured:
            sound.cluster.run(["scontrol", "reconfigure"], check=True)
    (about,) = [it for it in found if it["subject"] == fault.subject and it["level"] == fault.level]
    assert fault.says in about["says"]
    assert about["remedy"]


@pytest.mark.parametrize(
    ("path", "mode", "subject", "at"),
    [
        (_KEY, 0o644, "site site-a: private key", "cluster"),
        (_SIDECAR, 0o666, "sidecar.toml", "cluster"),
        (_AGENT, 0o662, "agent.toml", "site"),
        ("/var/lib/overspill-agent", 0o777, "store: directory", "site"),
        ("/var/lib/overspill-agent/pki/agent.pem", 0o640, "relays' service: private key", "site"),
    ],
)
def test_files_that_are_open_to_others_are_errors(sound: Rig, path: str, mode: int, subject: str, at: str) -> None:
    file = (sound.cluster if at == "cluster" else sound.site).path(path)
    before = file.stat().st_mode
    try:
        file.chmod(mode)
        assert subject in _errors(sound, at=at)
    finally:
        file.chmod(before)


def test_a_certificate_that_is_not_ours_is_an_error_and_our_own_is_used_again(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    path = rig.cluster.path(_KEY)
    own, mark = path.read_bytes(), _MARK.encode()
    other = rig.certificates.issue("another-cluster")
    path.write_bytes(rig.certificates.issue("rig", is_expired=True))
    assert "has expired on" in _errors(rig)["site site-a: certificate"]
    path.write_bytes(rig.certificates.issue("rig", is_foreign=True))
    assert "is not signed by" in _errors(rig)["site site-a: CA"]
    path.write_bytes(other)
    assert "is for another-cluster, not for rig" in _errors(rig)["site site-a: certificate's name"]
    path.write_bytes(other[: other.index(mark)] + own[own.index(mark) :])
    assert "is not the key of" in _errors(rig)["site site-a: private key"]
    path.unlink()
    assert f"cannot read {_KEY}" in _errors(rig)["site site-a: certificate"]
    rig.cluster.write(_KEY, own, user="slurm", mode=0o600)
    _wait_until_sound(rig)


def test_a_drained_virtual_node_is_told_with_its_reason(sound: Rig) -> None:
    update = ["scontrol", "update", "NodeName=ovs1"]
    sound.cluster.run([*update, "State=DRAIN", "Reason=being cleaned"], check=True)
    try:
        assert "being" in _errors(sound)["virtual node ovs1"]
    finally:
        sound.cluster.run([*update, "State=RESUME"], check=True)


def test_a_user_without_rights_gets_warnings_not_errors(sound: Rig) -> None:
    # A reconfigured slurmctld does not hear its nodes for a moment.
    _wait_until_sound(sound)
    assert not _errors(sound, user="alice")
    assert "run overspill check as root" in overspill(sound, "check", user="alice").stdout


def test_munge_that_is_gone_is_told(sound: Rig) -> None:
    sound.cluster.daemon("munged").stop()
    try:
        assert "slurmctld" in _errors(sound)
    finally:
        sound.cluster.daemon("munged").start()


def test_a_clock_that_is_wrong_is_measured(sound: Rig) -> None:
    assert any(it["subject"] == "site site-a: clock" and it["level"] == "ok" for it in _found(sound))


def test_the_sizes_of_nodes_and_site_are_compared(sound: Rig) -> None:
    (finding,) = [it for it in _found(sound) if it["subject"] == "site site-a: size"]
    assert finding["says"] == "its virtual nodes claim 64 CPUs, the site gives us 8"


def test_records_that_cannot_be_written_are_told(new_rig: Callable[..., Rig]) -> None:
    rig = new_rig(policy="overspill_mode=always")
    rig.cluster.daemon("sidecar").stop()
    for name in ("decisions.db", "events.db"):
        records = rig.cluster.path(f"/var/lib/overspill/{name}")
        for file in records.parent.glob(f"{name}*"):
            file.unlink()
        records.mkdir()
    rig.cluster.daemon("sidecar").start()
    _wait_until_sound(rig)
    warned = {it["subject"]: it["says"] for it in _found(rig) if it["level"] == "warning"}
    assert "they are in memory only" in warned["router: records"]
    assert "they are in memory only" in warned["relay: records"]


def _wait_until_sound(rig: Rig) -> None:
    """Wait until nothing is wrong with the cluster.

    Raises:
        AssertionError: that names what still is.
    """
    errors: dict[str, str] = {}

    def is_sound() -> bool:
        nonlocal errors
        errors = _errors(rig)
        return not errors

    assert poll(is_sound, timeout_s=60, interval_s=0.05), f"wrong after 60 s: {errors}"


def _found(rig: Rig, *, at: str = "cluster", user: str = "root") -> list[dict[str, str]]:
    done = overspill(rig, "check", "--json", at=at, user=user)
    assert done.stdout, done.stderr
    findings: list[dict[str, str]] = json.loads(done.stdout)["findings"]
    assert done.returncode == any(finding["level"] == "error" for finding in findings)
    return findings


def _errors(rig: Rig, *, at: str = "cluster", user: str = "root") -> dict[str, str]:
    return {it["subject"]: it["says"] for it in _found(rig, at=at, user=user) if it["level"] == "error"}
