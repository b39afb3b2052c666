"""A job that Slurm has requeued while its old run may live behind a cut: no two runs of it, and none lost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.diversion import start_requeued, submit_diverted, wait_until, wait_until_diverting
from tests.rig import Rig
from tests.rig.overspill_conf import SIDECAR_CONF
from tests.rig.slurm_conf import VIRTUAL_NODE


def _site_processes(rig: Rig, marker: str) -> int:
    shown = rig.site.run(["ps", "-eo", "args="], check=True).stdout
    return sum(line.strip() == marker for line in shown.splitlines())


@pytest.mark.timeout(400)
def test_a_requeued_job_does_not_start_while_its_old_run_may_live_behind_a_cut(rig: Rig) -> None:
    marker = f"sleep 7{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(
        rig, f"#!/bin/bash\necho ready $SLURM_RESTART_COUNT\n[ -v SLURM_RESTART_COUNT ] || {marker}\n"
    )
    wait_until(lambda: _site_processes(rig, marker) == 1, timeout_s=30, what="the job to run")
    rig.network.cut()
    try:
        rig.cluster.run(["scontrol", "requeue", str(job_id)], check=True)
        wait_until(lambda: '"unfenced_at":"site-a"' in _admin_comment(rig, job_id), timeout_s=60, what="the mark")
        # What Slurm waits by itself: a job that nobody holds back starts within it.
        time.sleep(150)
        assert rig.job(job_id)["JobState"] == "PENDING"
        assert _site_processes(rig, marker) == 1
    finally:
        rig.network.heal()
    wait_until(lambda: _site_processes(rig, marker) == 0, timeout_s=60, what="the old run to be stopped")
    wait_until(lambda: "unfenced_at" not in _admin_comment(rig, job_id), timeout_s=60, what="the mark to go")
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=180)
    assert rig.output(job_id) == b"ready 1\n"
    wait_until_diverting(rig)


def _admin_comment(rig: Rig, job_id: int) -> str:
    shown = rig.cluster.run(["squeue", "--noheader", f"--jobs={job_id}", "--Format=admin_comment:500"], check=True)
    return shown.stdout


@pytest.mark.timeout(300)
def test_a_cut_longer_than_the_lease_ends_the_run_at_the_site_before_slurm_starts_the_job_again(
    new_rig: Callable[..., Rig],
) -> None:
    rig = new_rig(policy="overspill_mode=always")
    rig.cluster.replace(SIDECAR_CONF, "\nnodes = ", "\nlease_s = 15\nlease_margin_s = 20.0\nnodes = ")
    rig.cluster.daemon("sidecar").stop()
    rig.cluster.daemon("sidecar").start()
    wait_until_diverting(rig)
    marker = f"sleep 5{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(rig, f"#!/bin/bash\n[ -v SLURM_RESTART_COUNT ] || {marker}\necho here\n")
    wait_until(lambda: _site_processes(rig, marker) == 1, timeout_s=30, what="the job to run")
    rig.network.cut()
    wait_until(lambda: _site_processes(rig, marker) == 0, timeout_s=60, what="the agent to end the run")
    assert rig.job(job_id)["Restarts"] == "0"
    wait_until(lambda: rig.job(job_id)["Restarts"] == "1", timeout_s=90, what="Slurm to start the job again")
    start_requeued(rig, job_id)
    job = rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=90)
    assert (job["Partition"], rig.output(job_id)) == ("batch", b"here\n")


@pytest.mark.timeout(400)
def test_a_job_whose_slurmstepd_was_killed_behind_a_cut_waits_for_the_end_of_its_run(rig: Rig) -> None:
    marker = f"sleep 4{time.monotonic_ns() % 10**7:07d}"
    job_id = submit_diverted(rig, f"#!/bin/bash\n{marker}\n")
    wait_until(lambda: _site_processes(rig, marker) == 1, timeout_s=30, what="the job to run")
    time.sleep(25)  # a slurmd that restarts sooner does not tell slurmctld that the job is missing
    rig.network.cut()
    try:
        rig.cluster.run(["pkill", "-KILL", "-f", rf"slurmstepd: \[{job_id}\."], check=True)
        slurmd = rig.cluster.daemon(f"slurmd@{VIRTUAL_NODE}")
        slurmd.signal(signal.SIGKILL)
        slurmd.start()
        wait_until(lambda: rig.job(job_id)["Restarts"] == "1", timeout_s=120, what="Slurm to requeue the job")
        wait_until(lambda: '"unfenced_at":"site-a"' in _admin_comment(rig, job_id), timeout_s=60, what="the mark")
        assert _site_processes(rig, marker) == 1
    finally:
        rig.network.heal()
    wait_until(lambda: _site_processes(rig, marker) == 0, timeout_s=60, what="the old run to be stopped")
    wait_until(lambda: "unfenced_at" not in _admin_comment(rig, job_id), timeout_s=60, what="the mark to go")
    rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    wait_until_diverting(rig)
