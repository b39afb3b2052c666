"""What a back end drives, without Overspill: `docker run`, `condor_submit` and `htcondor2` with the same scripts."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.bench.bench import Bench, BenchError
from tests.bench.follower import POLL_S
from tests.rig.condor import COLLECTOR, DIRECTORY, SCHEDD, TOKENS, Machine
from tests.rig.waiting import poll

_AT_ONCE = 16
_OWNER = "alice"
_SUBMIT = f"{DIRECTORY}/bench"
_ENDED_TIMEOUT_S = 300.0


def docker_first_line_s(bench: Bench, script: str) -> float:
    """Return the seconds from the start of `docker run` to the first line that it passes on."""
    command = bench.rig.site.command([*_docker_run(bench), "bash", "-c", script])
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
        if run.stdout is None or not run.stdout.readline():
            raise BenchError("docker run printed nothing")
        return time.monotonic() - began


def docker_runs_per_s(bench: Bench, script: str, runs: int) -> float:
    """Return how many `docker run` complete in a second if so many wait, some of them side by side."""
    command = [*_docker_run(bench), "bash", "-c", script]
    began = time.monotonic()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(lambda _: bench.rig.site.run(command, timeout=_ENDED_TIMEOUT_S, check=True), range(runs)))
    return runs / (time.monotonic() - began)


def condor_first_line_s(bench: Bench, script: str) -> float:
    """Return the seconds from the start of `condor_submit` on the access point to the first line in the job's file."""
    output = _describe(bench, script)
    began = time.monotonic()
    _condor_submit(bench)
    if not poll(lambda: _size(output) > 0, timeout_s=60, interval_s=POLL_S):
        raise BenchError("the job of condor_submit printed nothing")
    return time.monotonic() - began


def condor_runs_per_s(bench: Bench, script: str, runs: int) -> float:
    """Return how many jobs complete in a second that `htcondor2` submits one by one, files and all, as the agent."""
    bench.rig.site.write(f"{_SUBMIT}.sh", f"#!/bin/bash\n{script}\n", mode=0o755)
    order = {
        "collector": COLLECTOR,
        "schedd": SCHEDD,
        "token_directory": TOKENS,
        "jobs": runs,
        "description": _as_ours(bench),
    }
    began = time.monotonic()
    bench.run_inside("submit_to_pool.py", stdin=order, user="root", host=bench.rig.site)
    left = ("condor_q", "-allusers", "-constraint", 'JobBatchName == "bench" && JobStatus != 4', "-af", "ClusterId")
    if not poll(lambda: not bench.rig.pool.tool(*left).split(), timeout_s=_ENDED_TIMEOUT_S, interval_s=0.2):
        raise BenchError(f"the jobs of htcondor2 did not end within {_ENDED_TIMEOUT_S:.0f} s")
    return runs / (time.monotonic() - began)


def _as_ours(bench: Bench) -> dict[str, str]:
    """Return the submit description of a job of the size and universe of ours."""
    return {
        "universe": "docker",
        "docker_image": _image(bench),
        "initialdir": str(Path(_SUBMIT).parent),
        "executable": "/bin/bash",
        "transfer_executable": "false",
        "arguments": Path(f"{_SUBMIT}.sh").name,
        "transfer_input_files": Path(f"{_SUBMIT}.sh").name,
        "should_transfer_files": "yes",
        "request_cpus": "1",
        "request_memory": "64",
        "request_disk": "1024",
        "batch_name": "bench",
        "leave_in_queue": "true",
        "+Owner": f'"{_OWNER}"',
    }


def _docker_run(bench: Bench) -> list[str]:
    return ["docker", "run", "--rm", "--user=2001:2001", "--cap-drop=ALL", _image(bench)]


def _image(bench: Bench) -> str:
    """Return the image that jobs run in, as the engine knows it."""
    shown = bench.rig.engine.docker("images", "--format={{.Repository}}:{{.Tag}}", "overspill/runtime-mini")
    return shown.split()[0]


def _describe(bench: Bench, script: str) -> Path:
    """Write what `condor_submit` reads, of a job as ours are, and return where its output will be."""
    directory = bench.rig.site.path(_SUBMIT)
    directory.mkdir(exist_ok=True)
    directory.chmod(0o1777)
    output = directory / "out"
    output.unlink(missing_ok=True)
    bench.rig.site.write(f"{_SUBMIT}/job.sh", f"#!/bin/bash\n{script}\n", mode=0o755)
    bench.rig.site.write(
        f"{_SUBMIT}/job.sub",
        f"""\
universe = docker
docker_image = {_image(bench)}
initialdir = {_SUBMIT}
executable = /bin/bash
transfer_executable = false
arguments = job.sh
transfer_input_files = job.sh
output = out
stream_output = true
should_transfer_files = yes
request_cpus = 1
request_memory = 64
request_disk = 1024
batch_name = bench
queue
""",
    )
    return output


def _condor_submit(bench: Bench) -> None:
    bench.rig.pool.execute(Machine.ACCESS_POINT, "condor_submit", f"{_SUBMIT}/job.sub", user=_OWNER)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
