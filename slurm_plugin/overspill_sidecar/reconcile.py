"""Comparing what the sites run with what Slurm runs: the net under everything that a crash can interrupt."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Iterable, Sequence
from dataclasses import dataclass

import structlog

from overspill.errors import OverspillError, RequestError
from overspill.v1 import agent_pb2
from overspill_sidecar import metrics
from overspill_sidecar.cluster import Job
from overspill_sidecar.sites.site import Site
from overspill_sidecar.watch import ClusterWatch

_log = structlog.get_logger(__name__)

_Attempt = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Step:
    """What to do at one site, by run id, and what to remember until the next look."""

    stops: tuple[str, ...]
    releases: tuple[str, ...]
    #: Runs without a job, seen so for the first time: Slurm is asked once more before anything is done.
    suspects: frozenset[str]


def step(runs: Iterable[agent_pb2.RunSummary], jobs: Iterable[Job], suspects: Collection[str]) -> Step:
    """Return what to do about runs whose job's attempt is no longer there.

    `jobs` is a complete answer of Slurm's, asked after the runs were listed, so that a job that started in between
    counts. A requeued job keeps its id: another restart count or submit time is another attempt.
    """
    attempts = {_attempt(job) for job in jobs if job.is_active}
    orphans = [run for run in runs if _attempt_of(run.request_id) not in attempts]
    confirmed = [run for run in orphans if run.run_id in suspects]
    return Step(
        stops=tuple(run.run_id for run in confirmed if run.state != agent_pb2.RUN_STATE_ENDED),
        releases=tuple(run.run_id for run in confirmed if run.state == agent_pb2.RUN_STATE_ENDED),
        suspects=frozenset(run.run_id for run in orphans),
    )


def _attempt(job: Job) -> _Attempt:
    return job.slurm_job_id, job.submit_time_s, job.restart_count


def _attempt_of(request_id: agent_pb2.RequestId) -> _Attempt:
    return request_id.slurm_job_id, request_id.submit_time_s, request_id.restart_count


class Reconciler:
    """Looks at each site every now and then. A site or a Slurm that does not answer changes nothing."""

    def __init__(self, watch: ClusterWatch, sites: Sequence[Site], interval_s: float) -> None:
        self._watch = watch
        self._sites = sites
        self._interval_s = interval_s
        self._suspects: dict[str, frozenset[str]] = {}

    async def run(self) -> None:
        """Look at intervals until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            for site in self._sites:
                try:
                    await self.look_at(site)
                except OverspillError as error:
                    _log.debug("site not reconciled", action="reconcile_failed", site=site.name, reason=error.reason)
                except Exception:  # noqa: BLE001 - the loop's edge; logged with its traceback
                    _log.exception("reconciliation failed", action="reconcile_failed", site=site.name)

    async def look_at(self, site: Site) -> None:
        """Compare once and act.

        Raises:
            OverspillError: if the site does not answer.
        """
        runs = await site.list_runs()
        snapshot = await self._watch.snapshot_after(time.monotonic())
        todo = step(runs, snapshot.jobs, self._suspects.get(site.name, frozenset()))
        self._suspects[site.name] = todo.suspects
        for run_id in todo.stops:
            _log.warning("run without a job", action="orphan_stopped", site=site.name, run_id=run_id)
            metrics.ORPHANS.labels(site.name, "stopped").inc()
            await _do(site.stop(run_id, "Slurm no longer has this attempt of the job"))
        for run_id in todo.releases:
            _log.info("ended run without a job", action="orphan_released", site=site.name, run_id=run_id)
            metrics.ORPHANS.labels(site.name, "released").inc()
            await _do(site.release(run_id))


async def _do(action: Awaitable[None]) -> None:
    try:
        await action
    except RequestError as error:
        _log.debug("not to be done", action="reconcile_refused", reason=error.reason)
