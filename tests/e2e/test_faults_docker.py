"""What breaks at a site with a container engine, as the user sees it: from sbatch to the state and the output file."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.e2e.diversion import (
    SECOND_TIME_LUCKY,
    expect_second_attempt_at_home,
    submit_diverted,
    wait_for_line,
    wait_until,
    wait_until_diverting,
)
from tests.e2e.ticking import ticked, ticking
from tests.rig import Rig

_LINES = 400
#: Making images takes minutes on a machine that has none yet.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def docker_rig() -> Iterator[Rig]:
    with Rig.up(policy="overspill_mode=always", backend="docker") as running:
        wait_until_diverting(running)
        yield running


def _containers(rig: Rig) -> list[str]:
    """Return the ids of the containers that runs are in."""
    return rig.engine.docker("ps", "--quiet", "--filter=label=org.overspill.run").split()


@pytest.mark.parametrize("daemon", ["dockerd", "agent"])
def test_a_job_goes_on_and_loses_not_a_byte_while_what_drives_it_is_killed(docker_rig: Rig, daemon: str) -> None:
    job_id = submit_diverted(docker_rig, ticking(_LINES, exit_code=5))
    wait_for_line(docker_rig, job_id, b"line 20\n")
    killed = docker_rig.site.daemon(daemon)
    killed.signal(signal.SIGKILL)
    killed.start()
    job = docker_rig.wait_for_state(job_id, ["FAILED", "COMPLETED"], timeout_s=90)
    assert (job["JobState"], job["ExitCode"], job["Restarts"]) == ("FAILED", "5:0", "0")
    assert docker_rig.output(job_id) == ticked(_LINES)


def test_output_comes_while_the_engine_is_away(docker_rig: Rig) -> None:
    job_id = submit_diverted(docker_rig, "#!/bin/bash\necho ready\nsleep 3\necho still here\n")
    wait_for_line(docker_rig, job_id, b"ready\n")
    dockerd = docker_rig.site.daemon("dockerd")
    dockerd.signal(signal.SIGKILL)
    try:
        wait_for_line(docker_rig, job_id, b"still here\n")
    finally:
        dockerd.start()
    docker_rig.wait_for_state(job_id, "COMPLETED", timeout_s=60)
    wait_until_diverting(docker_rig)


def test_a_job_whose_container_is_removed_by_hand_runs_again_at_home(docker_rig: Rig) -> None:
    job_id = submit_diverted(docker_rig, SECOND_TIME_LUCKY, "--open-mode=append", "--requeue")
    wait_for_line(docker_rig, job_id, b"attempt 0\n")
    for container in _containers(docker_rig):
        docker_rig.engine.docker("rm", "--force", container)
    expect_second_attempt_at_home(docker_rig, job_id)


def test_nothing_of_a_cancelled_tree_is_left(docker_rig: Rig) -> None:
    script = "#!/bin/bash\ntrap '' TERM\nsetsid bash -c \"trap '' TERM; sleep 4714\" &\necho ready\nsleep 4714\nwait\n"
    job_id = submit_diverted(docker_rig, script)
    wait_for_line(docker_rig, job_id, b"ready\n")
    docker_rig.cluster.run(["scancel", str(job_id)], user="alice", check=True)
    docker_rig.wait_for_state(job_id, "CANCELLED", timeout_s=60)
    wait_until(lambda: not _containers(docker_rig), timeout_s=30, what="the container to be gone")
