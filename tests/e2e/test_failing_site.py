"""A site that fails every job: it is left alone, and the jobs run at home."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.diversion import drain_reason, wait_until, wait_until_diverting
from tests.rig import Rig
from tests.rig.overspill_conf import AGENT_CONF
from tests.rig.routing import would_divert

_HERE = "#!/bin/bash\necho here\n"


def _take_the_runs_directory_away(rig: Rig) -> None:
    rig.site.run(["mv", "/var/lib/overspill-agent/runs", "/var/lib/overspill-agent/gone"], check=True)


def _have_runners_end_at_once(rig: Rig) -> None:
    lines = [line for line in rig.site.path(AGENT_CONF).read_text().splitlines() if not line.startswith("python = ")]
    rig.site.rewrite(AGENT_CONF, "\n".join(lines).replace("[local]\n", '[local]\npython = "/bin/false"\n'))
    rig.site.daemon("agent").stop()
    rig.site.daemon("agent").start()


def _is_completed(rig: Rig, job_id: int) -> bool:
    """Look at a job, and spare it the two minutes that Slurm lets a requeued one wait."""
    job = rig.job(job_id)
    if job["JobState"] == "PENDING" and job["Reason"] == "BeginTime":
        # It may have started meanwhile.
        rig.cluster.run(["scontrol", "update", f"JobId={job_id}", "StartTime=now"])
    return job["JobState"] == "COMPLETED"


@pytest.mark.timeout(300)
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
    wait_until(lambda: {_is_completed(rig, job_id) for job_id in jobs} == {True}, timeout_s=120, what="all jobs to end")
    for job_id in jobs:
        job = rig.job(job_id)
        assert (job["Partition"], rig.output(job_id)) == ("batch", b"here\n")
    came_back = [job for job in map(rig.job, jobs) if job["Restarts"] != "0"]
    assert came_back
    for job in came_back:
        # Whoever looks at it again does not send it there.
        assert json.loads(job["AdminComment"])["overspill"]["refused_by"] == ["site-a"]
