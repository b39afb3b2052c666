"""scancel -> the script's TERM handler runs, diverted and on batch in turn."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import cast

from tests.bench.bench import DIVERTED, LOCAL, Bench, BenchError
from tests.bench.figure import Figure, spread
from tests.bench.follower import Follower, follow

_PAIRS = 25
_PAUSE_S = 0.2
#: A builtin notes the time: a fork would be part of the figure. The `wait` is what bash leaves for a trap at once.
_SCRIPT = "trap 'echo $EPOCHREALTIME; exit' TERM\necho ready\nsleep 1000 & wait"


def measure(bench: Bench) -> Iterator[Figure]:
    ways = {way: [bench.submit(_SCRIPT, way) for _ in range(_PAIRS)] for way in (DIVERTED, LOCAL)}
    job_ids = list(chain(*zip(*ways.values(), strict=True)))
    followers = {job_id: Follower(bench.user_file(f"slurm-{job_id}.out")) for job_id in job_ids}
    bench.say(f"{len(job_ids)} jobs start")
    if not follow(followers.values(), 1, timeout_s=60):
        raise BenchError("the jobs did not all start")
    bench.say("cancelling them one by one")
    answer = bench.run_inside("cancel.py", str(_PAUSE_S), *map(str, job_ids))
    cancelled_ns = {int(job_id): ns for job_id, ns in cast("dict[str, int]", answer).items()}
    if not follow(followers.values(), 2, timeout_s=30):
        raise BenchError("not all handlers ran")

    def latency_ms(job_id: int) -> float:
        handled_s = next(float(line) for line, _ in followers[job_id].lines if line[0].isdigit())
        return handled_s * 1e3 - cancelled_ns[job_id] / 1e6

    diverted_ms, local_ms = ([latency_ms(job_id) for job_id in ways[way]] for way in (DIVERTED, LOCAL))
    yield from spread("scancel to handler", diverted_ms, local_ms, against="batch", budgets={99: "< 200 ms"})
