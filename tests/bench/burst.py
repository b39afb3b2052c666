"""100 jobs submitted one after the other while the first of them start: how many of them are diverted."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.bench import DIVERTED, Bench
from tests.bench.figure import Figure
from tests.rig.slurm_conf import OVERSPILL_PARTITION

_JOBS = 100


def measure(bench: Bench) -> Iterator[Figure]:
    bench.say(f"{_JOBS} jobs")
    job_ids = [bench.rig.sbatch("#!/bin/bash\n:\n", DIVERTED) for _ in range(_JOBS)]
    bench.wait_for_jobs(job_ids, "COMPLETED", timeout_s=120)
    partitions = [bench.rig.job(job_id)["Partition"] for job_id in job_ids]
    share = partitions.count(OVERSPILL_PARTITION) / _JOBS
    yield Figure("diverted of those to be, while they start", "%", share * 100, budget="100 %", samples=_JOBS)
    # A missed deadline keeps jobs at home for a while, and the next measurement would suffer from it.
    bench.load_hook()
