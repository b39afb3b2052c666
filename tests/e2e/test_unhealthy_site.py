"""A site that is away or fails its jobs: what Slurm's nodes show, and where the jobs run."""

from __future__ import annotations

import time

from tests.e2e.diversion import (
    drain_reason,
    start_requeued,
    submit_diverted,
    wait_until,
    wait_until_diverting,
    wait_until_not_diverting,
)
from tests.rig import Rig
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
    # In this order: a relay would undo a drain in its own words.
    rig.cluster.daemon("sidecar").stop()
    _scontrol(rig, "State=DRAIN", "Reason=overspill: held for the test")
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
    squeue = ["squeue", "--noheader"]
    wait_until(lambda: not rig.cluster.run(squeue, check=True).stdout, timeout_s=60, what="earlier jobs to be over")
    proxy = rig.path / "lib/overspill_proxy/__main__.py"
    aside = proxy.with_suffix(".aside")
    proxy.rename(aside)
    try:
        job_id = submit_diverted(rig, _HERE)
        wait_until(lambda: drain_reason(rig).startswith("overspill: cannot hand over"), timeout_s=30, what="the drain")
    finally:
        aside.rename(proxy)
    wait_until(lambda: not drain_reason(rig), timeout_s=60, what="the node to be used again")
    start_requeued(rig, job_id)
    rig.wait_for_state(job_id, ["COMPLETED"], timeout_s=60)
    assert rig.output(job_id) == b"here\n"
