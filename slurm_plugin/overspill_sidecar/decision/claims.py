"""Which pending jobs claim a slot of a site's in vain. Pure but for its own memory.

A job that waits for a site's nodes claims what it asks for, as Slurm starts it there as soon as it looks at it. If
Slurm has had room for it there for a long time and has not started it, something else keeps it: then it does not keep
the slot from others any longer.
"""

from __future__ import annotations

from collections.abc import Mapping

from overspill_sidecar.cluster import Job, Snapshot

#: Many times what any scheduler takes to look at its whole queue.
_IN_VAIN_S = 600.0


class VainClaims:
    """Remembers since when there has been room for whom."""

    def __init__(self) -> None:
        self._since: Mapping[int, float] = {}

    def observe(self, snapshot: Snapshot) -> frozenset[int]:
        """Return the ids of the jobs whose claims no longer count; to be told of each snapshot, in order."""
        now = snapshot.asked_at
        waiting = (job for job in snapshot.jobs if job.is_competing and job.is_diverted)
        self._since = {
            job.slurm_job_id: self._since.get(job.slurm_job_id, now) for job in waiting if _has_room(job, snapshot)
        }
        return frozenset(slurm_job_id for slurm_job_id, since in self._since.items() if now - since >= _IN_VAIN_S)


def _has_room(job: Job, snapshot: Snapshot) -> bool:
    """Tell whether a node that is not at home has what the job, or one task of it, asks for."""
    home = job.trail.partition.split(",") if job.trail else ()
    return any(
        node.is_usable
        and node.cpus - node.cpus_allocated >= job.cpus
        and node.memory_mib - node.memory_allocated_mib >= job.memory_mib
        and node.gpus - node.gpus_allocated >= job.gpus
        for name in job.partitions
        if name not in home
        for node in snapshot.nodes_of(name)
    )
