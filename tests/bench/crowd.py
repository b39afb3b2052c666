"""500 diverted jobs at once on one host with a real site, and 2,000 with one that runs nothing: memory, CPU, launches.

With the runs of 2,000 jobs on this machine as well, it would be the site that is measured: 24 GB of runners.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext

from tests.bench.bench import DIVERTED, Bench, BenchError
from tests.bench.figure import Figure
from tests.bench.processes import cpu_seconds, usage_by_role
from tests.rig.waiting import poll

_WATCHED_S = 20.0
_TIMEOUT_S = 240.0
#: Slurm's MaxArraySize is 1001.
_ARRAY = 500
_HOST_ROLES = ("slurmstepd", "proxy", "router", "relay", "slurmd")


def measure(bench: Bench) -> Iterator[Figure]:
    yield from _crowd(bench, 500, "real site", is_canned=False)
    yield from _crowd(bench, 2_000, "canned site", is_canned=True)


def _crowd(bench: Bench, jobs: int, site: str, *, is_canned: bool) -> Iterator[Figure]:
    """Start the jobs, wait until each has its proxy and its run, look, and end them.

    Raises:
        BenchError: if they do not all run in time.
    """
    what = f"{jobs:,} jobs at once, {site}"
    with bench.canned_site() if is_canned else nullcontext():
        bench.say(f"{what}: starting")
        began = time.monotonic()
        for _ in range(jobs // _ARRAY):
            bench.submit("exec sleep 100000", DIVERTED, f"--array=1-{_ARRAY}", "--output=/dev/null", "--time=1-0")
        _wait_for(bench, "proxy", jobs)
        took_s = time.monotonic() - began
        if not is_canned:
            _wait_for(bench, "job", jobs)
        yield Figure(f"{what}: started", "jobs/s", jobs / took_s, samples=jobs)
        bench.say(f"{what}: watching for {_WATCHED_S:.0f} s")
        used = usage_by_role(bench.rig.cluster)
        total_mib = sum(used[role].pss_mib for role in _HOST_ROLES)
        budget = "< 16,384 MiB for 2,000"
        yield Figure(f"{what}: memory (PSS) of the host", "MiB", total_mib, budget=budget, samples=jobs)
        yield Figure(f"{what}: memory (PSS) of each", "MiB", total_mib / jobs, samples=jobs)
        hosts = {"cluster": bench.rig.cluster} | ({} if is_canned else {"site": bench.rig.site})
        for name, host in hosts.items():
            before_s, watched_from = cpu_seconds(host), time.monotonic()
            time.sleep(_WATCHED_S)
            percent = (cpu_seconds(host) - before_s) / (time.monotonic() - watched_from) * 100
            yield Figure(f"{what}: CPU of the {name}, idle", "% of a core", percent, budget="idle", samples=jobs)
        bench.say(f"{what}: ending")
        bench.cancel_all()


def _wait_for(bench: Bench, role: str, count: int) -> None:
    host = bench.rig.cluster if role == "proxy" else bench.rig.site
    if not poll(lambda: usage_by_role(host)[role].processes >= count, timeout_s=_TIMEOUT_S, interval_s=2):
        raise BenchError(f"only {usage_by_role(host)[role].processes} of {count}: {role}")
