"""Certificates on the real road: one-time codes, short lives, wrong clocks, and nothing below TLS 1.3."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from cryptography import x509

from tests.e2e.commands import overspill
from tests.e2e.diversion import submit_diverted, wait_until, wait_until_diverting
from tests.rig import Rig
from tests.rig.host import Host
from tests.rig.overspill_conf import AGENT_CONF, AGENT_PORT, CLUSTER_PKI, RUNNER_PORT, SITE_PKI

NewRig = Callable[..., Rig]
_CLUSTER_PEM = f"{CLUSTER_PKI}/site-a/cluster.pem"
#: Shorter than any that a site would choose: several fit into one job.
_LIFE_S = 20


def _invite(rig: Rig, cluster: str = "rig") -> list[str]:
    """Return the words of the command line that the operator is told to send."""
    done = overspill(rig, "pki", "invite", cluster, at="site")
    (line,) = re.findall(r"^ +overspill (enroll .*)$", done.stdout, re.MULTILINE)
    return str(line).split()


def _leaf(host: Host, path: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(host.path(path).read_bytes())


def test_a_cluster_gets_its_certificate_for_a_code_that_is_good_once(new_rig: NewRig) -> None:
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    assert overspill(rig, "pki", "revoke", "rig", at="site").returncode == 0
    wait_until(lambda: "revoked" in _status(rig), timeout_s=30, what="the site to refuse the cluster")

    command = _invite(rig)
    enrolled = overspill(rig, *command, "--site", "site-a")
    assert enrolled.returncode == 0, enrolled.stderr
    assert "next: overspill check" in enrolled.stdout
    pem = rig.cluster.path(_CLUSTER_PEM)
    assert (pem.stat().st_mode & 0o777, pem.owner()) == (0o600, "slurm")
    wait_until_diverting(rig)
    assert rig.wait_for_state(submit_diverted(rig, "#!/bin/sh\n:\n"), ["COMPLETED"], timeout_s=60)

    again = overspill(rig, *command, "--site", "site-a")
    assert (again.returncode, "wrong, used, or expired" in again.stderr) == (1, True)
    strange = overspill(rig, "enroll", f"site:{RUNNER_PORT}", command[2][:-6], "--site", "site-a")
    assert (strange.returncode, "no enrolment code" in strange.stderr) == (1, True)


def test_a_cluster_that_cannot_enroll_can_have_its_certificate_carried_to_it(new_rig: NewRig) -> None:
    rig = new_rig(policy="overspill_mode=always")
    assert overspill(rig, "pki", "revoke", "rig", at="site").returncode == 0
    wait_until(lambda: "revoked" in _status(rig), timeout_s=30, what="the site to refuse the cluster")

    issued = overspill(rig, "pki", "issue", "rig", "--out", "/root/rig", at="site")
    assert (issued.returncode, "SlurmUser's; delete /root/rig" in issued.stdout) == (0, True), issued.stderr
    carried = rig.site.path("/root/rig")
    assert {each.name: each.stat().st_mode & 0o777 for each in carried.iterdir()} == {
        "ca.pem": 0o644,
        "cluster.pem": 0o600,
    }
    for name in ("ca.pem", "cluster.pem"):
        # Into the file that is SlurmUser's already.
        rig.cluster.path(f"{CLUSTER_PKI}/site-a/{name}").write_bytes((carried / name).read_bytes())
    wait_until_diverting(rig)
    assert rig.wait_for_state(submit_diverted(rig, "#!/bin/sh\n:\n"), ["COMPLETED"], timeout_s=60)


def _status(rig: Rig) -> str:
    return overspill(rig, "check", "--quiet").stdout


def test_certificates_that_end_while_a_job_runs_cost_it_no_byte(new_rig: NewRig) -> None:
    rig = new_rig(policy="overspill_mode=always")
    conf = rig.site.path(AGENT_CONF).read_text()
    rig.site.write(AGENT_CONF, conf.replace("[pki]\n", f"[pki]\ncertificate_life_s = {_LIFE_S}\n"))
    rig.site.daemon("agent").stop()
    rig.site.daemon("agent").start()
    assert overspill(rig, "pki", "renew", at="site").returncode == 0
    assert overspill(rig, *_invite(rig), "--site", "site-a").returncode == 0
    wait_until_diverting(rig)

    count = 2 * 10 * _LIFE_S
    script = f"#!/bin/bash\nfor i in $(seq {count}); do echo line $i of the job; sleep 0.1; done\nexit 3\n"
    first = _leaf(rig.cluster, _CLUSTER_PEM)
    agents_first = _leaf(rig.site, f"{SITE_PKI}/agent.pem")
    job_id = submit_diverted(rig, script)
    ends = max(first.not_valid_after_utc, agents_first.not_valid_after_utc)
    wait_until(lambda: datetime.now(UTC) > ends, timeout_s=2 * _LIFE_S, what="both certificates to end")
    for path, host, before in (
        (_CLUSTER_PEM, rig.cluster, first),
        (f"{SITE_PKI}/agent.pem", rig.site, agents_first),
    ):
        now = _leaf(host, path)
        assert now.not_valid_after_utc > datetime.now(UTC)
        assert now.public_key() != before.public_key()
    # Whatever was connected with the old ones must connect anew, with what is in the files now.
    rig.network.cut()
    _wait_until_unconnected(rig)
    rig.network.heal()

    rig.wait_for_state(job_id, ["FAILED"], timeout_s=120)
    assert rig.job(job_id)["ExitCode"] == "3:0"
    assert rig.output(job_id) == b"".join(b"line %d of the job\n" % number for number in range(1, count + 1))
    renewed_at = _renewals(rig, "rig")
    assert len(renewed_at) >= 2
    # Router and relay both look after this directory; one of them renews.
    assert all(later - earlier > _LIFE_S / 3 for earlier, later in pairwise(renewed_at)), renewed_at


def _renewals(rig: Rig, name: str) -> list[float]:
    """Return when the site renewed the certificate of a cluster, or its own."""
    lines = map(json.loads, rig.site.path(f"{SITE_PKI}/issued.jsonl").read_text().splitlines())
    renewals = [line for line in lines if line["how"] == "renew" and name in line["names"]]
    return [datetime.fromisoformat(line["issued_at"]).timestamp() for line in renewals]


def _wait_until_unconnected(rig: Rig) -> None:
    established = ["ss", "-Htn", "state", "established", f"( dport = :{AGENT_PORT} )"]
    wait_until(
        lambda: not rig.cluster.run(established, check=True).stdout.strip(),
        timeout_s=60,
        what="the sidecar to give up its connections",
    )


@pytest.mark.parametrize("clock_error_s", [-600, 600])
def test_clocks_may_differ_by_ten_minutes(new_rig: NewRig, clock_error_s: int) -> None:
    rig = new_rig(policy="overspill_mode=always")
    rig.site.daemon("agent").stop()
    rig.site.daemon("agent").start(clock_error_s=clock_error_s)
    # What either end issues or signs now is from the other's future, or its past.
    assert overspill(rig, "pki", "renew", at="site").returncode == 0
    wait_until_diverting(rig)
    assert overspill(rig, *_invite(rig), "--site", "site-a").returncode == 0
    job_id = submit_diverted(rig, "#!/bin/sh\necho hello\n")
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    assert rig.output(job_id) == b"hello\n"


def test_every_tcp_port_of_ours_speaks_tls_1_3_and_nothing_below(rig: Rig) -> None:
    ports = {AGENT_PORT, RUNNER_PORT}
    assert _listening(rig.site) == ports
    assert _listening(rig.cluster) == set()
    for port in ports:
        versions = {version for version in ("tls1", "tls1_1", "tls1_2", "tls1_3") if _handshake(rig, port, version)}
        assert versions == {"tls1_3"}
        assert _plaintext_answer(rig, port) == b""


def _listening(host: Host) -> set[int]:
    """Return the TCP ports on which one of our daemons can be reached from outside."""
    lines = host.run(["ss", "-Htlnp"], check=True).stdout.splitlines()
    ours = [line.split()[3] for line in lines if "python" in line]
    return {int(address.rpartition(":")[2]) for address in ours if not address.startswith(("127.", "[::1]"))}


def _handshake(rig: Rig, port: int, version: str) -> bool:
    """Tell whether a handshake with just this version succeeds, by OpenSSL at its most lenient."""
    pki = f"{CLUSTER_PKI}/site-a"
    command = ["openssl", "s_client", f"-{version}", "-cipher", "ALL:@SECLEVEL=0", "-connect", f"site:{port}"]
    command += ["-CAfile", f"{pki}/ca.pem", "-cert", f"{pki}/cluster.pem", "-key", f"{pki}/cluster.pem"]
    done = subprocess.run(
        rig.cluster.command([*command, "-verify_return_error", "-brief"], cwd="/"),
        input=b"",
        capture_output=True,
        timeout=30,
        check=False,
    )
    return b"CONNECTION ESTABLISHED" in done.stderr


def _plaintext_answer(rig: Rig, port: int) -> bytes:
    """Return what the port answers to HTTP without TLS; a TLS alert is none."""
    program = (
        "import socket, sys; s = socket.create_connection(('site', int(sys.argv[1])), 10); s.settimeout(10)\n"
        "s.sendall(b'GET /v1/ca HTTP/1.1\\r\\nHost: site\\r\\n\\r\\n')\n"
        "try: data = s.recv(4096)\n"
        "except OSError: data = b''\n"
        "sys.stdout.write(data.hex() if data[:1] != b'\\x15' else '')"
    )
    done = rig.cluster.run(["/usr/bin/python3", "-c", program, str(port)], check=True)
    return bytes.fromhex(done.stdout)


def test_a_run_is_kept_with_what_the_cluster_signed_for_it(rig: Rig) -> None:
    job_id = submit_diverted(rig, "#!/bin/sh\necho audited\n", "--account=physics")
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    log = rig.site.path("/var/log/overspill/agent.log").read_text()
    (line,) = [line for line in log.splitlines() if f'"slurm_job_id": {job_id},' in line and "submit_accepted" in line]
    for fact in ('"user_name": "alice"', '"account": "alice"', '"slurm_account": "physics"', '"script_sha256": "'):
        assert fact in line
