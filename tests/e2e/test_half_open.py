"""Networks that lose every packet without a word: how soon both ends notice, and what is in the user's file after."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.diversion import submit_diverted, wait_until, wait_until_diverting
from tests.rig import Rig
from tests.rig.host import Host
from tests.rig.overspill_conf import AGENT_PORT, RUNNER_PORT

#: What the design allows, and the clock of a busy machine.
_NOTICED_S = 10
_LEEWAY_S = 5
_STEADY = "#!/bin/bash\necho ready\nfor i in $(seq 600); do echo line $i; sleep 0.02; done\n"
_BURST_LINES = 1_000_000
_BURST = f"#!/bin/bash\necho ready\nseq -f %099.0f {_BURST_LINES}\n"

_CUTS: dict[str, Callable[[Rig], None]] = {
    "home": lambda rig: rig.network.cut(),
    "runner": lambda rig: rig.network.cut_runners(),
}


@pytest.fixture(name="rig_to_cut")
def _rig_to_cut(rig: Rig) -> Iterator[Rig]:
    """The rig, whose network is whole again after the test, and its site in use."""
    yield rig
    rig.network.heal()
    wait_until_diverting(rig)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _steady_output() -> bytes:
    return b"ready\n" + b"".join(b"line %d\n" % number for number in range(1, 601))


def _burst_output() -> bytes:
    return b"ready\n" + b"".join(b"%099d\n" % number for number in range(1, _BURST_LINES + 1))


def _connections(host: Host, port: int) -> set[str]:
    """Return the established TCP connections from and to this port, as local and remote address."""
    shown = host.run(["ss", "-Htn", "state", "established", f"( dport = :{port} or sport = :{port} )"], check=True)
    return {" ".join(line.split()[2:4]) for line in shown.stdout.splitlines()}


@pytest.mark.timeout(240)
@pytest.mark.parametrize("cut_s", [3, 15, 40])
@pytest.mark.parametrize("where", list(_CUTS))
def test_a_cut_in_steady_output_and_in_a_burst_loses_no_byte_and_doubles_none(
    rig_to_cut: Rig, where: str, cut_s: int
) -> None:
    rig = rig_to_cut
    steady, burst = submit_diverted(rig, _STEADY), submit_diverted(rig, _BURST)
    wait_until(lambda: b"line 5\n" in rig.output(steady), timeout_s=60, what="steady output")
    wait_until(lambda: rig.output(burst).startswith(b"ready"), timeout_s=60, what="the burst")
    _CUTS[where](rig)
    try:
        time.sleep(cut_s)  # the fault's own length
    finally:
        rig.network.heal()
    for job_id in (steady, burst):
        rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=120)
    assert _sha256(rig.output(steady)) == _sha256(_steady_output())
    assert _sha256(rig.output(burst)) == _sha256(_burst_output())


@pytest.mark.timeout(180)
@pytest.mark.parametrize("where", list(_CUTS))
def test_both_ends_let_go_of_a_dead_connection_within_ten_seconds(rig_to_cut: Rig, where: str) -> None:
    rig = rig_to_cut
    port = {"home": AGENT_PORT, "runner": RUNNER_PORT}[where]
    hosts = [rig.cluster, rig.site] if where == "home" else [rig.site]
    job_id = submit_diverted(rig, "#!/bin/bash\necho ready\nsleep 40\necho done\n")
    wait_until(lambda: b"ready" in rig.output(job_id), timeout_s=60, what="the job to print")
    before = [_connections(host, port) for host in hosts]
    assert all(before)
    _CUTS[where](rig)
    try:
        for host, connections in zip(hosts, before, strict=True):
            wait_until(
                lambda: not connections & _connections(host, port),  # noqa: B023 - waits here
                timeout_s=_NOTICED_S + _LEEWAY_S,
                what=f"{host.name} to let go of {connections}",
            )
    finally:
        rig.network.heal()
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=120)
    assert rig.output(job_id) == b"ready\ndone\n"


@pytest.mark.timeout(180)
def test_a_cancel_that_is_given_while_the_site_is_cut_off_is_delivered_after(rig_to_cut: Rig) -> None:
    """F9."""
    rig = rig_to_cut
    marker = f"sleep 6{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(rig, f"#!/bin/bash\necho ready\n{marker}\n")
    wait_until(lambda: b"ready" in rig.output(job_id), timeout_s=60, what="the job to print")
    rig.network.cut()
    try:
        rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
        rig.wait_for_state(job_id, ["CANCELLED"], timeout_s=60)
        assert marker in rig.site.run(["ps", "-eo", "args="], check=True).stdout
    finally:
        rig.network.heal()
    wait_until(
        lambda: marker not in rig.site.run(["ps", "-eo", "args="], check=True).stdout,
        timeout_s=60,
        what="the remote process to be stopped",
    )
