"""The HTCondor back end: each attempt of a run is one job at an access point, found again by what its ad says.

At the access point each job has its runner, its token and its CA in its own spool directory, which is the account's.
Here nothing is kept: a restarted agent finds every run by one query.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from overspill.errors import AdminError, ExhaustedError, OverspillError, UnrunnableError
from overspill_agent.backends.base import Demand, Launch
from overspill_agent.backends.htcondor import description
from overspill_agent.backends.htcondor.ads import JobAd, JobStatus, MachineAd
from overspill_agent.backends.htcondor.machines import slots_of
from overspill_agent.backends.htcondor.observing import is_orphan, is_settled, sighting_of
from overspill_agent.backends.htcondor.pool import Door, Pool
from overspill_agent.backends.htcondor.refusals import token_problem
from overspill_agent.backends.htcondor.site import HtcondorSite
from overspill_agent.backends.htcondor.staging import remove_abandoned, stage
from overspill_agent.backends.htcondor.watch import Jobs, Key, Watch
from overspill_agent.capacity import Capacity, Slot
from overspill_agent.runs import Seen, Sighting, Verdict

log = structlog.get_logger(__name__)

#: So long the agent waits at its start for a pool that does not answer.
_FIRST_LOOK_S = 5.0
#: A removal that the schedd has confirmed is not asked for again before this.
_REMOVE_AGAIN_S = 10.0
#: A demand that machines were found for is not looked for again before this.
_CHECK_AGAIN_S = 60.0
_MOST_CHECKS = 1000


class HtcondorBackend:
    """`Backend` at an HTCondor access point, which may be another host's."""

    def __init__(self, site: HtcondorSite) -> None:
        """Prepare; nothing is contacted.

        Raises:
            AdminError: `htcondor2` is not installed, or the runner's file cannot be read.
        """
        self._site = site
        self._pool = Pool(Door(site.collector, site.schedd, site.token_directory, site.name))
        try:
            self._runner = site.runner.read_bytes()
        except OSError as error:
            raise AdminError(f"cannot read {site.runner}: {error.strerror}; correct [htcondor] runner") from error
        self._watch = Watch(self._pool.jobs, self._tell, most_age_s=3 * site.poll_s)
        self._machines: list[MachineAd] = []
        #: Of the last looks; None until it is asked for after one. Each submission asks, with thousands of jobs.
        self._slots: tuple[Slot, ...] | None = None
        self._callback: Callable[[str], None] = lambda _run_id: None
        self._removed_at: dict[Key, float] = {}
        self._checked: dict[Demand, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Begin to watch the queue and the machines; a pool that does not answer is asked again.

        Raises:
            AdminError: there is no token, or it has expired.
        """
        if problem := token_problem(self._site.token_directory, time.time()):
            raise AdminError(f"the HTCondor back end cannot work: {problem}")
        self._site.staging.mkdir(mode=0o700, parents=True, exist_ok=True)
        await asyncio.to_thread(remove_abandoned, self._site.staging, time.time())
        with contextlib.suppress(OverspillError, TimeoutError):
            async with asyncio.timeout(_FIRST_LOOK_S):
                await asyncio.gather(self._look_at_machines(), self._watch.refresh())
        for what, look, pause_s in (
            ("machines", self._look_at_machines, lambda: self._site.machines_poll_s),
            ("jobs", self._watch.refresh, self._pause_s),
        ):
            self._tasks.append(asyncio.create_task(_repeat(what, look, pause_s), name=f"htcondor {what}"))

    def capacity(self) -> Capacity:
        if self._slots is None:
            self._slots = slots_of(self._machines, self._watch.jobs.values(), self._site.gpu_types)
        return Capacity(self._slots, frozenset(self._site.features), has_queue=True)

    async def check(self, demand: Demand) -> None:
        """Refuse what no machine of the pool could take, be it in use or not.

        Whether a machine has an image, only a start tells, unless the site's machines advertise what they have.
        """
        suitable = description.machine_requirements(demand, self._site)
        now = time.monotonic()
        if now < self._checked.get(demand, 0.0):
            return
        if demand.gpu_type:
            description.gpu_requirement(demand.gpu_type, self._site)
        if not await self._pool.machines(f"{description.machine_size(demand)} && ({suitable})"):
            raise UnrunnableError(_no_machine(demand))
        if len(self._checked) >= _MOST_CHECKS:
            self._checked.clear()
        self._checked[demand] = now + _CHECK_AGAIN_S

    async def start(self, launch: Launch) -> None:
        """Submit the job.

        Raises:
            ExhaustedError: this host has no room for the job's files.
        """
        directory = None
        try:
            directory = await asyncio.to_thread(self._stage, launch)
            described = description.describe(launch, self._site, directory)
            job = await self._pool.submit(described, launch.run_id, launch.attempt, launch.account.name)
        except OSError as error:
            raise ExhaustedError(f"cannot write the job's files in {self._site.staging}: {error.strerror}") from error
        finally:
            self._watch.touch(launch.run_id)
            if directory is not None:
                await asyncio.to_thread(shutil.rmtree, directory)
        log.info(
            "job submitted",
            action="job_submitted",
            run_id=launch.run_id,
            attempt=launch.attempt,
            condor_job_id=job.condor_job_id,
        )

    async def stop(self, run_id: str, attempt: int) -> None:
        job = await self._watch.find(run_id, attempt)
        key = (run_id, attempt)
        now = time.monotonic()
        if job is None or is_settled(job) or now < self._removed_at.get(key, 0.0) + _REMOVE_AGAIN_S:
            return
        await self._pool.remove(run_id, attempt, why="the run is to stop")
        self._removed_at[key] = now
        self._watch.touch(run_id)

    async def observe(self, run_id: str, attempt: int) -> Sighting:
        job = await self._watch.find(run_id, attempt)
        return Sighting(Seen.NOTHING) if job is None else sighting_of(job, self._site.limits)

    async def forget(self, run_id: str) -> None:
        await self._pool.forget(run_id)
        self._watch.touch(run_id)
        self._removed_at = {key: at for key, at in self._removed_at.items() if key[0] != run_id}

    async def run_ids(self) -> frozenset[str]:
        await self._watch.refresh()
        return frozenset(run_id for run_id, _ in self._watch.jobs)

    def on_change(self, callback: Callable[[str], None]) -> None:
        self._callback = callback

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._pool.close()

    def _stage(self, launch: Launch) -> Path:
        """Write what the job is to have into a directory of its own."""
        contents = {
            description.RUNNER: self._runner,
            description.TOKEN: launch.token.encode(),
            description.CA: launch.ca_pem,
        }
        return stage(self._site.staging, contents)

    def _pause_s(self) -> float:
        is_busy = any(_is_moving(job) for job in self._watch.jobs.values())
        return self._site.busy_poll_s if is_busy else self._site.poll_s

    async def _look_at_machines(self) -> None:
        self._machines = await self._pool.machines(self._site.requirements)
        self._slots = None

    def _tell(self, before: Jobs, after: Jobs) -> None:
        """Tell of every run that is not as it was."""
        self._slots = None
        for key in {*before, *after}:
            if self._sight(before.get(key)) != self._sight(after.get(key)):
                self._callback(key[0])

    def _sight(self, job: JobAd | None) -> tuple[Seen, Verdict | None]:
        sighting = Sighting(Seen.NOTHING) if job is None else sighting_of(job, self._site.limits)
        return sighting.seen, sighting.verdict


async def _repeat(what: str, look: Callable[[], Awaitable[None]], pause_s: Callable[[], float]) -> None:
    """Look again and again; tell when the pool stops answering, and when it does again."""
    is_down = False
    while True:
        try:
            await look()
        except OverspillError as error:
            if not is_down:
                log.warning("pool does not answer", action="pool_down", asked_for=what, reason=error.reason)
            is_down = True
        except Exception:
            log.exception("pool is not watched", action="pool_watch_failed", asked_for=what)
        else:
            if is_down:
                log.info("pool answers again", action="pool_up", asked_for=what)
            is_down = False
        await asyncio.sleep(pause_s())


def _is_moving(job: JobAd) -> bool:
    """Tell whether a job is about to start or to end: a state that lasts for seconds."""
    match job.status:
        case JobStatus.RUNNING:
            return not job.is_executing
        case JobStatus.IDLE:
            return not job.starts and job.age_s < 60  # noqa: PLR2004 - later it waits for a machine
        case JobStatus.HELD:
            return job.age_s < 5 or is_orphan(job)  # noqa: PLR2004 - spooling takes seconds
        case JobStatus.REMOVED:
            return job.is_hosted
        case JobStatus.TRANSFERRING_OUTPUT:
            return True
        case _:
            return False


def _no_machine(demand: Demand) -> str:
    wanted = demand.resources
    kind = f" {demand.gpu_type}" if demand.gpu_type else ""
    gpus = f", {wanted.gpus}{kind} GPUs" if wanted.gpus else ""
    constraint = f" and --constraint={demand.constraint}" if demand.constraint else ""
    image = f" and can run image {demand.image.name}" if demand.image else ""
    return (
        f"no machine of this site's HTCondor pool has {wanted.cpus} CPUs, {wanted.memory_mib} MiB{gpus} in one"
        f" place{constraint}{image}"
    )
