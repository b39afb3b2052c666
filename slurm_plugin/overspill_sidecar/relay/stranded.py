"""Pending jobs that could start on no virtual node for too long: they go home, so that none waits for a dead site."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

import structlog

from overspill.errors import NotFoundError, OverspillError, TransientError
from overspill_sidecar import metrics
from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.config import RelayConfig
from overspill_sidecar.relay.ending import goes_home
from overspill_sidecar.relay.going_home import marked_as_refused
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.watch import ClusterWatch

_log = structlog.get_logger(__name__)

_TICK_S = 2.0
#: Each takes slurmctld's write lock twice; the rest follows with the next tick.
_AT_ONCE = 20


def closed_partitions(snapshot: Snapshot, partitions: Collection[str]) -> frozenset[str]:
    """Return those of whose nodes none can start a job now, whoever and whatever has seen to that."""
    return frozenset(name for name in partitions if not any(node.is_usable for node in snapshot.nodes_of(name)))


def stranded_jobs(snapshot: Snapshot, closed: Collection[str]) -> list[Job]:
    """Return the jobs that wait for closed partitions only and have a home.

    A job that lists its own partition, too, may start there; one whose user named the overspill partition has no other;
    one that is held, or waits for a time or a job, waits for itself.
    """
    return [
        job
        for job in snapshot.jobs
        if job.is_competing and goes_home(job) and all(name in closed for name in job.partitions)
    ]


class Strandings:
    """The loop. Its only memory is since when a partition has been closed."""

    def __init__(self, watch: ClusterWatch, view: ClusterView, sites: Sequence[Site], config: RelayConfig) -> None:
        self._watch = watch
        self._view = view
        self._site_of: Mapping[str, str] = {site.config.partition: site.name for site in sites}
        self._grace_s = config.unreachable_grace_s
        self._closed_since: dict[str, float] = {}
        self._refused: set[int] = set()

    async def run(self) -> None:
        """Look at intervals until cancelled."""
        while True:
            try:
                if picture := self._watch.fresh(time.monotonic()):
                    await self.step(picture.snapshot, time.monotonic())
            except TransientError as error:
                _log.debug("Slurm does not move jobs now", action="stranded_failed", reason=error.reason)
            except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                _log.exception("looking after stranded jobs failed", action="stranded_failed")
            await asyncio.sleep(_TICK_S)

    async def step(self, snapshot: Snapshot, now: float) -> None:
        """Send home what has waited in vain for the grace.

        Raises:
            TransientError: if Slurm does not answer.
        """
        closed = closed_partitions(snapshot, self._site_of)
        self._closed_since = {name: self._closed_since.get(name, now) for name in closed}
        hopeless = {name for name, since in self._closed_since.items() if now - since >= self._grace_s}
        stranded = [job for job in stranded_jobs(snapshot, hopeless) if job.slurm_job_id not in self._refused]
        for job in stranded[:_AT_ONCE]:
            await self._send_home(job)

    async def _send_home(self, seen: Job) -> None:
        """Give a pending job its own partitions; it keeps its place in the queue."""
        job = await self._view.job(seen.slurm_job_id)
        if job is None or job.trail is None or not job.is_competing or job.partitions != seen.partitions:
            return
        site = self._site_of[job.partitions[0]]
        facts: dict[str, object] = {"slurm_job_id": job.slurm_job_id, "site": site}
        try:
            await self._view.update(job.name, AdminComment=marked_as_refused(job, site))
            await self._view.update(job.name, Partition=job.trail.partition)
        except NotFoundError:
            return  # cancelled meanwhile
        except TransientError:
            raise
        except OverspillError as error:
            # Of an array that has begun Slurm refuses the tasks that run, and moves the others.
            self._refused.add(job.slurm_job_id)
            _log.warning("job is not moved home", action="stranded_refused", reason=error.reason, **facts)
        else:
            metrics.JOBS_RETURNED.labels(site, "stranded").inc()
            _log.info("job goes home: its site takes none", action="stranded_home", **facts)
