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
#: What it has to say about the sleep that is killed, too, is nobody's.
_SCRIPT = "exec 2>/dev/null\ntrap 'echo $EPOCHREALTIME; exit' TERM\necho ready\nsleep 1000 & wait"


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
    # Beside the handler's line there is slurmstepd's, which may be sooner.
    if not follow(followers.values(), 3, timeout_s=30):
        short = {job_id: follower.lines for job_id, follower in followers.items() if len(follower.lines) < 3}
        raise BenchError(f"not all handlers ran: {short}")

    def latency_ms(job_id: int) -> float:
        lines = [line for line, _ in followers[job_id].lines]
        handled_s = next((float(line) for line in lines if line[:1].isdigit()), None)
        if handled_s is None:
            raise BenchError(f"job {job_id} said {lines}: its handler did not run")
        return handled_s * 1e3 - cancelled_ns[job_id] / 1e6

    diverted_ms, local_ms = ([latency_ms(job_id) for job_id in ways[way]] for way in (DIVERTED, LOCAL))
    yield from spread("scancel to handler", diverted_ms, local_ms, against="batch", budgets={99: "< 200 ms"})
