"""A past for the wait model: what `sacct` would print of a cluster of four CPUs that is full half of the time."""

from __future__ import annotations

import random
from collections.abc import Iterator

_HOUR_S = 3600
#: Two hours in which bob's jobs take all CPUs, then two in which whoever comes starts at once.
_CYCLE_S = 4 * _HOUR_S
_BUSY_S = 2 * _HOUR_S
_CYCLES = 40
_HEADER = "JobIDRaw|Submit|Eligible|Start|End|AllocNodes|ReqNodes|AllocCPUS|ReqCPUS|TimelimitRaw|User|Partition"


def sacct_text(until_s: int) -> str:
    """Return the jobs of a week that ends at `until_s`, Unix seconds, as `history.sacct` reads them."""
    jobs = sorted(_jobs(until_s - _CYCLES * _CYCLE_S))
    lines = [
        f"{number}|{submit}|{submit}|{start}|{end}|1|1|{cpus}|{cpus}|{limit_min}|{user}|batch"
        for number, (submit, start, end, cpus, limit_min, user) in enumerate(jobs, start=1)
    ]
    return "\n".join([_HEADER, *lines, ""])


def _jobs(begin_s: int) -> Iterator[tuple[int, int, int, int, int, str]]:
    """Yield (submitted, started, ended, CPUs, time limit in minutes, user)."""
    drawn = random.Random(1)  # noqa: S311 - no secret
    for cycle in range(_CYCLES):
        busy_s = begin_s + cycle * _CYCLE_S
        free_s = busy_s + _BUSY_S
        for hour in range(_BUSY_S // _HOUR_S):
            start_s = busy_s + hour * _HOUR_S
            yield from [(start_s - 5, start_s, start_s + _HOUR_S, 2, 60, "bob")] * 2
        for _ in range(10):
            yield drawn.randrange(busy_s + 60, free_s - 1200), free_s, free_s + 300, 1, 10, "alice"
        for number in range(10):
            submit_s = free_s + 1800 + number * 500 + drawn.randrange(200)
            yield submit_s, submit_s + 1, submit_s + 200, 1, 10, "alice"
