"""What breaks, and what then: faults injected for real, on the real Slurm."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.diversion import (
    job_at_a_dead_site,
    start_requeued,
    submit_diverted,
    wait_until,
    wait_until_diverting,
    wait_until_not_diverting,
)
from tests.e2e.ticking import ticked, ticking
from tests.rig import Rig
from tests.rig.observing import events_of
from tests.rig.routing import would_divert


def _runs_locally(rig: Rig) -> float:
    """Submit a job, see it complete on `batch`, and return how long sbatch took in seconds."""
    started = time.monotonic()
    job_id = rig.sbatch("#!/bin/bash\necho here\n")
    took_s = time.monotonic() - started
    job = rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=30)
    assert (job["Partition"], rig.output(job_id)) == ("batch", b"here\n")
    return took_s


@pytest.fixture
def without_sidecar(rig: Rig) -> Iterator[Rig]:
    """The rig with no sidecar and no socket file; the sidecar is back afterwards."""
    rig.cluster.daemon("sidecar").stop()
    yield rig
    rig.cluster.daemon("sidecar").start()
    wait_until_diverting(rig)


def test_without_a_sidecar_jobs_run_locally(without_sidecar: Rig) -> None:
    _runs_locally(without_sidecar)


def test_a_stale_socket_file_costs_nothing_but_the_diversion(without_sidecar: Rig) -> None:
    path = without_sidecar.cluster.path("/run/overspill/router.sock")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    _runs_locally(without_sidecar)


def test_a_hung_sidecar_delays_one_submission_and_no_other(rig: Rig) -> None:
    rig.cluster.daemon("sidecar").signal(signal.SIGSTOP)
    try:
        for _ in range(4):
            assert _runs_locally(rig) < 5  # not a benchmark: a shim without a deadline would wait for ever
    finally:
        rig.cluster.daemon("sidecar").signal(signal.SIGCONT)
    wait_until_diverting(rig)


def test_a_killed_sidecar_is_not_missed_and_takes_up_its_jobs_again(rig: Rig) -> None:
    job_id = submit_diverted(rig, ticking(300))
    wait_until(lambda: b"line 20" in rig.output(job_id), timeout_s=30, what="the job to print")
    rig.cluster.daemon("sidecar").signal(signal.SIGKILL)
    _runs_locally(rig)
    rig.cluster.daemon("sidecar").start()
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    assert rig.output(job_id) == ticked(300)
    wait_until_diverting(rig)


def test_an_unreachable_agent_keeps_jobs_at_home(rig: Rig) -> None:
    rig.site.daemon("agent").stop()
    try:
        wait_until_not_diverting(rig)
        _runs_locally(rig)
    finally:
        rig.site.daemon("agent").start()
    wait_until_diverting(rig)


@pytest.mark.timeout(300)
def test_a_job_that_finds_its_agent_gone_goes_home_and_runs(rig: Rig) -> None:
    with job_at_a_dead_site(rig, "#!/bin/bash\necho here\n") as job_id:
        job = rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=90)
    assert (job["Partition"], rig.output(job_id)) == ("batch", b"here\n")
    wait_until_diverting(rig)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_restarted_in_mid_job_loses_not_a_byte(rig: Rig, how: signal.Signals) -> None:
    job_id = submit_diverted(rig, ticking(400))
    wait_until(lambda: b"line 20" in rig.output(job_id), timeout_s=30, what="the job to print")
    if how is signal.SIGKILL:
        rig.site.daemon("agent").signal(how)
    else:
        rig.site.daemon("agent").stop()
    rig.site.daemon("agent").start()
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=90)
    assert rig.output(job_id) == ticked(400)


def test_a_network_cut_in_mid_job_loses_not_a_byte(rig: Rig) -> None:
    job_id = submit_diverted(rig, ticking(400))
    wait_until(lambda: b"line 20" in rig.output(job_id), timeout_s=30, what="the job to print")
    rig.network.cut()
    try:
        time.sleep(6)  # the fault's own length: longer than a keepalive, shorter than any lease
    finally:
        rig.network.heal()
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=90)
    assert rig.output(job_id) == ticked(400)


def test_a_killed_slurmstepd_takes_the_remote_run_with_it(rig: Rig) -> None:
    marker = f"sleep 8{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(rig, f"#!/bin/bash\necho ready\n{marker}\n")
    wait_until(lambda: b"ready" in rig.output(job_id), timeout_s=30, what="the job to print")
    stepd = rig.cluster.run(["pgrep", "-f", rf"slurmstepd: \[{job_id}\."], check=True).stdout.split()
    rig.cluster.run(["kill", "-KILL", *stepd], check=True)

    def is_gone() -> bool:
        return marker not in rig.site.run(["ps", "-eo", "args="], check=True).stdout

    wait_until(is_gone, timeout_s=30, what="the remote process to be stopped")
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)


@pytest.mark.timeout(180)
def test_a_sidecar_that_restarts_while_a_requeued_job_dies_starts_nothing_of_the_next_attempt(rig: Rig) -> None:
    marker = f"sleep 8{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(rig, f"#!/bin/bash\ntrap '' TERM\necho ready\n{marker} & wait\nwait\n")
    wait_until(lambda: b"ready" in rig.output(job_id), timeout_s=30, what="the job to print")
    assert _runs_of(rig, job_id) == {0}
    rig.cluster.run(["scontrol", "requeue", str(job_id)], check=True)
    rig.cluster.daemon("sidecar").signal(signal.SIGKILL)
    rig.cluster.daemon("sidecar").start()
    rig.wait_for_state(job_id, "PENDING", timeout_s=60)
    # A relay that comes after the dying proxy's end has to look twice, 30 s apart; TERM takes KillWait more.
    wait_until(lambda: marker not in _processes(rig), timeout_s=90, what="the remote processes to be gone")
    assert _runs_of(rig, job_id) == {0}
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    wait_until_diverting(rig)


@pytest.mark.timeout(180)
def test_an_attempt_that_starts_while_no_relay_is_there_does_not_run_beside_the_one_before(rig: Rig) -> None:
    marker = f"sleep 8{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(rig, f"#!/bin/bash\ntrap '' TERM\necho attempt $SLURM_RESTART_COUNT\n{marker}\n")
    wait_until(lambda: b"attempt" in rig.output(job_id), timeout_s=30, what="the job to print")
    rig.cluster.daemon("sidecar").stop()
    rig.cluster.run(["scontrol", "requeue", str(job_id)], check=True)
    start_requeued(rig, job_id)
    rig.wait_for_state(job_id, "RUNNING", timeout_s=60)
    rig.cluster.daemon("sidecar").start()

    def has_begun() -> bool:
        assert _processes(rig).count(f"\n{marker}\n") <= 1
        return b"attempt 1" in rig.output(job_id)

    wait_until(has_begun, timeout_s=60, what="the next attempt")
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    wait_until_diverting(rig)


def _processes(rig: Rig) -> str:
    return rig.site.run(["ps", "-eo", "args="], check=True).stdout


def _runs_of(rig: Rig, job_id: int) -> frozenset[int]:
    """Return the restart counts of the attempts that the site's log tells of."""
    counts = (event.get("restart_count") for event in events_of(rig.site, job_id))
    return frozenset(count for count in counts if isinstance(count, int))


@contextmanager
def _client_certificate(rig: Rig, pem: bytes) -> Iterator[None]:
    """Give the running sidecar another certificate, and its own back at the end."""
    path = "/var/lib/overspill/pki/site-a/cluster.pem"
    own = rig.cluster.path(path).read_bytes()
    try:
        rig.cluster.write(path, pem, user="slurm", mode=0o600)
        yield
    finally:
        rig.cluster.write(path, own, user="slurm", mode=0o600)


@pytest.mark.parametrize("fault", ["foreign", "expired", "other-cluster"])
def test_a_bad_client_certificate_keeps_jobs_at_home(rig: Rig, fault: str) -> None:
    name = "elsewhere" if fault == "other-cluster" else "rig"
    pem = rig.certificates.issue(name, is_expired=fault == "expired", is_foreign=fault == "foreign")
    with _client_certificate(rig, pem):
        wait_until(lambda: not would_divert(rig), timeout_s=30, what="the sidecar to find out")
        _runs_locally(rig)
    wait_until_diverting(rig)


_STRANGER = """
import json, socket, sys
from overspill import proxy_framing as framing
hello = {"protocol": 1, "slurm_job_id": int(sys.argv[1]), "restart_count": 0, "cwd": "Lw==", "umask": 18, "rlimits": {},
         "has_stdin": False, "is_output_joined": True, "stdout": 0, "stderr": 0}
relay = socket.socket(socket.AF_UNIX)
relay.settimeout(20)
relay.connect("/run/overspill/relay.sock")
opening = {"HELLO": json.dumps(hello).encode(), "SCRIPT": b"#!/bin/sh\\n", "ARGV": b"x\\0", "ENV": b"A=b\\0"}
for name, payload in opening.items():
    try:
        relay.sendall(framing.encode(framing.FrameType[name], payload))
    except BrokenPipeError:
        break
try:
    print(len(relay.recv(4096)))
except ConnectionResetError:
    print(0)
"""


def test_a_foreign_uid_gets_nothing_from_the_relay(rig: Rig) -> None:
    job_id = submit_diverted(rig, ticking(200))
    wait_until(lambda: b"line 5" in rig.output(job_id), timeout_s=30, what="the job to print")
    stranger = rig.cluster.run(
        ["/usr/bin/python3", "-c", _STRANGER, str(job_id)],
        user="bob",
        env={"PYTHONPATH": "/opt/overspill/lib"},
        check=True,
    )
    assert stranger.stdout.strip() == "0"
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    assert rig.output(job_id) == ticked(200)
