"""MB/s of one job's output into the user's file, diverted and on batch in turn."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.bench.bench import DIVERTED, LOCAL, Bench, BenchError
from tests.bench.figure import Figure
from tests.rig.waiting import poll

_MEGABYTES = 500
_ROUNDS = 2
#: 50,000,000 lines of 10 bytes, in writes of 64 KiB.
_SCRIPT = f"yes 123456789 | dd bs=64K iflag=fullblock,count_bytes count={_MEGABYTES}000000 status=none"


def measure(bench: Bench) -> Iterator[Figure]:
    rates: dict[str, list[float]] = {DIVERTED: [], LOCAL: []}
    for number in range(_ROUNDS):
        for way in (DIVERTED, LOCAL):
            bench.say(f"{_MEGABYTES} MB, round {number + 1} of {_ROUNDS}, {way}")
            rates[way].append(_megabytes_per_s(bench, way))
    yield Figure(
        f"output of one job, {_MEGABYTES} MB",
        "MB/s",
        median(rates[DIVERTED]),
        median(rates[LOCAL]),
        "batch",
        ">= 100 MB/s",
        _ROUNDS,
    )


def _megabytes_per_s(bench: Bench, way: str) -> float:
    """Return the rate from the first byte in the file to the last."""
    path = bench.user_file(f"slurm-{bench.submit(_SCRIPT, way)}.out")
    if not poll(lambda: _size(path) > 0, timeout_s=30, interval_s=0.002):
        raise BenchError("no output came")
    began, already = time.perf_counter(), _size(path)
    if not poll(lambda: _size(path) >= _MEGABYTES * 10**6, timeout_s=120, interval_s=0.002):
        raise BenchError(f"only {_size(path)} bytes came")
    rate = (_MEGABYTES * 1e6 - already) / 1e6 / (time.perf_counter() - began)
    path.unlink()
    return rate


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
