"""What it takes to read a queue of 10,000 pending jobs: by squeue and by pyslurm, here and in slurmctld."""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from overspill_sidecar.slurm import PyslurmReader, QueueReader, SqueueReader
from overspill_sidecar.slurm.readers import PYSLURM_ARGV
from tests.bench.bench import Bench, BenchError
from tests.bench.figure import Figure, spread

_PENDING = 10_000
_ROUNDS = 20
_DEADLINE_S = 60.0
_PROCESS = f"/opt/overspill/lib/overspill_sidecar/slurm/{Path(PYSLURM_ARGV[-1]).name}"
_SUBMIT = f"seq {_PENDING} | xargs -P4 -I@ sbatch --hold --quiet --output=/dev/null --time=30 --wrap=true"
_JOB_INFO = re.compile(r"REQUEST_JOB_INFO\s+\(\s*\d+\)\s+count:(\d+)\s+ave_time:\d+\s+total_time:(\d+)")


def measure(bench: Bench) -> Iterator[Figure]:
    """Read the queue in turn by either; what slurmctld says it took is of sdiag."""
    bench.say(f"{_PENDING} held jobs")
    bench.rig.cluster.run(["sh", "-c", _SUBMIT], user="alice", check=True, timeout=600.0)
    with tempfile.TemporaryDirectory() as directory:
        path = bench.rig.cluster.write_callers(Path(directory), ["squeue", "scontrol"], user="slurm")
        os.environ["PATH"], before = f"{path}:{os.environ['PATH']}", os.environ["PATH"]
        try:
            yield from asyncio.run(_measure(bench))
        finally:
            os.environ["PATH"] = before
    bench.rig.cluster.run(["scancel", "--user=alice"], check=True, timeout=120.0)


async def _measure(bench: Bench) -> list[Figure]:
    argv = bench.rig.cluster.command(["/opt/overspill/venv/bin/python", "-I", _PROCESS], user="slurm", cwd="/")
    pyslurm, squeue = PyslurmReader(_DEADLINE_S, argv), SqueueReader(_DEADLINE_S)
    try:
        fresh = [await _time_ms(bench, reader) for reader in (pyslurm, squeue)]
        own_ms, own_load = await _rounds(bench, pyslurm)
        peer_ms, peer_load = await _rounds(bench, squeue)
    finally:
        await pyslurm.close()
    return [
        Figure("the first reading, every job new", "ms", fresh[0], fresh[1], "squeue"),
        *spread("a later reading", own_ms, peer_ms, against="squeue"),
        Figure("slurmctld: requests for each reading", "", own_load[0], peer_load[0], "squeue", samples=_ROUNDS),
        Figure("slurmctld: time for each reading", "ms", own_load[1], peer_load[1], "squeue", samples=_ROUNDS),
    ]


async def _rounds(bench: Bench, reader: QueueReader) -> tuple[list[float], tuple[float, float]]:
    """Return the times of some readings, and how many requests each was and how long slurmctld took, in ms."""
    before = _job_info(bench)
    times_ms = [await _time_ms(bench, reader) for _ in range(_ROUNDS)]
    after = _job_info(bench)
    return times_ms, ((after[0] - before[0]) / _ROUNDS, (after[1] - before[1]) / _ROUNDS / 1000)


async def _time_ms(bench: Bench, reader: QueueReader) -> float:
    began = time.perf_counter()
    jobs = await reader.jobs(bench.rig.options.slurm.name)
    took_ms = (time.perf_counter() - began) * 1000
    if len(jobs) < _PENDING:
        raise BenchError(f"{reader.used} told of {len(jobs)} jobs, not of {_PENDING}")
    return took_ms


def _job_info(bench: Bench) -> tuple[int, int]:
    """Return how often slurmctld has told the queue since its start, and the microseconds that took."""
    told = _JOB_INFO.search(bench.rig.cluster.run(["sdiag"], check=True).stdout)
    return (int(told[1]), int(told[2])) if told else (0, 0)
