"""Remote write() -> byte in the user's file: a diverted and a local job write side by side."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.bench import DIVERTED, LOCAL, Bench, BenchError
from tests.bench.figure import Figure, spread
from tests.bench.follower import Follower, follow

_LINES = 500
_PERIOD_S = 0.02
_SCRIPT = f"""#!/usr/bin/python3 -u
import time
for _ in range({_LINES}):
    print(time.time_ns())
    time.sleep({_PERIOD_S})
"""


def measure(bench: Bench) -> Iterator[Figure]:
    followers = []
    for way in (DIVERTED, LOCAL):
        job_id = bench.rig.sbatch(_SCRIPT, way)
        followers.append(Follower(bench.user_file(f"slurm-{job_id}.out")))
    bench.say(f"{_LINES} lines, {_PERIOD_S * 1e3:.0f} ms apart")
    if not follow(followers, _LINES, timeout_s=60):
        raise BenchError("the lines did not all come")
    diverted_ms, local_ms = ([(seen - int(line)) / 1e6 for line, seen in f.lines] for f in followers)
    yield from spread(
        "write() to byte in the user's file",
        diverted_ms,
        local_ms,
        against="local write",
        budgets={50: "< 20 ms", 99: "< 100 ms"},
    )
