"""Slurm starts the job -> first line in the user's file, on an idle cluster: one job at a time, diverted and batch."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.bench import DIVERTED, LOCAL, Bench, BenchError
from tests.bench.figure import Figure, spread
from tests.bench.follower import Follower, follow

_ROUNDS = 12


def measure(bench: Bench) -> Iterator[Figure]:
    bench.say(f"{_ROUNDS} jobs each way, one after the other")
    took_ms: dict[str, list[float]] = {DIVERTED: [], LOCAL: []}
    for _ in range(_ROUNDS):
        for way in (DIVERTED, LOCAL):
            took_ms[way].append(first_line_ms(bench, way, "echo here"))
    yield spread("start to first line", took_ms[DIVERTED], took_ms[LOCAL], against="batch")[0]


def first_line_ms(bench: Bench, way: str, script: str) -> float:
    """Return the time from slurmctld's start of a job to its first line in the user's file.

    Not from sbatch on: slurmctld's look at the queue, once a second, would be most of it, whatever the way.
    """
    job_id = bench.submit(script, way)
    seen_at = _first_line_at(bench, job_id)
    return (seen_at - bench.controller_log().started_at[job_id]) * 1e3


def _first_line_at(bench: Bench, job_id: int) -> float:
    """Return the Unix time at which the job's first line was in the user's file."""
    follower = Follower(bench.user_file(f"slurm-{job_id}.out"))
    if not follow([follower], 1, timeout_s=30):
        raise BenchError(f"job {job_id} printed nothing")
    return follower.lines[0][1] / 1e9
