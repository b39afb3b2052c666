"""Jobs that their site does not take, on a real Slurm with everything of Overspill: they run at home, once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.diversion import submit_diverted, wait_until, wait_until_diverting
from tests.rig import Rig

_SIDECAR_TOML = "/etc/overspill/sidecar.toml"
_AGENT_TOML = "/etc/overspill/agent.toml"
_HERE = "#!/bin/bash\necho here $1\nhostname\n"


@pytest.fixture(name="rig", scope="module")
def _rig() -> Iterator[Rig]:
    """A rig whose site does not know bob, and whose relay waits 3 s for an absent agent."""
    with Rig.up(policy="overspill_mode=always") as rig:
        rig.site.replace(_AGENT_TOML, '"bob" = "bob"\n', "")
        rig.cluster.replace(_SIDECAR_TOML, "unreachable_grace_s = 5.0", "unreachable_grace_s = 3.0")
        for daemon in (rig.site.daemon("agent"), rig.cluster.daemon("sidecar")):
            daemon.stop()
            daemon.start()
        wait_until_diverting(rig)
        yield rig


def _fill(rig: Rig) -> int:
    """Return a job that takes the whole virtual node: others wait for it."""
    filler = rig.sbatch("#!/bin/sh\nsleep 600\n", "--ntasks=8")
    rig.wait_for_state(filler, "RUNNING")
    return filler


def _ran_at_home(rig: Rig, job_id: int | str, *, user: str) -> None:
    job = rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    assert (job["Partition"], job["ExitCode"]) == ("batch", "0:0")
    assert rig.output(job_id) == f"here\n{job['BatchHost']}\n".replace(job["BatchHost"], "cluster").encode()
    assert '"refused_by":["site-a"]' in job["AdminComment"]
    assert user in job["UserId"]


def test_a_job_of_a_user_whom_the_site_does_not_know_runs_at_home(rig: Rig) -> None:
    job_id = rig.sbatch(_HERE, user="bob")
    wait_until(lambda: rig.job(job_id)["Restarts"] == "1", timeout_s=60, what="the job to be sent home")
    _ran_at_home(rig, job_id, user="bob")


def test_the_task_that_has_its_arrays_id_goes_home_and_leaves_the_others_as_they_are(rig: Rig) -> None:
    array = rig.sbatch(_HERE + "[ $SLURM_ARRAY_TASK_ID = 3 ] || sleep 5\n", "--array=1-3%2", user="bob")
    for number in (3, 2, 1):
        _ran_at_home(rig, f"{array}_{number}", user="bob")
        assert rig.job(f"{array}_{number}")["Restarts"] == "1"
    assert rig.job(f"{array}_3")["JobId"] == str(array)


@pytest.mark.timeout(240)
def test_jobs_cancelled_as_they_leave_never_run(rig: Rig) -> None:
    job_ids = []
    for number in range(12):
        job_id = submit_diverted(rig, "#!/bin/sh\necho $SLURM_JOB_ID >>ran.$SLURM_JOB_ID\n", user="bob")
        job_ids.append(job_id)
        rig.wait_for_state(job_id, ["RUNNING", "COMPLETING"])
        time.sleep(number * 0.03)  # the leaving takes about 0.3 s: each is cancelled at another moment of it
        rig.cluster.run(["scancel", str(job_id)], user="bob", check=True)
    for job_id in job_ids:
        rig.wait_for_state(job_id, "CANCELLED", timeout_s=30)
    ran = {path.name for path in rig.cluster.path("/home/bob").glob("ran.*")}
    assert not ran & {f"ran.{job_id}" for job_id in job_ids}


def test_a_job_that_must_not_be_requeued_runs_at_home_all_the_same(rig: Rig) -> None:
    job_id = rig.sbatch(_HERE, "--no-requeue", user="bob")
    _ran_at_home(rig, job_id, user="bob")
    assert rig.job(job_id)["Requeue"] == "0"


def test_a_job_that_finds_no_agent_runs_at_home_after_the_grace(rig: Rig) -> None:
    filler = _fill(rig)
    job_id = rig.sbatch(_HERE)
    assert rig.job(job_id)["Partition"] == "overspill"
    rig.site.daemon("agent").stop()
    try:
        rig.cluster.run(["scancel", str(filler)], user="alice", check=True)
        _ran_at_home(rig, job_id, user="alice")
    finally:
        rig.site.daemon("agent").start()
    wait_until_diverting(rig)


def test_a_job_that_its_user_sent_to_a_site_that_refuses_it_fails_with_one_clear_line(rig: Rig) -> None:
    job_id = rig.sbatch(_HERE, "--partition=overspill", "--ntasks=9")
    job = rig.wait_for_state(job_id, "FAILED")
    assert (job["ExitCode"], job["Restarts"]) == ("1:0", "0")
    assert rig.output(job_id) == (
        b"overspill: site-a does not take the job: the run asks for 9 CPUs, 9000 MiB and 0 GPUs in one place; "
        b"the largest of this site has 8, 16384 MiB and 0\n"
    )


def test_a_user_may_cancel_a_job_that_waits_for_an_absent_agent(rig: Rig) -> None:
    filler = _fill(rig)
    job_id = rig.sbatch(_HERE, "--partition=overspill")
    rig.site.daemon("agent").stop()
    try:
        rig.cluster.run(["scancel", str(filler)], user="alice", check=True)
        rig.wait_for_state(job_id, "RUNNING")
        rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
        rig.wait_for_state(job_id, "CANCELLED")
    finally:
        rig.site.daemon("agent").start()
    wait_until_diverting(rig)
