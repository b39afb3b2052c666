"""Many diverted jobs at once, and much output: every job ends well, and nothing is lost, doubled or mixed up."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.e2e.diversion import submit_diverted, tolerate_a_busy_machine, wait_until, wait_until_diverting
from tests.rig import ClusterOptions, Rig

_SIZE = 1 << 30
_TASKS = 1000
_JOBS = 200
_SCRIPT = (
    "#!/bin/bash\necho $SLURM_JOB_ID ${SLURM_ARRAY_JOB_ID:-none} ${SLURM_ARRAY_TASK_ID:-none} $SLURM_RESTART_COUNT\n"
)
_DIRECTORY = "/home/alice/many"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    """A site with room for everything."""
    cluster = ClusterOptions(
        virtual_node_cpus=256, virtual_node_memory_mib=512_000, site_cpus=256, site_memory_mib=512_000
    )
    with Rig.up(policy="overspill_mode=always", cluster=cluster) as running:
        tolerate_a_busy_machine(running)
        wait_until_diverting(running)
        running.cluster.run(["mkdir", _DIRECTORY], user="alice", check=True)
        yield running


def _states(rig: Rig, job_ids: list[int]) -> Counter[tuple[str, str]]:
    """Return how many jobs and tasks there are in each state and partition."""
    argv = [
        "squeue",
        "--noheader",
        "--states=all",
        "--array",
        "--format=%T %P",
        f"--jobs={','.join(map(str, job_ids))}",
    ]
    lines = rig.cluster.run(argv, check=True).stdout.splitlines()
    return Counter((state, partition) for state, partition in map(str.split, lines))


def _wait_until_all_completed(rig: Rig, job_ids: list[int], *, count: int, timeout_s: float) -> None:
    def are_over() -> bool:
        states = _states(rig, job_ids)
        assert {state for state, _ in states} <= {"PENDING", "RUNNING", "COMPLETING", "COMPLETED"}, states
        return states == {("COMPLETED", "overspill"): count}

    wait_until(are_over, timeout_s=timeout_s, what=f"{count} jobs to be completed")


@pytest.mark.timeout(600)
def test_an_array_of_a_thousand_tasks_with_a_throttle(rig: Rig) -> None:
    array_id = submit_diverted(rig, _SCRIPT, f"--array=1-{_TASKS}%50", "--mem=10", f"--output={_DIRECTORY}/%A.%a")
    _wait_until_all_completed(rig, [array_id], count=_TASKS, timeout_s=540)
    outputs = {path.name: path.read_text().split() for path in rig.cluster.path(_DIRECTORY).glob(f"{array_id}.*")}
    assert {name: words[1:] for name, words in outputs.items()} == {
        f"{array_id}.{task}": [str(array_id), str(task)] for task in range(1, _TASKS + 1)
    }
    assert len({words[0] for words in outputs.values()}) == _TASKS


@pytest.mark.timeout(300)
def test_two_hundred_jobs_at_once(rig: Rig) -> None:
    submit = f"for i in $(seq {_JOBS}); do sbatch --parsable --mem=10 -p overspill -o {_DIRECTORY}/%j.out job.sh; done"
    rig.cluster.write(f"{_DIRECTORY}/job.sh", _SCRIPT + "sleep 5\n", user="alice")
    submitted = rig.cluster.run(["bash", "-c", submit], user="alice", cwd=_DIRECTORY, check=True, timeout=120)
    job_ids = [int(line) for line in submitted.stdout.splitlines()]
    assert len(set(job_ids)) == _JOBS
    _wait_until_all_completed(rig, job_ids, count=_JOBS, timeout_s=180)
    outputs = {path.name: path.read_text() for path in rig.cluster.path(_DIRECTORY).glob("*.out")}
    assert outputs == {f"{job_id}.out": f"{job_id} none none\n" for job_id in job_ids}


@pytest.mark.timeout(300)
def test_a_gigabyte_of_output_arrives_whole(rig: Rig) -> None:
    script = (
        f"#!/usr/bin/python3\nimport sys\nfor i in range({_SIZE // 1024}):\n    sys.stdout.write('%01023d\\n' % i)\n"
    )
    expected = hashlib.sha256()
    for i in range(_SIZE // 1024):
        expected.update(b"%01023d\n" % i)
    job_id = submit_diverted(rig, script, f"--output={_DIRECTORY}/gigabyte")
    rig.wait_for_state(job_id, "COMPLETED", timeout_s=240)
    output = rig.cluster.path(f"{_DIRECTORY}/gigabyte")
    with output.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected.hexdigest()
    output.unlink()
