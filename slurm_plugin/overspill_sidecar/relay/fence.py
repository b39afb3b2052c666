"""No new attempt of a job while an older one may still run at a site that nobody can reach.

Slurm holds a requeued job back for two minutes. A site that is cut off does not hear within them that the attempt is
over, and its run goes on: until the site confirms the end, or the run's lease with its home is over, the job's start is
put off, again and again, on its own partitions, too. The job carries a mark meanwhile, so that a relay that restarts
goes on with it. A relay that is gone puts nothing off: the job starts two minutes later.
"""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import TypeVar

import structlog

from overspill.errors import NotFoundError, OverspillError
from overspill.v1 import agent_pb2
from overspill_sidecar.backoff import Backoff
from overspill_sidecar.cluster import Job
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.trail import our_part_changed
from overspill_sidecar.watch import ClusterWatch

_log = structlog.get_logger(__name__)

_TICK_S = 2.0
#: The start is put off by this much, once it is nearer than half of it.
_PUT_OFF_S = 120
#: How long one attempt to reach the site may take.
_STOP_DEADLINE_S = 15.0

_T = TypeVar("_T")
Stop = Callable[[], Awaitable[object]]
Spawn = Callable[[Coroutine[None, None, None]], asyncio.Task[None]]


class Fences:
    """Sees to it that ended attempts are dead. Its memory is what it is about; the rest is in the jobs' marks."""

    def __init__(self, watch: ClusterWatch, view: ClusterView, sites: Sequence[Site], spawn: Spawn) -> None:
        """Do nothing yet; `spawn` starts the tasks, which end with the relay."""
        self._watch = watch
        self._view = view
        self._spawn = spawn
        self._sites = {site.name: site for site in sites}
        self._unheard = set(self._sites)
        self._tasks: dict[tuple[int, str], asyncio.Task[None]] = {}

    def begin(self, job: Job, site: Site, stop: Stop) -> None:
        """Have `stop` repeated until it succeeds, and the job's next attempt wait for that.

        Args:
            job: as it was when its attempt lived.
            site: where that attempt ran, or may have run.
            stop: ends it; returns once the site has taken note, which kills whatever it is cut off from, too.
        """
        key = (job.slurm_job_id, site.name)
        before = self._tasks.get(key)
        task = self._spawn(self._fence(job, site, stop, before))
        self._tasks[key] = task
        task.add_done_callback(lambda done: self._tasks.pop(key) if self._tasks.get(key) is done else None)

    def begin_with_older(self, job: Job, site: Site) -> None:
        """Have what the site may still run of the job's attempts before this one ended, and the job wait for that."""
        self.begin(job, site, functools.partial(stop_attempts_before, site, job))

    async def run(self) -> None:
        """Take up the jobs that an earlier relay left, until cancelled."""
        while True:
            if picture := self._watch.fresh(time.monotonic()):
                self._take_up(picture.snapshot.jobs, time.monotonic())
            await asyncio.sleep(_TICK_S)

    def _take_up(self, jobs: Sequence[Job], now: float) -> None:
        self._unheard -= {name for name, site in self._sites.items() if site.view(now).is_reachable}
        for job in jobs:
            for name in self._doubtful_sites(job):
                if (job.slurm_job_id, name) not in self._tasks:
                    self.begin_with_older(job, self._sites[name])

    def _doubtful_sites(self, job: Job) -> set[str]:
        """Return the sites that may run an older attempt of a pending job.

        A mark says so. Without one, what a job did before this relay began is unknown for as long as its site is.
        """
        if not job.is_pending or job.restart_count == 0 or job.trail is None:
            return set()
        trail = job.trail
        is_unknown = trail.site in self._unheard and job.reason == "BeginTime" and trail.site not in trail.refused_by
        return {name for name in (trail.unfenced_at, trail.site if is_unknown else "") if name in self._sites}

    async def _fence(self, job: Job, site: Site, stop: Stop, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        backoff, is_marked, is_told = Backoff(), bool(job.trail and job.trail.unfenced_at), False
        start_unix_s: float | None = None
        while not await _is_done(stop, job):
            if site.is_lease_over(time.monotonic()):
                _log.warning("lease is over", action="fence_lease_over", slurm_job_id=job.slurm_job_id, site=site.name)
                break
            if not is_told:
                facts = {"slurm_job_id": job.slurm_job_id, "site": site.name}
                _log.warning("the ended attempt cannot be stopped yet: a next one waits", action="fence_waits", **facts)
            is_marked = is_told = True
            replaced_unix_s = await self._try(self._hold(job, site))
            start_unix_s = replaced_unix_s if start_unix_s is None else start_unix_s
            await backoff.wait()
        if is_marked:
            await self._try(self._let_go(job, start_unix_s))

    async def _hold(self, job: Job, site: Site) -> float | None:
        """Keep the job's next attempt from starting soon; return when it would have started, None if that is later.

        Raises:
            OverspillError: if Slurm does not do it, or the job is over.
        """
        now = await self._mark(job, site.name)
        start_unix_s = now.start_time_s or 0
        if not now.is_pending or now.restart_count == 0 or start_unix_s >= time.time() + _PUT_OFF_S / 2:
            return None
        await self._view.update(now.name, StartTime=f"now+{_PUT_OFF_S}")
        _log.debug("next attempt put off", action="fence_put_off", slurm_job_id=job.slurm_job_id, site=site.name)
        return start_unix_s

    async def _let_go(self, job: Job, start_unix_s: float | None) -> None:
        """Take the mark off, and have the next attempt start when Slurm would have started it, or now.

        Args:
            job: as it was when its attempt lived.
            start_unix_s: when it would have started had it not been put off; None if it was not.

        Raises:
            OverspillError: if Slurm does not do it, or the job is over.
        """
        now, time_s = await self._mark(job, ""), time.time()
        # A later start than ours is somebody else's.
        if start_unix_s is not None and now.is_pending and (now.start_time_s or 0) <= time_s + _PUT_OFF_S:
            await self._view.update(now.name, StartTime=f"now+{max(0, math.ceil(start_unix_s - time_s))}")

    async def _mark(self, job: Job, site: str) -> Job:
        now = await self._view.job(job.slurm_job_id)
        if now is None:
            raise NotFoundError(f"job {job.name} is gone")
        comment = our_part_changed(now.admin_comment, {"unfenced_at": site or None})
        if comment is not None and comment != now.admin_comment and (now.is_pending or now.is_active):
            await self._view.update(now.name, AdminComment=comment)
        return now

    async def _try(self, act: Awaitable[_T]) -> _T | None:
        try:
            return await act
        except OverspillError as error:
            _log.debug("job is not put off", action="fence_failed", reason=error.reason)
            return None


async def _is_done(stop: Stop, job: Job) -> bool:
    """Try once to have the older attempt ended."""
    try:
        async with asyncio.timeout(_STOP_DEADLINE_S):
            await stop()
    except NotFoundError as error:
        _log.debug("nothing to be ended", action="fence_refused", slurm_job_id=job.slurm_job_id, reason=error.reason)
    except (OverspillError, TimeoutError):
        # A site that refuses to hear of us, because our certificate is revoked, runs on what it has.
        return False
    return True


async def stop_attempts_before(site: Site, job: Job) -> bool:
    """Have ended what the site runs of the job's attempts before this one; tell whether there was something."""
    return await stop_runs(
        site,
        lambda run: run.slurm_job_id == job.slurm_job_id and run.restart_count < job.restart_count,
        "Slurm has requeued this attempt of the job",
    )


async def stop_runs(site: Site, is_meant: Callable[[agent_pb2.RequestId], bool], reason: str) -> bool:
    """Ask the site to end these runs; tell whether one had not ended yet."""
    runs = await site.list_runs()
    meant = [run for run in runs if is_meant(run.request_id) and run.state != agent_pb2.RUN_STATE_ENDED]
    for run in meant:
        await site.stop(run.run_id, reason)
    return bool(meant)
