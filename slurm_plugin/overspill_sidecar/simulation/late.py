"""The router's late look at a simulated queue: the same candidates by the same rules, on a simulated clock.

A job that is let go starts at once, because its slot is free in that moment: so nothing is ever called back here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from overspill_sidecar.cluster import ClusterConfig, Job, Snapshot
from overspill_sidecar.decision.capacity import SiteView
from overspill_sidecar.pending.candidates import Look, to_add
from overspill_sidecar.policy import Policy
from overspill_sidecar.simulation.workload import ReplayedJob
from overspill_sidecar.wait import WaitEstimate

#: A cluster of which nothing is configured that a late look goes by.
_CONFIG = ClusterConfig(
    cluster_name="",
    kill_wait_s=0,
    manages_memory=False,
    memory_per_cpu_mib=None,
    memory_per_node_mib=None,
    parameters=(),
)


class LateLooks:
    """The jobs that wait at home and may still go, and when they are looked at."""

    def __init__(self, every_s: float) -> None:
        """Wait for jobs.

        Args:
            every_s: from one look to the next; infinite: there is none.
        """
        self._every_s = every_s
        self._jobs: dict[int, Job] = {}

    def add(self, job: ReplayedJob) -> None:
        """Take note of a job that begins to wait."""
        self._jobs[job.key] = _shown(job)

    def discard(self, key: int) -> None:
        """Forget a job that waits no more, or is to be left alone, if it is known."""
        self._jobs.pop(key, None)

    def next_s(self, now_s: float) -> float:
        """Return when the next look is; infinite as long as nobody waits."""
        if not self._jobs or math.isinf(self._every_s):
            return math.inf
        return (now_s // self._every_s + 1) * self._every_s

    def candidates(
        self,
        now_s: float,
        policy: Policy,
        sites: Sequence[SiteView],
        outlook: Callable[[int, float], WaitEstimate | None],
    ) -> list[int]:
        """Return the keys of jobs that may be better off at a site, the worst outlook first.

        Args:
            now_s: the time.
            policy: the words in force.
            sites: as they are now.
            outlook: of a job, by its key, at a time.
        """
        snapshot = Snapshot(now_s, now_s, _CONFIG, tuple(self._jobs.values()), {}, {})
        look = Look(
            snapshot,
            policy,
            sites,
            outlook=lambda job, _partition: outlook(job.slurm_job_id, now_s),
            is_passed_over=lambda _job: False,
        )
        return [job.slurm_job_id for job in to_add(look, len(snapshot.jobs))]


def _shown(job: ReplayedJob) -> Job:
    """Return a job that waits as Slurm would show it, by its key instead of its id."""
    return Job(
        slurm_job_id=job.key,
        array_job_id=job.key,
        array_task_id=None,
        tasks=1,
        user_id=0,
        user_name=job.past.user,
        group_id=0,
        state="PENDING",
        reason="Resources",
        partitions=(job.past.partition,),
        nodes="",
        batch_host="",
        cpus=job.past.cpus,
        memory_mib=0,
        gpus=0,
        time_limit_s=job.past.time_limit_s,
        start_time_s=None,
        end_time_s=None,
        submit_time_s=round(job.at_s),
        priority=-job.key,
        restart_count=0,
        can_requeue=True,
        admin_comment="",
        trail=None,
        eligible_time_s=round(job.at_s),
    )
