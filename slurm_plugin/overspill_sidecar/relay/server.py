"""The relay's socket: admits proxies, runs their sessions, and settles what they leave behind."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import structlog

from overspill.errors import NotPermittedError, OverspillError, RequestError, UnrunnableError
from overspill.proxy_framing import FramingError
from overspill.v1 import agent_pb2
from overspill_sidecar import metrics
from overspill_sidecar.backoff import Backoff
from overspill_sidecar.cluster import Job, Snapshot
from overspill_sidecar.config import RelayConfig
from overspill_sidecar.health import HealthRecord
from overspill_sidecar.relay.admission import Admission, RefusalLog
from overspill_sidecar.relay.connection import Hello, ProxyConnection, ProxyGoneError
from overspill_sidecar.relay.fence import Fences, stop_runs
from overspill_sidecar.relay.session import Session, Surroundings
from overspill_sidecar.relay.submission import OlderAttemptError, check_is_ours, request_id_of, submit_request
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import ClusterView
from overspill_sidecar.watch import ClusterWatch

_log = structlog.get_logger(__name__)

_OPENING_DEADLINE_S = 30.0
_PROXY_DIED = "the job's local process is gone"
#: Bytes read ahead per proxy; standard input comes in chunks of 256 KiB.
_READ_BUFFER_BYTES = 512 * 1024


class Relay:
    """Serves proxies. Keeps nothing that it cannot lose: the agent knows the runs, Slurm knows the jobs."""

    def __init__(
        self,
        watch: ClusterWatch,
        view: ClusterView,
        sites: Sequence[Site],
        config: RelayConfig,
        health: HealthRecord,
    ) -> None:
        self._watch = watch
        self._view = view
        self._sites = {site.config.partition: site for site in sites}
        self._sessions: dict[str, asyncio.Task[None]] = {}
        #: Attempts whose session broke off, which its proxy outlives, and that the site may have a run of.
        self._broken_off: set[str] = set()
        self._carried: set[Session] = set()
        self._admission = Admission()
        self._refusals = RefusalLog()
        self._group = asyncio.TaskGroup()
        spawn = functools.partial(self._group.create_task, name="departure")
        self._fences = Fences(watch, view, sites, functools.partial(self._group.create_task, name="fence"))
        grace_s = config.unreachable_grace_s
        self._surroundings = Surroundings(view, spawn, grace_s, health, self._fences, time.time())
        self._is_closing = False

    def count_jobs(self) -> int:
        """Return how many jobs' proxies are connected."""
        return len(self._sessions)

    async def run(self, path: Path, started: asyncio.Event) -> None:
        """Serve on `path`, which the caller holds, until cancelled; sets `started` once proxies may connect.

        Being cancelled closes the sockets and stops no run: the proxies wait for the next relay.
        """
        async with self._group:
            self._group.create_task(self._fences.run(), name="fences")
            self._group.create_task(self._watch_jobs(), name="jobs")
            server = await asyncio.start_unix_server(self._accept, path, limit=_READ_BUFFER_BYTES, backlog=1024)
            try:
                path.chmod(0o666)  # noqa: ASYNC240 - any user's job may call; who it is, the kernel tells
                started.set()
                await asyncio.Event().wait()
            finally:
                self._is_closing = True
                server.close()

    async def _watch_jobs(self) -> None:
        """Show each session its job as Slurm shows it, again and again."""
        while True:
            snapshot = await self._watch.snapshot_after(time.monotonic())
            jobs = {job.slurm_job_id: job for job in snapshot.jobs} if self._carried else {}
            for session in [*self._carried]:
                if job := jobs.get(session.job.slurm_job_id):
                    await session.see(job)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._group.create_task(self._handle(ProxyConnection(reader, writer)), name="proxy")

    async def _handle(self, proxy: ProxyConnection) -> None:
        user_id = proxy.user_id
        try:
            session, key = await self._admit(proxy, user_id)
            await self._carry(session, key)
        except NotPermittedError as error:
            self._refusals.note(time.monotonic(), user_id, "stranger", error.reason)
        except FramingError as error:
            self._refusals.note(time.monotonic(), user_id, "malformed_frame", str(error))
        except OverspillError as error:
            self._refusals.note(time.monotonic(), user_id, "admit_failed", error.reason)
        except (ProxyGoneError, TimeoutError):
            _log.debug("connection ended before its opening did", action="opening_ended", user_id=user_id)
        except Exception:  # noqa: BLE001 - one session's edge; logged with its traceback
            _log.exception("session failed", action="session_failed", user_id=user_id)
        finally:
            proxy.close()

    async def _admit(self, proxy: ProxyConnection, user_id: int) -> tuple[Session, str]:
        """Find out who calls and what is to be run.

        Raises:
            NotPermittedError: if the caller is not the job it says it is.
            FramingError, ProxyGoneError, TimeoutError: if the opening does not come as it must.
            TransientError: if Slurm cannot be asked now, or too many call; the proxy calls again.
        """
        async with asyncio.timeout(_OPENING_DEADLINE_S):
            with self._admission.unverified(user_id):
                hello = await proxy.read_hello()
                snapshot = await self._watch.snapshot_after(float("-inf"))
                job, site = await self._verify(hello, user_id, snapshot)
            with self._admission.opening(job.slurm_job_id):
                payload = await proxy.read_payload()
        self._surroundings.health.note_hand_over(job.batch_host)
        request_id = request_id_of(job, snapshot.config.cluster_name)
        details = await self._view.details(job.slurm_job_id)
        request = submit_request(
            request_id,
            job,
            details,
            hello,
            payload,
            kill_wait_s=snapshot.config.kill_wait_s,
            home=site.home,
            home_lease_s=site.config.lease_s,
        )
        session = Session(proxy, job, site, request, hello, self._surroundings)
        _log.info("proxy admitted", action="proxy_admitted", **session.names())
        return session, str(request_id)

    async def _verify(self, hello: Hello, user_id: int, snapshot: Snapshot) -> tuple[Job, Site]:
        job = await self._view.job(hello.slurm_job_id)
        site = self._sites.get(job.partitions[0]) if job else None
        try:
            check_is_ours(job, user_id, hello, site.config if site else None, snapshot)
        except OlderAttemptError:
            self._stop_older_attempts(hello.slurm_job_id, hello.restart_count)
            raise
        if job is None or site is None:
            raise NotPermittedError("no job of a site")
        return job, site

    def _stop_older_attempts(self, slurm_job_id: int, restart_count: int) -> None:
        """End what the sites still run of attempts up to this one. The job may have moved to another partition."""

        def is_meant(request_id: agent_pb2.RequestId) -> bool:
            return request_id.slurm_job_id == slurm_job_id and request_id.restart_count <= restart_count

        for site in self._sites.values():
            stop = functools.partial(stop_runs, site, is_meant, "Slurm has requeued this attempt of the job")
            self._until_done(stop, f"stop older attempts of {slurm_job_id}")

    async def _carry(self, session: Session, key: str) -> None:
        """Run the session, in the place of an older one for the same attempt: a proxy has one connection."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - for the type checker
        older, self._sessions[key] = self._sessions.get(key), task
        self._carried.add(session)
        try:
            if older is not None:
                older.cancel()
                await asyncio.wait([older])
            with metrics.SESSIONS.track_inprogress():
                await session.run(may_run_already=key in self._broken_off)
        except BaseException:
            if session.may_run_at_site:
                self._broken_off.add(key)
            raise
        finally:
            self._carried.discard(session)
            if self._sessions.get(key) is task:
                del self._sessions[key]
        self._broken_off.discard(key)
        self._settle(session)

    def _settle(self, session: Session) -> None:
        """See to it that the site does with the run what its job's end asks for.

        A relay that is closing leaves it to the next one.
        """
        if self._is_closing:
            return
        run_id, site = session.run_id, session.site
        if run_id is not None and session.is_settled:
            self._until_done(lambda: _release(session, run_id), f"release {run_id}")
        elif run_id is not None:
            _log.info("proxy died", action="proxy_died", **session.names())
            self._fences.begin(session.job, site, lambda: site.stop(run_id, _PROXY_DIED))
        elif not session.is_settled:
            self._fences.begin(session.job, site, lambda: _stop_submitted(session))

    def _until_done(self, act: Callable[[], Awaitable[object]], name: str) -> None:
        self._group.create_task(_repeat(act, name), name=name)


async def _release(session: Session, run_id: str) -> None:
    try:
        await session.site.release(run_id)
    except UnrunnableError:
        # Lost to us, but not ended: nobody wants its output any more.
        await session.site.stop(run_id, "the job is over")
    else:
        _log.info("run settled", action="run_settled", **session.names())


async def _stop_submitted(session: Session) -> None:
    """End the run of a proxy that died before the site had said that it has one: it, or an earlier relay's Submit."""
    if session.submission is not None:
        await asyncio.wait([session.submission])
    await stop_runs(session.site, lambda request_id: request_id == session.request_id, _PROXY_DIED)


async def _repeat(act: Callable[[], Awaitable[object]], name: str) -> None:
    """Do it until it is done or can never be. What a restart interrupts, reconciliation finds."""
    backoff = Backoff()
    while True:
        try:
            await act()
        except RequestError as error:
            _log.debug("not to be done", action="settle_refused", what=name, reason=error.reason)
            return
        except OverspillError as error:
            _log.debug("not done yet", action="settle_failed", what=name, reason=error.reason)
            await backoff.wait()
        else:
            return
