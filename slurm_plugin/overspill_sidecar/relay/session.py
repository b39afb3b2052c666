"""One diverted job, from its proxy's hello to its end."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import structlog

from overspill.errors import (
    ExhaustedError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    OverspillError,
    RequestError,
    TransientError,
    UnavailableError,
)
from overspill.proxy_framing import (
    MAX_STDIN_BYTES,
    MAX_UNACKNOWLEDGED_SIGNALS,
    OFFSET,
    OFFSETS,
    SIGNAL,
    FrameType,
    FramingError,
)
from overspill.states import HOME_LEASE_OVER, RunState
from overspill.v1 import agent_pb2
from overspill_sidecar import metrics
from overspill_sidecar.backoff import Backoff
from overspill_sidecar.cluster import Job
from overspill_sidecar.health import HealthRecord, does_end_speak_for_site, does_refusal_speak_for_site
from overspill_sidecar.relay import going_home
from overspill_sidecar.relay.attachment import Attachment, Progress
from overspill_sidecar.relay.connection import Hello, ProxyConnection, ProxyGoneError
from overspill_sidecar.relay.ending import EndAs, Ending, GoHome, Requeue, ending_of, goes_home, outcome_of
from overspill_sidecar.relay.fence import Fences, stop_attempts_before
from overspill_sidecar.relay.signals import ENDING, remote_signal
from overspill_sidecar.relay.submission import wish_against
from overspill_sidecar.sites.site import Site
from overspill_sidecar.slurm import ClusterView

_log = structlog.get_logger(__name__)

#: What a proxy may send once it has opened, and how long it may be.
_SESSION_FRAMES = {
    FrameType.ACK: OFFSETS.size,
    FrameType.SIGNAL: SIGNAL.size,
    FrameType.STDIN: OFFSET.size + MAX_STDIN_BYTES,
}
#: How long one attempt waits for the channel to connect; how soon a cancelled job that nobody took may end.
_CONNECT_S = 1.0
#: TERM waits for Slurm's answer no longer than this; KILL follows after KillWait, 30 s by default.
_ASK_S = 2.0
#: How a proxy whose job Slurm is ending goes: by the signal that Slurm sends first.
_ENDED_BY = int(signal.SIGTERM)
#: Slurm's clock and ours may differ by this much when they decide whether an earlier relay saw the job.
_CLOCK_SKEW_S = 5.0


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions share."""

    view: ClusterView
    #: Starts a task that outlives its session.
    spawn: Callable[[Coroutine[None, None, EndAs | None]], asyncio.Task[EndAs | None]]
    unreachable_grace_s: float
    health: HealthRecord
    fences: Fences
    #: Unix time at which this relay began: an earlier one may have submitted jobs that started before.
    began_at_unix_s: float


class Session:
    """Carries one job.

    After `run`, `run_id` tells whether the site holds a run of it, and `is_settled` whether that run's end is the
    job's end; a run that is not settled must be stopped, because nobody writes its output any more.
    """

    def __init__(
        self,
        proxy: ProxyConnection,
        job: Job,
        site: Site,
        request: agent_pb2.SubmitRequest,
        hello: Hello,
        surroundings: Surroundings,
    ) -> None:
        self.job = job
        self.site = site
        self.run_id: str | None = None
        self.is_settled = False
        #: The last Submit. It outlives the session, because cancelling it would not tell whether the site has the run.
        self.submission: asyncio.Future[agent_pb2.SubmitResponse] | None = None
        self._proxy = proxy
        self._request = request
        self._has_stdin = hello.has_stdin
        self._time_limit_s = job.time_limit_s or 0
        self._progress = Progress(hello.stdout, hello.stderr)
        self._surroundings = surroundings
        self._attachment: Attachment | None = None
        self._signals: asyncio.Queue[tuple[int, int]] = asyncio.Queue(MAX_UNACKNOWLEDGED_SIGNALS)
        self._ending_signal: int | None = None
        self._is_leaving = False
        # Nobody knows what an earlier relay did with a job; Slurm's clock tells whether the job met one.
        may_have_met_another = (job.start_time_s or 0) <= surroundings.began_at_unix_s + _CLOCK_SKEW_S
        self._may_run_already = hello.was_handed_over and may_have_met_another
        #: Whether nothing is left at the site of the job's attempts before this one.
        self._are_older_over = not job.restart_count
        self._began_at = time.monotonic()
        #: The run's state as the site told it last.
        self._state = ""
        self._is_stream_broken = False
        self._log = _log.bind(**self.names())

    @property
    def request_id(self) -> agent_pb2.RequestId:
        return self._request.request_id

    def names(self) -> dict[str, str | int | None]:
        """Return what every event of this job's names it by."""
        return {
            "slurm_cluster": self.request_id.slurm_cluster,
            "slurm_job_id": self.job.slurm_job_id,
            "restart_count": self.job.restart_count,
            "site": self.site.name,
            "run_id": self.run_id,
        }

    @property
    def may_run_at_site(self) -> bool:
        """Whether the site may hold a run of this attempt, be it one that has ended."""
        return self._may_run_already or self.submission is not None

    async def run(self, *, may_run_already: bool) -> None:
        """Carry the job until its proxy has closed the connection.

        Args:
            may_run_already: an earlier session of this relay may have left a run of this attempt at the site.

        Raises:
            FramingError: if the proxy sends what makes no sense.
        """
        self._may_run_already |= may_run_already
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(), name="proxy frames")
                group.create_task(self._carry(), name="job")
        except* ProxyGoneError:
            self._log.debug("proxy gone", action="proxy_gone", is_settled=self.is_settled)
        except* FramingError as errors:
            raise errors.exceptions[0] from None

    async def see(self, job: Job) -> None:
        """Take note of the job as Slurm shows it now: its time limit may have been changed."""
        limit_s = job.time_limit_s or 0
        if job.restart_count != self.job.restart_count or not job.has_attempt or limit_s == self._time_limit_s:
            return
        self._log.info("time limit changed", action="time_limit_changed", time_limit_s=limit_s)
        self._time_limit_s = limit_s
        if self._attachment:
            await self._attachment.set_time_limit(limit_s)

    # From the proxy

    async def _listen(self) -> None:
        while True:
            frame_type, payload = await self._proxy.read_frame(_SESSION_FRAMES)
            if frame_type is FrameType.ACK and len(payload) == OFFSETS.size:
                if self._attachment:
                    await self._attachment.acknowledge(*OFFSETS.unpack(payload))
            elif frame_type is FrameType.STDIN and len(payload) >= OFFSET.size:
                if self._attachment:
                    await self._attachment.put_stdin(OFFSET.unpack_from(payload)[0], payload[OFFSET.size :])
            elif frame_type is FrameType.SIGNAL and len(payload) == SIGNAL.size:
                await self._take_signal(*SIGNAL.unpack(payload))
            else:
                raise FramingError(f"{frame_type.name} of {len(payload)} bytes makes no sense from a proxy")

    async def _take_signal(self, sequence: int, number: int) -> None:
        """Queue a signal for the site. A job that leaves the site has no run: its proxy ends as a script would."""
        if number in ENDING:
            self._ending_signal = number
        if self._is_leaving and number in ENDING:
            await self._end(EndAs(signal_number=number))
        else:
            try:
                self._signals.put_nowait((sequence, number))
            except asyncio.QueueFull:
                raise FramingError(f"more than {MAX_UNACKNOWLEDGED_SIGNALS} signals are not acknowledged") from None

    # The job

    async def _carry(self) -> None:
        async with asyncio.TaskGroup() as group:
            ending = await self._submit()
            if ending is None:
                signals = group.create_task(self._deliver_signals(), name="signals")
                ended = await self._follow()
                signals.cancel()
                ending = ending_of(ended, self.job, self.site.name)
                self._note_end(ended)
            await self._finish(ending)

    async def _submit(self) -> Ending | None:
        """Have the site store the run, and set `run_id`. Return how the job ends if the site does not take it."""
        if self.job.hidden_options and goes_home(self.job) and not self._may_run_already:
            return GoHome(f"--{self.job.hidden_options[0]} keeps a job local, and shows only once it has started")
        if (reason := wish_against(self.job, self._request.spec.environment)) and not self._may_run_already:
            return GoHome(reason)
        backoff, give_up_at = Backoff(), time.monotonic() + self._surroundings.unreachable_grace_s
        while True:
            is_connected, is_failing = await self.site.is_connected(_CONNECT_S), False
            reason = f"the agent of {self.site.name} cannot be reached"
            try:
                if is_connected:
                    await self._submit_once()
                    return None
            except RequestError as error:
                metrics.SUBMITS_REFUSED.labels(self.site.name, error.kind).inc()
                if not self._may_run_already:
                    return self._turned_down(error)
                reason = error.reason
            except OverspillError as error:
                reason = error.reason
                is_failing = not isinstance(error, ExhaustedError)
            self._log.debug("submit failed", action="submit_failed", reason=reason)
            if ending := self._given_up(reason, give_up_at, is_failing=is_failing):
                return ending
            if is_connected:
                await backoff.wait()

    def _given_up(self, reason: str, give_up_at: float, *, is_failing: bool) -> Ending | None:
        """Return how a job ends that is not to wait for the site any longer; one that may run there waits."""
        now = time.monotonic()
        if self.site.is_lease_over(now):
            self._may_run_already = False
        if self._may_run_already:
            return None
        if self._ending_signal:
            return EndAs(signal_number=self._ending_signal)
        if now < give_up_at or not goes_home(self.job):
            return None
        self._surroundings.health.note_end(self.site.name, speaks_for_site=False if is_failing else None)
        return GoHome(reason)

    async def _submit_once(self) -> None:
        """Submit, minding what a failure leaves open: without a clear answer the run may have been stored."""
        if self.job.restart_count and await stop_attempts_before(self.site, self.job):
            # Slurm has started this attempt while no relay was there to end the one before.
            self._may_run_already = True
            raise UnavailableError("an older attempt of the job is being ended")
        self._are_older_over = True
        try:
            self.submission = asyncio.ensure_future(self.site.submit(self._request))
            response = await asyncio.shield(self.submission)
        except NotPermittedError:
            # Who we are is looked at before whether the run is known.
            self._may_run_already = self._may_run_already and await self._may_be_at_site()
            raise
        except (RequestError, ExhaustedError):
            self._may_run_already = False
            raise
        except OverspillError:
            self._may_run_already = True
            raise
        self.run_id = response.run_id
        self._state = _state_name(response.state)
        self._log = self._log.bind(run_id=self.run_id)
        if not response.is_new:
            self._log.info("run is followed again", action="run_resumed", state=self._state)
            return
        submit_s = time.monotonic() - self._began_at
        metrics.SUBMIT_SECONDS.labels(self.site.name).observe(submit_s)
        trail = self.job.trail
        self._log.info(
            "run accepted",
            action="run_accepted",
            state=self._state,
            decision_id=trail.decision_id if trail else None,
            submit_s=round(submit_s, 3),
        )

    async def _may_be_at_site(self) -> bool:
        """Tell whether the site runs the job, or does not tell."""
        try:
            return any(run.request_id == self.request_id for run in await self.site.list_runs())
        except OverspillError:
            return True

    def _turned_down(self, error: RequestError) -> Ending:
        self._log.warning("site turned the job down", action="submit_refused", reason=error.reason)
        health, site = self._surroundings.health, self.site.name
        health.note_end(site, speaks_for_site=does_refusal_speak_for_site(error))
        if goes_home(self.job):
            return GoHome(error.reason)
        return EndAs(exit_code=1, message=f"{site} does not take the job: {error.reason}")

    async def _follow(self) -> agent_pb2.Ended:
        """Attach, again after each break, until the run has ended."""
        assert self.run_id is not None  # noqa: S101 - set by `_submit`
        backoff = Backoff()
        while True:
            self._attachment = Attachment(
                self.site,
                self._proxy,
                self._progress,
                has_stdin=self._has_stdin,
                log=self._log,
                on_state=self._note_state,
            )
            before = dict(self._progress.sent)
            try:
                return await self._attachment.follow(self.run_id, self._time_limit_s)
            except (NotFoundError, InvalidRequestError) as error:
                return agent_pb2.Ended(outcome=agent_pb2.RUN_OUTCOME_LOST, reason=error.reason)
            except OverspillError as error:
                if self.site.is_lease_over(time.monotonic()):
                    return agent_pb2.Ended(outcome=agent_pb2.RUN_OUTCOME_NODE_FAIL, reason=HOME_LEASE_OVER)
                self._note_break(error)
            finally:
                self._attachment.close()
                self._attachment = None
            if self._progress.sent != before:
                backoff.reset()
            await backoff.wait()

    def _note_break(self, error: OverspillError) -> None:
        """Tell of a break once, however often the stream cannot be opened again."""
        inform = self._log.debug if self._is_stream_broken else self._log.info
        inform("attach broke", action="attach_broke", reason=error.reason)
        self._is_stream_broken = True

    def _note_state(self, change: agent_pb2.StateChange) -> None:
        """Take note of the run's state: an attachment's first message, and each change after it."""
        if self._is_stream_broken:
            self._is_stream_broken = False
            metrics.ATTACH_RESUMES.labels(self.site.name).inc()
            self._log.info("attach resumed", action="attach_resumed")
        state = _state_name(change.state)
        if state not in {self._state, RunState.ENDED}:
            self._log.info(
                "run changed its state", action="run_state", from_state=self._state, state=state, at_ms=change.at_ms
            )
            self._state = state

    def _note_end(self, ended: agent_pb2.Ended) -> None:
        outcome = agent_pb2.RunOutcome.Name(ended.outcome).removeprefix("RUN_OUTCOME_")
        metrics.RUNS_ENDED.labels(self.site.name, outcome).inc()
        if ended.reason != HOME_LEASE_OVER:
            speaks = does_end_speak_for_site(outcome_of(ended.outcome), has_started=ended.started_at_ms > 0)
            self._surroundings.health.note_end(self.site.name, speaks_for_site=speaks)
        run_ms = ended.ended_at_ms - ended.started_at_ms if ended.started_at_ms else 0
        self._log.info(
            "run changed its state",
            action="run_state",
            from_state=self._state,
            state=RunState.ENDED.value,
            outcome=outcome,
            exit_code=ended.exit_code,
            signal=ended.signal,
            reason=ended.reason or None,
            run_s=run_ms / 1000,
        )

    async def _deliver_signals(self) -> None:
        """Hand each signal to the agent, in order, until it is stored; then tell the proxy."""
        assert self.run_id is not None  # noqa: S101 - set by `_submit`
        while True:
            sequence, number = await self._signals.get()
            is_job_ending = number == signal.SIGTERM and await self._is_job_ending()
            remote_number, scope = remote_signal(number, is_job_ending=is_job_ending)
            request = agent_pb2.SignalRequest(
                run_id=self.run_id, signal=remote_number, scope=scope, signal_seq=sequence
            )
            backoff = Backoff()
            while not await self._is_signal_stored(request):
                await backoff.wait()
            metrics.SIGNALS.labels(self.site.name).inc()
            self._log.info("signal stored", action="signal_stored", signal=remote_number)
            await self._proxy.send(FrameType.SIGNAL_ACK, OFFSET.pack(sequence))

    async def _is_job_ending(self) -> bool:
        """Ask whether Slurm is ending this attempt; where it does not answer at once, assume so."""
        try:
            async with asyncio.timeout(_ASK_S):
                now = await self._surroundings.view.job(self.job.slurm_job_id)
        except (OverspillError, TimeoutError):
            return True
        return now is None or not now.has_attempt or now.restart_count != self.job.restart_count

    async def _is_signal_stored(self, request: agent_pb2.SignalRequest) -> bool:
        try:
            await self.site.signal(request)
        except (NotFoundError, InvalidRequestError) as error:
            self._log.warning("signal refused", action="signal_refused", signal=request.signal, reason=error.reason)
        except OverspillError as error:
            self._log.debug("signal not delivered yet", action="signal_failed", reason=error.reason)
            return False
        return True

    # The end

    async def _finish(self, ending: Ending) -> None:
        if isinstance(ending, EndAs):
            await self._end(ending)
            return
        self._is_leaving = self.is_settled = True
        # Slurm ends the proxy as soon as it is asked, which ends this session, but not what is to follow.
        departure = self._surroundings.spawn(self._depart(ending))
        if stays := await asyncio.shield(departure):
            await self._end(stays)

    async def _depart(self, ending: Requeue | GoHome) -> EndAs | None:
        """Have Slurm take the job back; return how the job ends if it does not."""
        view, backoff = self._surroundings.view, Backoff()
        is_told = is_noted = False
        while True:
            try:
                if goes_home(self.job):
                    is_leaving = await going_home.send_home(view, self.job, self.site.name)
                else:
                    is_leaving = await going_home.requeue(view, self.job)
                if is_leaving and not is_noted:
                    self._note_return(ending)
                    is_noted = True
                    if not self._are_older_over:
                        self._surroundings.fences.begin_with_older(self.job, self.site)
                if is_leaving and isinstance(ending, GoHome) and self._are_older_over:
                    await going_home.start_soon(view, self.job)
            except TransientError as error:
                log = self._log.debug if is_told else self._log.warning
                log("Slurm does not take the job back yet", action="leave_failed", reason=error.reason)
                is_told = True
                await backoff.wait()
            except OverspillError as error:
                self._log.warning("Slurm does not take the job back", action="leave_refused", reason=error.reason)
                return EndAs(exit_code=1, message=f"{ending.reason} (and Slurm says: {error.reason})")
            else:
                # What Slurm is ending is not to be brought back to life.
                return None if is_leaving else EndAs(signal_number=_ENDED_BY)

    def _note_return(self, ending: Requeue | GoHome) -> None:
        is_requeue = isinstance(ending, Requeue)
        metrics.JOBS_RETURNED.labels(self.site.name, "requeued" if is_requeue else "sent_home").inc()
        self._log.info(
            "job left the site", action="job_requeued" if is_requeue else "job_sent_home", reason=ending.reason
        )

    async def _end(self, ending: EndAs) -> None:
        self.is_settled = True
        await self._proxy.send(FrameType.END, ending.to_json())


def _state_name(state: agent_pb2.RunState.ValueType) -> str:
    """Return the state's name; a newer agent's unknown one counts as not ended yet."""
    return agent_pb2.RunState.Name(state).removeprefix("RUN_STATE_") if state in agent_pb2.RunState.values() else ""
