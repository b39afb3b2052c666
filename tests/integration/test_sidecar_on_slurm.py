"""Jobs that their site does not take, on a real Slurm with everything of Overspill: they run at home, once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.diversion import wait_until, wait_until_diverting
from tests.rig import Rig

_SIDECAR_TOML = "/etc/overspill/sidecar.toml"
_AGENT_TOML = "/etc/overspill/agent.toml"
_HERE = "#!/bin/bash\necho here $1\nhostname\n"


@pytest.fixture(name="rig", scope="module")
def _rig() -> Iterator[Rig]:
    """A rig whose site does not know bob, and whose relay waits 3 s for an absent agent."""
    with Rig.up(policy="overspill_mode=always") as rig:
        agent_toml = rig.site.path(_AGENT_TOML).read_text().replace('bob = "bob"\n', "")
        rig.site.write(_AGENT_TOML, agent_toml)
        sidecar_toml = rig.cluster.path(_SIDECAR_TOML).read_text()
        sidecar_toml = sidecar_toml.replace("unreachable_grace_s = 60.0", "unreachable_grace_s = 3.0")
        rig.cluster.write(_SIDECAR_TOML, sidecar_toml)
        for daemon in (rig.site.daemon("agent"), rig.cluster.daemon("sidecar")):
            daemon.stop()
            daemon.start()
        wait_until_diverting(rig)
        yield rig


def _ran_at_home(rig: Rig, job_id: int, *, user: str) -> None:
    job = rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    assert (job["Partition"], job["ExitCode"]) == ("batch", "0:0")
    assert rig.output(job_id) == f"here\n{job['BatchHost']}\n".replace(job["BatchHost"], "cluster").encode()
    assert '"refused_by":["site-a"]' in job["AdminComment"]
    assert user in job["UserId"]


def test_a_job_of_a_user_whom_the_site_does_not_know_runs_at_home(rig: Rig) -> None:
    job_id = rig.sbatch(_HERE, user="bob")
    wait_until(lambda: rig.job(job_id)["Restarts"] == "1", timeout_s=20, what="the job to be sent home")
    _ran_at_home(rig, job_id, user="bob")


def test_a_job_that_must_not_be_requeued_runs_at_home_all_the_same(rig: Rig) -> None:
    job_id = rig.sbatch(_HERE, "--no-requeue", user="bob")
    _ran_at_home(rig, job_id, user="bob")
    assert rig.job(job_id)["Requeue"] == "0"


def test_a_job_that_finds_no_agent_runs_at_home_after_the_grace(rig: Rig) -> None:
    filler = rig.sbatch("#!/bin/sh\nsleep 600\n", "--ntasks=8")
    rig.wait_for_state(filler, "RUNNING")
    job_id = rig.sbatch(_HERE)
    assert rig.job(job_id)["Partition"] == "overspill"
    rig.site.daemon("agent").stop()
    try:
        rig.cluster.run(["scancel", str(filler)], user="alice", check=True)
        _ran_at_home(rig, job_id, user="alice")
    finally:
        rig.site.daemon("agent").start()
    wait_until_diverting(rig)


def test_a_user_may_cancel_a_job_that_waits_for_an_absent_agent(rig: Rig) -> None:
    filler = rig.sbatch("#!/bin/sh\nsleep 600\n", "--ntasks=8")
    rig.wait_for_state(filler, "RUNNING")
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
