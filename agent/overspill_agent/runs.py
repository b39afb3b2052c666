"""One run as the agent knows it, every change that it may undergo, and what is to be done next. Pure.

Every function takes a run and returns the run that follows, or the same object where nothing changes; nobody else sets
a state. That is how a run gets exactly one outcome and never goes back, whatever arrives late, twice or out of order.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from enum import StrEnum
from signal import Signals

from overspill.request_id import RequestId
from overspill.states import Outcome, RunState, is_allowed

#: So often one agent starts a run, each time as a new attempt, if the starts leave no trace of a process (the launcher
#: failed). Starts that a shortage at the site prevents do not count, nor do those of an agent that has died since.
MAX_TRIES = 5
#: Pauses after starts that a shortage prevented: each twice as long as the one before.
_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0
#: How long a runner that is not wanted any more may take to send its processes' last output and end by itself, before
#: the backend kills it.
STOP_GRACE_S = 3.0
#: From the end of a runner's lease until nothing of its job can be alive: it kills, and kills again.
LEASE_MARGIN_S = 10


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run holds or a site has. Memory in MiB; 0 where it is not managed."""

    cpus: int = 0
    memory_mib: int = 0
    gpus: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.cpus + other.cpus, self.memory_mib + other.memory_mib, self.gpus + other.gpus)

    def __mul__(self, factor: int) -> Resources:
        return Resources(self.cpus * factor, self.memory_mib * factor, self.gpus * factor)

    def less(self, other: Resources) -> Resources:
        """Return what is left after `other`, never below zero."""
        return Resources(
            max(0, self.cpus - other.cpus),
            max(0, self.memory_mib - other.memory_mib),
            max(0, self.gpus - other.gpus),
        )

    def capped(self, most: Resources) -> Resources:
        """Return no more of each than `most` has."""
        return Resources(min(self.cpus, most.cpus), min(self.memory_mib, most.memory_mib), min(self.gpus, most.gpus))

    def fits_in(self, room: Resources) -> bool:
        return self.cpus <= room.cpus and self.memory_mib <= room.memory_mib and self.gpus <= room.gpus

    def times(self, wanted: Resources) -> int:
        """Return how often it holds `wanted`; what wants nothing it holds any number of times."""
        pairs = ((self.cpus, wanted.cpus), (self.memory_mib, wanted.memory_mib), (self.gpus, wanted.gpus))
        return min((have // want for have, want in pairs if want), default=sys.maxsize)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `exit_code` counts with COMPLETED, `signal` with SIGNALED; CPU times are getrusage's."""

    outcome: Outcome
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    user_cpu_ms: int = 0
    system_cpu_ms: int = 0
    max_rss_kib: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt of one Slurm job, at this site.

    Attributes:
        account: the user here, by name; the mapping's result, fixed at acceptance.
        attempt: number of the last start, 0 before the first; the fencing token with `run_id`.
        report_seq: highest report of the runner that was applied; starts again with each attempt.
        signal_seq: highest signal of the relay that was accepted.
        image: what it runs in, by its name in the site's catalogue; empty where the site has none. Fixed at acceptance.
        gpu_type: of which type its GPUs must be; empty: any.
        stop_reason: why it is to be stopped; None while nobody wants that.
        stop_outcome: what it ends as when it has been stopped.
        remote_id: what the backend's own tools know it by; empty before it is known.
        machine: where it runs, as the backend names it; empty before it is known.
        started_at_ms: when the script started, None before.
        is_cleaned: nothing of it is left at the backend.
        is_released: the cluster has taken note of the end.
    """

    run_id: str
    request_id: RequestId
    account: str
    resources: Resources
    has_stdin: bool
    accepted_at_ms: int
    state_at_ms: int
    state: RunState = RunState.ACCEPTED
    is_stdin_complete: bool = False
    attempt: int = 0
    report_seq: int = 0
    signal_seq: int = 0
    image: str = ""
    gpu_type: str = ""
    stop_reason: str | None = None
    stop_outcome: Outcome = Outcome.CANCELLED
    remote_id: str = ""
    machine: str = ""
    started_at_ms: int | None = None
    ended_at_ms: int | None = None
    ending: Ending | None = None
    is_cleaned: bool = False
    is_released: bool = False

    @property
    def has_ended(self) -> bool:
        return self.state.is_terminal

    @property
    def is_stop_wanted(self) -> bool:
        return self.stop_reason is not None

    @property
    def is_ready(self) -> bool:
        """Whether all its inputs are here."""
        return self.is_stdin_complete or not self.has_stdin


@dataclass(frozen=True, slots=True)
class EndReport:
    """The runner's last word. Exactly one of `exit_code` and `signal` where the script ran; neither with `error`.

    `oom_kills` counts the processes of the run that the kernel killed for want of memory, as far as that can be told.
    """

    exit_code: int | None = None
    signal: int | None = None
    is_timed_out: bool = False
    is_lease_lost: bool = False
    oom_kills: int = 0
    error: str = ""
    user_cpu_ms: int = 0
    system_cpu_ms: int = 0
    max_rss_kib: int = 0
    stdout_bytes: int = 0
    stderr_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a backend knows of an end that no runner will tell: `reason` is a sentence for the user."""

    outcome: Outcome
    reason: str


def moved(run: Run, state: RunState, at_ms: int) -> Run:
    """Return the run in `state` if that is a way forward, else the run as it is."""
    if not is_allowed(run.state, state):
        return run
    return replace(run, state=state, state_at_ms=at_ms)


def stdin_awaited(run: Run, at_ms: int) -> Run:
    return moved(run, RunState.STAGING_IN, at_ms) if run.has_stdin else run


def stdin_completed(run: Run) -> Run:
    return run if run.is_stdin_complete or run.has_ended else replace(run, is_stdin_complete=True)


def attempt_begun(run: Run, at_ms: int) -> Run:
    """Return the run as one that is handed to the backend, once more. Nothing of it may be alive."""
    if run.started_at_ms is not None or run.has_ended or run.is_stop_wanted:
        return run
    return replace(moved(run, RunState.QUEUED, at_ms), attempt=run.attempt + 1, report_seq=0, remote_id="", machine="")


def pause_after_shortage_s(shortages: int) -> float:
    """Return how long a start waits that shortages have prevented so often, from 1."""
    doublings = min(shortages - 1, 10)
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * (1 << doublings))


def script_started(run: Run, at_ms: int) -> Run:
    if run.started_at_ms is not None or not is_allowed(run.state, RunState.RUNNING):
        return run
    return replace(moved(run, RunState.RUNNING, at_ms), started_at_ms=at_ms)


def report_applied(run: Run, report_seq: int) -> Run:
    return replace(run, report_seq=max(run.report_seq, report_seq))


def stop_wanted(run: Run, reason: str, outcome: Outcome = Outcome.CANCELLED) -> Run:
    """Return the run as one that is to be stopped; the first reason and its outcome stay."""
    if run.is_stop_wanted or run.has_ended:
        return run
    return replace(run, stop_reason=reason, stop_outcome=outcome)


def given_up(run: Run, verdict: Verdict) -> Run:
    """Return the run as one that the backend has given up: what is left of it is to be removed."""
    return stop_wanted(run, verdict.reason, verdict.outcome)


def placed(run: Run, remote_id: str, machine: str) -> Run:
    """Return the run with what its backend says of where it is; what is not said any more stays."""
    return replace(run, remote_id=remote_id or run.remote_id, machine=machine or run.machine)


def ended(run: Run, ending: Ending, at_ms: int) -> Run:
    """Return the run with its one and only outcome; one that has it keeps it."""
    if run.has_ended:
        return run
    return replace(moved(run, RunState.ENDED, at_ms), ending=ending, ended_at_ms=at_ms)


def cleaned(run: Run) -> Run:
    return replace(run, is_cleaned=True) if run.has_ended else run


def released(run: Run) -> Run:
    return replace(run, is_released=True) if run.has_ended else run


def ending_of_report(run: Run, report: EndReport) -> Ending:
    """Return what the runner's last word means for the run."""
    outcome, reason = _judge(run, report)
    return Ending(
        outcome=outcome,
        exit_code=report.exit_code or 0,
        signal=report.signal or 0,
        reason=reason,
        user_cpu_ms=report.user_cpu_ms,
        system_cpu_ms=report.system_cpu_ms,
        max_rss_kib=report.max_rss_kib,
        stdout_bytes=report.stdout_bytes,
        stderr_bytes=report.stderr_bytes,
    )


def _judge(run: Run, report: EndReport) -> tuple[Outcome, str]:
    if report.is_timed_out:
        return Outcome.TIMEOUT, "the site stopped the job at its time limit"
    if report.is_lease_lost:
        return Outcome.NODE_FAIL, "the runner lost its agent for longer than the lease and stopped the job"
    if report.exit_code is None and run.stop_reason is not None:
        return run.stop_outcome, run.stop_reason
    if report.oom_kills and (report.exit_code or report.signal == Signals.SIGKILL):
        return Outcome.OUT_OF_MEMORY, "the job used more memory than it had asked for, and the kernel killed a process"
    if report.exit_code is not None or report.signal is not None:
        return Outcome.SIGNALED if report.exit_code is None else Outcome.COMPLETED, report.error
    return Outcome.REJECTED, report.error or "the script could not be started"


def ending_without_report(
    run: Run, sighting: Sighting, *, stdout_bytes: int, stderr_bytes: int, start_error: str = ""
) -> Ending:
    """Return how a run ended that nothing is left of and that no runner spoke the last word on.

    Args:
        run: the run.
        sighting: what the backend says of its last attempt: NOTHING or GONE, or LOST for longer than its lease.
        stdout_bytes: its output that has come.
        stderr_bytes: likewise.
        start_error: why its last start failed; empty if none did.
    """
    if run.stop_reason is not None:
        outcome, reason = run.stop_outcome, run.stop_reason
    elif sighting.verdict is not None:
        outcome, reason = sighting.verdict.outcome, sighting.verdict.reason
    elif run.attempt == 0:
        outcome, reason = Outcome.REJECTED, "the site could not start the job"
    elif run.started_at_ms is None and sighting.seen is Seen.NOTHING:
        why = f": {start_error}" if start_error else ""
        outcome, reason = Outcome.REJECTED, f"the site could not start the job in {run.attempt} attempts{why}"
    elif sighting.seen is Seen.LOST:
        outcome, reason = Outcome.NODE_FAIL, "the machine that the job was on has not been heard of for its lease"
    else:
        outcome, reason = Outcome.NODE_FAIL, "the job's runner is gone without a word about the script"
    return Ending(outcome=outcome, reason=reason, stdout_bytes=stdout_bytes, stderr_bytes=stderr_bytes)


class SignalEffect(StrEnum):
    """What becomes of a signal for a run."""

    DELIVER = "DELIVER"
    """It is the runner's to deliver, now or as soon as the script runs."""
    CANCEL = "CANCEL"
    """There is no script yet, and there will be none."""
    DROP = "DROP"


#: Whoever sends one of these to every process wants the job to be over. One that goes to the shell alone is a warning
#: that the script may know (`--signal=B:TERM@60`): it waits for the script, as do those that suspend and resume.
_ENDING = frozenset(
    {Signals.SIGHUP, Signals.SIGINT, Signals.SIGQUIT, Signals.SIGABRT, Signals.SIGKILL, Signals.SIGTERM}
)


def signal_effect(run: Run, signal: int, *, is_for_all: bool, may_run: bool = False) -> SignalEffect:
    """Return what a signal does now.

    Args:
        run: the run.
        signal: the signal's number.
        is_for_all: it is for every process, not for the shell alone.
        may_run: its runner has been given the script: it may run, though nobody has said so yet.
    """
    if run.has_ended:
        return SignalEffect.DROP
    is_cancel = is_for_all and signal in _ENDING
    is_waiting = run.started_at_ms is None and not may_run
    return SignalEffect.CANCEL if is_cancel and is_waiting else SignalEffect.DELIVER


def signal_asked(run: Run, signal_seq: int, signal: int, *, is_for_all: bool, may_run: bool = False) -> Run:
    """Return the run that has taken note of the relay's signal; the same run if it had before.

    The rest is as in `signal_effect`.
    """
    if run.has_ended or signal_seq <= run.signal_seq:
        return run
    noted = replace(run, signal_seq=signal_seq)
    if signal_effect(run, signal, is_for_all=is_for_all, may_run=may_run) is SignalEffect.CANCEL:
        return stop_wanted(noted, "the job was cancelled before its script started")
    return noted


def signal_delivered(run: Run, signal: int, *, is_for_all: bool, at_ms: int) -> Run:
    """Return the run after a signal reached it; stopping every process suspends it, continuing them resumes it."""
    if signal == Signals.SIGSTOP and is_for_all:
        return moved(run, RunState.SUSPENDED, at_ms)
    if signal == Signals.SIGCONT and run.state is RunState.SUSPENDED:
        return moved(run, RunState.RUNNING, at_ms)
    return run


class Seen(StrEnum):
    """What the backend sees of an attempt."""

    NOTHING = "NOTHING"
    """It was never started: no process of it has ever run."""
    ALIVE = "ALIVE"
    """It waits in the backend's own queue, or it was started and something of it may be there."""
    LOST = "LOST"
    """Out of the backend's sight: a process of it may live, unheard, for as long as its runner's lease."""
    GONE = "GONE"
    """It was started and nothing of it is left."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A backend's observation of one attempt.

    Attributes:
        seen: what is left of it.
        verdict: how it ended, or, while something of it is left, that it never will do what it should: it is then
            stopped. None where only its runner can tell.
        remote_id: what the backend's own tools know it by; empty if there is nothing.
        machine: the name in `Slot.name` of where it is; empty while that is not known.
    """

    seen: Seen
    verdict: Verdict | None = None
    remote_id: str = ""
    machine: str = ""


class Action(StrEnum):
    """What is to be done about a run, now."""

    WAIT = "WAIT"
    START = "START"
    STOP = "STOP"
    GIVE_UP = "GIVE_UP"
    END = "END"
    CLEAN = "CLEAN"


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of a run beside its record.

    Attributes:
        sighting: the backend's observation of the last attempt.
        has_room: whether what the run asks for is free at the site.
        is_reporting: a runner's upload is open; what it says comes before what its absence would say.
        tries: starts by this agent that no shortage prevented.
        is_lease_over: the runner has heard nothing of this agent for so long that it has stopped its job.
        unwanted_s: for how long this agent has known that nothing of it should live, be it that it ended, be it that it
            is to be stopped.
    """

    sighting: Sighting
    has_room: bool = True
    is_reporting: bool = False
    tries: int = 0
    is_lease_over: bool = False
    unwanted_s: float = 0.0

    @property
    def may_live(self) -> bool:
        seen = self.sighting.seen
        return seen is Seen.ALIVE or (seen is Seen.LOST and not self.is_lease_over)


def next_action(run: Run, sight: Sight) -> Action:
    """Return what brings the run on, given what is wanted and what is seen."""
    if run.is_cleaned:
        return Action.WAIT
    if sight.may_live:
        return _action_on_the_living(run, sight)
    if run.has_ended:
        return Action.CLEAN
    if sight.is_reporting:
        return Action.WAIT
    is_over = run.is_stop_wanted or sight.sighting.verdict is not None or sight.tries >= MAX_TRIES
    if is_over or _was_started(run, sight):
        return Action.END
    return Action.START if run.is_ready and sight.has_room else Action.WAIT


def _action_on_the_living(run: Run, sight: Sight) -> Action:
    if run.has_ended or run.is_stop_wanted:
        return Action.STOP if sight.unwanted_s >= STOP_GRACE_S else Action.WAIT
    return Action.WAIT if sight.sighting.verdict is None else Action.GIVE_UP


def _was_started(run: Run, sight: Sight) -> bool:
    return sight.sighting.seen is not Seen.NOTHING or run.started_at_ms is not None
