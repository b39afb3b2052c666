"""What 100 jobs that only sleep cost: memory of each part, and CPU time while they do nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tests.bench.bench import DIVERTED, LOCAL, Bench, BenchError
from tests.bench.figure import Figure
from tests.bench.processes import Usage, cpu_seconds, usage_by_role
from tests.rig.waiting import poll

_JOBS = 100
_WATCHED_S = 10.0


@dataclass(frozen=True, slots=True)
class _View:
    """Both hosts at one moment, and their CPU use over the following seconds, in percent of a core."""

    cluster: Mapping[str, Usage]
    site: Mapping[str, Usage]
    cluster_cpu: float
    site_cpu: float


def measure(bench: Bench) -> Iterator[Figure]:
    empty = _look(bench, "no job")
    local = _run(bench, LOCAL)
    diverted = _run(bench, DIVERTED)
    mine, his = _pss_per_job(diverted.cluster), _pss_per_job(local.cluster)
    total, budget = sum(mine.values()), "2,000 in < 16 GB: < 8 MiB"
    yield Figure("cluster: memory (PSS) of an idle job", "MiB", total, sum(his.values()), "batch", budget, _JOBS)
    for role, pss_mib in mine.items():
        yield Figure(f"  of it {role}", "MiB", pss_mib, his.get(role), "batch" if role in his else "", "", _JOBS)
    for role, pss_mib in _pss_per_job(diverted.site).items():
        yield Figure(f"site: memory (PSS) of an idle job, {role}", "MiB", pss_mib, samples=_JOBS)
    for role, now, before in (
        ("relay", diverted.cluster, empty.cluster),
        ("agent", diverted.site, empty.site),
    ):
        growth = (now[role].rss_mib - before[role].rss_mib) / _JOBS
        yield Figure(f"{role}: growth (RSS) by one job", "MiB", growth, samples=_JOBS)
    for host, now_cpu, local_cpu in (
        ("cluster", diverted.cluster_cpu, local.cluster_cpu),
        ("site", diverted.site_cpu, local.site_cpu),
    ):
        yield Figure(f"CPU of the {host}, {_JOBS} idle jobs", "% of a core", now_cpu, local_cpu, "batch", "idle", _JOBS)


def _run(bench: Bench, way: str) -> _View:
    """Start the jobs, wait until the last sleeps, look, and end them.

    Raises:
        BenchError: if they do not all come to sleep within two minutes.
    """
    with bench.full_nodes():
        job_ids = [bench.submit("exec sleep 1000", way) for _ in range(_JOBS)]
    bench.wait_for_jobs(job_ids, "RUNNING", timeout_s=60)
    host = bench.rig.site if way == DIVERTED else bench.rig.cluster
    if not poll(lambda: usage_by_role(host)["job"].processes >= _JOBS, timeout_s=60, interval_s=1):
        raise BenchError(f"only {usage_by_role(host)['job'].processes} of {_JOBS} jobs sleep")
    view = _look(bench, f"{_JOBS} jobs, {way}")
    bench.cancel_all()
    return view


def _look(bench: Bench, what: str) -> _View:
    bench.say(f"watching {what} for {_WATCHED_S:.0f} s")
    hosts = (bench.rig.cluster, bench.rig.site)
    cluster, site = (usage_by_role(host) for host in hosts)
    before_s, began = [cpu_seconds(host) for host in hosts], time.monotonic()
    time.sleep(_WATCHED_S)
    took_s = time.monotonic() - began
    cluster_cpu, site_cpu = (
        (cpu_seconds(host) - before) / took_s * 100 for host, before in zip(hosts, before_s, strict=True)
    )
    return _View(cluster, site, cluster_cpu, site_cpu)


def _pss_per_job(host: Mapping[str, Usage]) -> Mapping[str, float]:
    """Return the memory of one job by role; what it takes in the daemons is not in it."""
    roles = ("slurmstepd", "proxy", "sandbox", "runner", "job")
    return {role: host[role].pss_mib / _JOBS for role in roles if host[role].processes}
