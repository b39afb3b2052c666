"""What breaks at a site with an HTCondor pool, as the user sees it: from sbatch to the state and the output file."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.e2e.diversion import start_requeued, submit_diverted, wait_until, wait_until_diverting
from tests.e2e.ticking import ticked, ticking
from tests.rig import Rig

_LINES = 400
_TWICE = '#!/bin/bash\necho attempt ${SLURM_RESTART_COUNT:-0}\n[ -n "$SLURM_RESTART_COUNT" ] || exec sleep 1000\n'
#: Making images takes minutes on a machine that has none yet.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def pool_rig() -> Iterator[Rig]:
    with Rig.up(policy="overspill_mode=always", backend="htcondor") as running:
        wait_until_diverting(running)
        yield running


def _wait_for_line(rig: Rig, job_id: int, line: bytes) -> None:
    wait_until(lambda: line in rig.output(job_id), timeout_s=90, what=f"the job to print {line!r}")


def test_a_job_loses_not_a_byte_while_the_agent_is_killed(pool_rig: Rig) -> None:
    job_id = submit_diverted(pool_rig, ticking(_LINES, exit_code=5))
    _wait_for_line(pool_rig, job_id, b"line 20\n")
    agent = pool_rig.site.daemon("agent")
    agent.signal(signal.SIGKILL)
    agent.start()
    job = pool_rig.wait_for_state(job_id, ["FAILED", "COMPLETED"], timeout_s=90)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "5:0", "0")
    assert pool_rig.output(job_id) == ticked(_LINES)


def test_a_job_that_the_pools_operator_removes_runs_again_at_home(pool_rig: Rig) -> None:
    job_id = submit_diverted(pool_rig, _TWICE, "--open-mode=append", "--requeue")
    _wait_for_line(pool_rig, job_id, b"attempt 0\n")
    pool_rig.pool.tool("condor_rm", "-all")
    wait_until(lambda: pool_rig.job(job_id)["Restarts"] == "1", timeout_s=90, what="the job to be requeued")
    start_requeued(pool_rig, job_id)
    job = pool_rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    assert job["Partition"] == "batch"
    assert pool_rig.output(job_id).splitlines()[-1] == b"attempt 1"
