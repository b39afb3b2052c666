"""A site that is away or fails its jobs: what Slurm's nodes show, and where the jobs run."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.e2e.diversion import (
    drain_reason,
    submit_diverted,
    wait_until,
    wait_until_diverting,
    wait_until_not_diverting,
)
from tests.rig import Rig
from tests.rig.overspill_conf import AGENT_CONF, SIDECAR_CONF
from tests.rig.routing import would_divert
from tests.rig.slurm_conf import VIRTUAL_NODE

_HERE = "#!/bin/bash\necho here\n"


def _scontrol(rig: Rig, *arguments: str) -> None:
    rig.cluster.run(["scontrol", "update", f"NodeName={VIRTUAL_NODE}", *arguments], check=True)


def test_an_outage_drains_the_sites_node_and_its_end_resumes_it(rig: Rig) -> None:
    rig.network.cut()
    try:
        wait_until(
            lambda: drain_reason(rig).startswith("overspill: site-a unreachable since 20"),
            timeout_s=60,
            what="the drain",
        )
    finally:
        rig.network.heal()
    wait_until(lambda: not drain_reason(rig), timeout_s=60, what="the node to be used again")
    wait_until_diverting(rig)


def test_a_site_that_its_operator_drains_keeps_its_runs_and_takes_no_new_ones(rig: Rig) -> None:
    job_id = submit_diverted(rig, "#!/bin/bash\nfor i in $(seq 300); do sleep 0.1; done\nexit 4\n")
    rig.wait_for_state(job_id, ["RUNNING"], timeout_s=60)
    _at_agent(rig, "drain", "new disks")
    try:
        wanted = "overspill: site-a takes no new runs: new disks"
        wait_until(lambda: drain_reason(rig) == wanted, timeout_s=60, what="the drain")
        wait_until_not_diverting(rig)
        rig.wait_for_state(job_id, ["FAILED"], timeout_s=120)
        assert rig.job(job_id)["ExitCode"] == "4:0"
    finally:
        _at_agent(rig, "resume")
    wait_until(lambda: not drain_reason(rig), timeout_s=60, what="the node to be used again")
    wait_until_diverting(rig)


def _at_agent(rig: Rig, *arguments: str) -> None:
    program = ["/opt/overspill/venv/bin/python", "-m", "overspill_agent", *arguments]
    rig.site.run(program, env={"PYTHONPATH": "/opt/overspill/lib"}, check=True)


def test_an_admins_drain_outlives_an_outage(rig: Rig) -> None:
    _scontrol(rig, "State=DRAIN", "Reason=kernel update")
    try:
        rig.site.daemon("agent").stop()
        rig.cluster.daemon("sidecar").stop()
        rig.cluster.daemon("sidecar").start()
        time.sleep(20)  # the outage's own length: twice what it takes the relay to drain a node
        rig.site.daemon("agent").start()
        time.sleep(6)  # and much more than makes it use one again
        assert drain_reason(rig) == "kernel update"
    finally:
        _scontrol(rig, "State=UNDRAIN")
    wait_until_diverting(rig)


def test_a_relay_that_was_away_when_the_site_came_back_resumes_the_node(rig: Rig) -> None:
    rig.site.daemon("agent").stop()
    wait_until(lambda: bool(drain_reason(rig)), timeout_s=60, what="the drain")
    rig.cluster.daemon("sidecar").stop()
    rig.site.daemon("agent").start()
    assert drain_reason(rig).startswith("overspill: site-a unreachable")
    rig.cluster.daemon("sidecar").start()
    wait_until(lambda: not drain_reason(rig), timeout_s=60, what="the node to be used again")
    wait_until_diverting(rig)


def test_a_job_that_can_only_start_at_a_dead_site_runs_at_home(rig: Rig) -> None:
    _scontrol(rig, "State=DRAIN", "Reason=overspill: held for the test")
    rig.cluster.daemon("sidecar").stop()
    job_id = rig.sbatch(_HERE, "--hold", "--partition=overspill")
    comment = '{"overspill":{"decision":"d","site":"site-a","partition":"batch"}}'
    rig.cluster.run(["scontrol", "update", f"JobId={job_id}", f"AdminComment={comment}"], check=True)
    rig.cluster.run(["scontrol", "release", str(job_id)], check=True)
    rig.site.daemon("agent").stop()
    try:
        rig.cluster.daemon("sidecar").start()
        job = rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    finally:
        rig.site.daemon("agent").start()
    assert (job["Partition"], rig.output(job_id)) == ("batch", b"here\n")
    wait_until_diverting(rig)


def test_a_node_that_cannot_hand_over_heals_by_itself(rig: Rig) -> None:
    proxy = rig.path / "lib/overspill_proxy/__main__.py"
    aside = proxy.with_suffix(".aside")
    proxy.rename(aside)
    try:
        job_id = submit_diverted(rig, _HERE)
        wait_until(lambda: drain_reason(rig).startswith("overspill: cannot hand over"), timeout_s=30, what="the drain")
    finally:
        aside.rename(proxy)
    wait_until(lambda: not drain_reason(rig), timeout_s=60, what="the node to be used again")
    rig.wait_for_state(job_id, ["PENDING"], timeout_s=60)
    rig.cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], check=True)
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    assert rig.output(job_id) == b"here\n"


def _take_the_runs_directory_away(rig: Rig) -> None:
    rig.site.run(["mv", "/var/lib/overspill-agent/runs", "/var/lib/overspill-agent/gone"], check=True)


def _have_runners_end_at_once(rig: Rig) -> None:
    lines = [line for line in rig.site.path(AGENT_CONF).read_text().splitlines() if not line.startswith("python = ")]
    rig.site.rewrite(AGENT_CONF, "\n".join(lines).replace("[local]\n", '[local]\npython = "/bin/false"\n'))
    rig.site.daemon("agent").stop()
    rig.site.daemon("agent").start()


@pytest.mark.timeout(360)
@pytest.mark.parametrize("break_site", [_take_the_runs_directory_away, _have_runners_end_at_once])
def test_a_site_that_fails_every_job_loses_none(new_rig: Callable[..., Rig], break_site: Callable[[Rig], None]) -> None:
    """F31. What cannot be launched is rejected by the site; what ends at once leaves no word of the script."""
    rig = new_rig(policy="overspill_mode=always")
    wait_until_diverting(rig)
    break_site(rig)
    wait_until(lambda: would_divert(rig), timeout_s=60, what="the router to divert")
    jobs = [rig.sbatch(_HERE) for _ in range(20)]
    wait_until(
        lambda: drain_reason(rig).startswith("overspill: site-a fails its jobs ("), timeout_s=60, what="the drain"
    )
    for job_id in jobs:
        job = rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=300)
        assert (job["Partition"], rig.output(job_id)) == ("batch", b"here\n")


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
    rig.cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"], check=True)
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
