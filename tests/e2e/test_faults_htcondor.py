"""What breaks at a site with an HTCondor pool, as the user sees it: from sbatch to the state and the output file."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.diversion import (
    SECOND_TIME_LUCKY,
    expect_second_attempt_at_home,
    submit_diverted,
    wait_for_line,
    wait_until_diverting,
)
from tests.e2e.ticking import ticked, ticking
from tests.rig import Rig

_LINES = 400
#: Twenty seconds: 15 s after its start, and then every 120 s, a shadow looks whether its schedd lives, and ends its job
#: if not. Source: HTCondor's daemon_core_main.cpp, `check_parent`.
_LINES_BEYOND_THE_SHADOWS_LOOK = 1000
#: Making images takes minutes on a machine that has none yet.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def pool_rig() -> Iterator[Rig]:
    with Rig.up(policy="overspill_mode=always", backend="htcondor") as running:
        wait_until_diverting(running)
        yield running


def _kill_agent(rig: Rig) -> None:
    agent = rig.site.daemon("agent")
    agent.signal(signal.SIGKILL)
    agent.start()


def _kill_schedd(rig: Rig) -> None:
    rig.pool.kill_schedd()
    rig.pool.start_schedd()


@pytest.mark.parametrize(("kill", "lines"), [(_kill_agent, _LINES), (_kill_schedd, _LINES_BEYOND_THE_SHADOWS_LOOK)])
def test_a_job_goes_on_and_loses_not_a_byte_while_what_drives_it_is_killed(
    pool_rig: Rig, kill: Callable[[Rig], None], lines: int
) -> None:
    job_id = submit_diverted(pool_rig, ticking(lines, exit_code=5))
    wait_for_line(pool_rig, job_id, b"line 20\n", timeout_s=90)
    kill(pool_rig)
    job = pool_rig.wait_for_state(job_id, ["FAILED", "COMPLETED"], timeout_s=90)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "5:0", "0")
    assert pool_rig.output(job_id) == ticked(lines)


def test_a_job_that_the_pools_operator_removes_runs_again_at_home(pool_rig: Rig) -> None:
    job_id = submit_diverted(pool_rig, SECOND_TIME_LUCKY, "--open-mode=append", "--requeue")
    wait_for_line(pool_rig, job_id, b"attempt 0\n", timeout_s=90)
    pool_rig.pool.tool("condor_rm", "-all")
    expect_second_attempt_at_home(pool_rig, job_id, timeout_s=90)
