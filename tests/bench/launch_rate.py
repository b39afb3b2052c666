"""100 short jobs that all may start at once, until all are complete: diverted and on batch in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from tests.bench.bench import DIVERTED, LOCAL, Bench
from tests.bench.figure import Figure
from tests.bench.processes import cpu_seconds, machine_cpu_seconds, usage_by_role

_JOBS = 100
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Launch:
    """What starting and ending jobs cost."""

    jobs_per_s: float
    #: CPU time by where it was spent, for one job.
    cpu_ms: Mapping[str, float]


def measure(bench: Bench) -> Iterator[Figure]:
    launches: dict[str, list[Launch]] = {DIVERTED: [], LOCAL: []}
    for number in range(_ROUNDS):
        for way in (DIVERTED, LOCAL):
            bench.say(f"{_JOBS} jobs, round {number + 1} of {_ROUNDS}, {way}")
            launches[way].append(launch(bench, way, ":"))
    diverted, local = launches[DIVERTED], launches[LOCAL]
    rate, local_rate = (median(launch.jobs_per_s for launch in way) for way in (diverted, local))
    yield Figure("first start to last end", "jobs/s", rate, local_rate, "batch", samples=_ROUNDS)
    for place in diverted[0].cpu_ms:
        used = [median(launch.cpu_ms[place] for launch in way) for way in (diverted, local)]
        yield Figure(f"CPU time of one launch, {place}", "ms", used[0], used[1], "batch", "", _ROUNDS)


def launch(bench: Bench, way: str, body: str, *, jobs: int = _JOBS) -> Launch:
    """Have jobs with this script wait behind a full node, let them go, and wait for the last one's end."""
    with bench.full_nodes():
        job_ids = [bench.submit(body, way) for _ in range(jobs)]
        before_s = _cpu_s(bench)
    bench.wait_for_jobs(job_ids, "COMPLETED", timeout_s=max(120, 3 * jobs))
    after_s = _cpu_s(bench)
    log = bench.controller_log()
    took_s = max(log.done_at[job_id] for job_id in job_ids) - min(log.started_at[job_id] for job_id in job_ids)
    return Launch(jobs / took_s, {place: (after_s[place] - before_s[place]) * 1e3 / jobs for place in after_s})


def _cpu_s(bench: Bench) -> Mapping[str, float]:
    """Return CPU times since the start.

    Of the cluster there is no sum: slurmstepd ends as an orphan, and the rig's PID 1 lets the kernel reap it unread.
    """
    cluster, site = usage_by_role(bench.rig.cluster), usage_by_role(bench.rig.site)
    return {
        "whole machine": machine_cpu_seconds(),
        "site": cpu_seconds(bench.rig.site),
        "agent": site["agent"].own_cpu_s,
        "router": cluster["router"].own_cpu_s,
        "relay": cluster["relay"].own_cpu_s,
        "slurmctld": cluster["slurmctld"].own_cpu_s,
    }
