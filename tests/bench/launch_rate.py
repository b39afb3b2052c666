"""100 short jobs that all may start at once, until all are complete: diverted and on batch in turn."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from tests.bench.bench import DIVERTED, LOCAL, Bench
from tests.bench.figure import Figure
from tests.bench.processes import cpu_seconds

_JOBS = 100
_ROUNDS = 2


def measure(bench: Bench) -> Iterator[Figure]:
    rates: dict[str, list[float]] = {DIVERTED: [], LOCAL: []}
    cpu_ms: dict[str, list[float]] = {DIVERTED: [], LOCAL: []}
    for number in range(_ROUNDS):
        for way in (DIVERTED, LOCAL):
            bench.say(f"{_JOBS} jobs, round {number + 1} of {_ROUNDS}, {way}")
            rate, used_s = _launch(bench, way)
            rates[way].append(rate)
            cpu_ms[way].append(used_s * 1e3 / _JOBS)
    budget = ">= 0.9x for the proxies alone"
    yield Figure(
        f"launch to end of {_JOBS} `:`",
        "jobs/s",
        median(rates[DIVERTED]),
        median(rates[LOCAL]),
        "batch",
        budget,
        _ROUNDS,
    )
    yield Figure(
        "CPU time of one launch, both hosts",
        "ms",
        median(cpu_ms[DIVERTED]),
        median(cpu_ms[LOCAL]),
        "batch",
        "",
        _ROUNDS,
    )


def _launch(bench: Bench, way: str) -> tuple[float, float]:
    """Return jobs per second from the first start to the last end, and the CPU time of the machine meanwhile."""
    with bench.full_nodes():
        job_ids = [bench.submit(":", way) for _ in range(_JOBS)]
        before_s = cpu_seconds()
    bench.wait_for_jobs(job_ids, "COMPLETED", timeout_s=120)
    used_s = cpu_seconds() - before_s
    log = bench.controller_log()
    took_s = max(log.done_at[job_id] for job_id in job_ids) - min(log.started_at[job_id] for job_id in job_ids)
    return _JOBS / took_s, used_s
