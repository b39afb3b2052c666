"""The learned wait model decides on a real Slurm, with a past that it has lived through."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from overspill_sidecar.wait import LIKELIER_THAN_NOT
from tests.e2e.commands import overspill, overspill_json
from tests.e2e.diversion import wait_until
from tests.e2e.past_jobs import sacct_text
from tests.rig import ClusterOptions, Rig
from tests.rig.routing import ask_router
from tests.rig.slurm_conf import VIRTUAL_NODE

_SLEEP = "#!/bin/sh\nexec sleep 3600\n"
_STATE = "/var/lib/overspill"


@pytest.fixture(name="rig", scope="module")
def _rig() -> Iterator[Rig]:
    """An empty cluster whose router knows from a past that jobs of its full self wait for hours."""
    cluster = ClusterOptions(real_nodes=2)
    with Rig.up(policy="overspill_mode=on overspill_wait=00:10:00", cluster=cluster) as rig:
        router = rig.cluster.daemon("router")
        router.stop()
        _learn(rig, sacct_text(int(time.time())))
        router.start()
        wait_until(lambda: ask_router(rig) is not None, timeout_s=30, what="the router to answer")
        yield rig


def _learn(rig: Rig, past: str) -> None:
    """Have the model made as an admin would, by a sacct that tells of this past."""
    rig.cluster.write(f"{_STATE}/past", past, user="slurm")
    rig.cluster.write(f"{_STATE}/sacct", f"#!/bin/sh\nexec cat {_STATE}/past\n", user="slurm", mode=0o755)
    python = ("/opt/overspill/venv/bin/python", "-m", "overspill_sidecar")
    environment = {"PYTHONPATH": "/opt/overspill/lib", "PATH": f"{_STATE}:/usr/bin:/bin"}
    learn = (*python, "learn", "--output", f"{_STATE}/waits.state")
    rig.cluster.run(learn, user="slurm", cwd="/", env=environment, timeout=60, check=True)


def _jobs_learned(rig: Rig) -> int:
    waits = overspill_json(rig, "status")["waits"]
    assert waits["jobs"] >= waits["learned_after_jobs"]
    return int(waits["jobs"])


def _why(rig: Rig, job_id: int) -> dict[str, Any]:
    decision: dict[str, Any] = overspill_json(rig, "explain", str(job_id))["decision"]
    assert decision["wait_model"] == "learned"
    return decision


def _is_diverted(rig: Rig) -> bool:
    answer = ask_router(rig, user="alice")
    return answer is not None and answer["verdict"] == "DIVERT"


def _submit_diverted(rig: Rig) -> dict[str, Any]:
    """Submit a plain job, see it run at the site, and return its decision."""
    job_id = rig.sbatch(_SLEEP)
    assert rig.wait_for_state(job_id, "RUNNING", timeout_s=60)["NodeList"] == VIRTUAL_NODE
    assert "(learned from the waits here)" in overspill(rig, "explain", str(job_id)).stdout
    return _why(rig, job_id)


def test_the_learned_model_keeps_a_job_while_there_is_room_and_diverts_it_from_a_full_cluster(rig: Rig) -> None:
    learned = _jobs_learned(rig)
    # Of another user than those who wait later: what became of one's own last jobs counts for much.
    at_home = rig.sbatch("#!/bin/sh\n:\n", user="bob")
    assert rig.wait_for_state(at_home, "COMPLETED")["Partition"] == "batch"
    decision = _why(rig, at_home)
    assert (decision["verdict"], decision["reason"]) == ("LOCAL", "wait_below_threshold")
    assert decision["exceeds_probability"] < LIKELIER_THAN_NOT
    for _ in range(rig.options.cluster.real_nodes):
        filler = rig.sbatch(_SLEEP, "--time=60", "--ntasks=2", "--nodes=1", "--overspill=never", user="bob")
        rig.wait_for_state(filler, "RUNNING")
    wait_until(lambda: _is_diverted(rig), timeout_s=30, what="the router to see the full cluster")
    decision = _submit_diverted(rig)
    assert (decision["verdict"], decision["reason"]) == ("DIVERT", "wait_above_threshold")
    assert decision["exceeds_probability"] > LIKELIER_THAN_NOT
    router = rig.cluster.daemon("router")
    router.signal(signal.SIGKILL)
    router.start()
    assert _jobs_learned(rig) >= learned
    wait_until(lambda: _is_diverted(rig), timeout_s=60, what="the router to divert again")
    assert _submit_diverted(rig)["exceeds_probability"] > LIKELIER_THAN_NOT
