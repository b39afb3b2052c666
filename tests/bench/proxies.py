"""100 short jobs that may start at once, with a site that runs nothing: what the cluster's side of a launch costs."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from tests.bench.bench import DIVERTED, LOCAL, Bench
from tests.bench.figure import Figure
from tests.bench.launch_rate import launch

_ROUNDS = 3
#: As the peer does: the shell starts, and /bin/true.
_BODY = "/bin/true"


def measure(bench: Bench) -> Iterator[Figure]:
    rates: dict[str, list[float]] = {DIVERTED: [], LOCAL: []}
    with bench.canned_site():
        for number in range(_ROUNDS):
            for way in (DIVERTED, LOCAL):
                bench.say(f"100 jobs, round {number + 1} of {_ROUNDS}, {way}")
                rates[way].append(launch(bench, way, _BODY).jobs_per_s)
    rate, local_rate = median(rates[DIVERTED]), median(rates[LOCAL])
    yield Figure("proxies alone, first start to last end", "jobs/s", rate, local_rate, "/bin/true", ">= 0.9x", _ROUNDS)
