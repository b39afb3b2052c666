"""What 100 jobs that only sleep cost: memory of each part, and CPU time while they do nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from tests.bench.bench import DIVERTED, LOCAL, Bench
from tests.bench.figure import Figure
from tests.bench.processes import Usage, usage_by_role
from tests.rig.waiting import poll

_JOBS = 100
_WATCHED_S = 10.0
_AT_THE_CLUSTER = ("slurmstepd", "proxy", "job")
_AT_THE_SITE = ("sandbox", "runner")
_DAEMONS = ("sidecar", "agent", "slurmctld", "slurmd")


def measure(bench: Bench) -> Iterator[Figure]:
    empty, empty_cpu = _look(bench, "no job")
    local, local_cpu = _run(bench, LOCAL)
    diverted, diverted_cpu = _run(bench, DIVERTED)
    memory = "MiB"
    yield Figure(
        "cluster: memory (PSS) of one idle job",
        memory,
        _pss_per_job(diverted, "slurmstepd", "proxy"),
        _pss_per_job(local, *_AT_THE_CLUSTER),
        "batch",
        "2,000 in < 16 GB: < 8 MiB",
        _JOBS,
    )
    for role in ("slurmstepd", "proxy", *_AT_THE_SITE):
        yield Figure(f"  of it {role}" if role in _AT_THE_CLUSTER else f"site: {role}", memory,
                     _pss_per_job(diverted, role), _pss_per_job(local, role) or None, "batch", "", _JOBS)  # fmt: skip
    for role in ("sidecar", "agent"):
        growth = (diverted[role].rss_mib - empty[role].rss_mib) / _JOBS
        yield Figure(f"{role}: growth (RSS) by one job", memory, growth, samples=_JOBS)
    yield Figure(
        f"CPU of everything, {_JOBS} idle jobs", "% of a core",
        sum(diverted_cpu.values()), sum(local_cpu.values()), "batch", "idle", _JOBS,
    )  # fmt: skip
    for role in (*_DAEMONS, "slurmstepd", "proxy", "runner", "sandbox"):
        yield Figure(f"  of it {role}", "% of a core", diverted_cpu.get(role, 0.0), empty_cpu.get(role, 0.0), "no job")


def _run(bench: Bench, way: str) -> tuple[Mapping[str, Usage], Mapping[str, float]]:
    job_ids = [bench.submit("sleep 1000", way) for _ in range(_JOBS)]
    bench.wait_for_jobs(job_ids, "RUNNING", timeout_s=60)
    expected = "runner" if way == DIVERTED else "slurmstepd"
    hosts = (bench.rig.cluster, bench.rig.site)
    poll(lambda: usage_by_role(hosts)[expected].processes >= _JOBS, timeout_s=60, interval_s=1)
    seen = _look(bench, f"{_JOBS} jobs, {way}")
    bench.cancel_all()
    return seen


def _look(bench: Bench, what: str) -> tuple[Mapping[str, Usage], Mapping[str, float]]:
    """Return memory now, and CPU use by role over the next seconds, in percent of a core."""
    bench.say(f"watching {what} for {_WATCHED_S:.0f} s")
    hosts = (bench.rig.cluster, bench.rig.site)
    before, began = usage_by_role(hosts), time.monotonic()
    time.sleep(_WATCHED_S)
    after, took_s = usage_by_role(hosts), time.monotonic() - began
    return after, {role: (after[role].cpu_s - before.get(role, Usage()).cpu_s) / took_s * 100 for role in after}


def _pss_per_job(usage: Mapping[str, Usage], *roles: str) -> float:
    return sum(usage[role].pss_mib for role in roles if role in usage) / _JOBS
