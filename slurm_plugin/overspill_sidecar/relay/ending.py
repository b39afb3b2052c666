"""How a run's end becomes the job's end. Pure.

A job is never COMPLETED unless its script ended with 0; a loss of the site's is a node failure, as Slurm has it.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass

from overspill.states import Outcome
from overspill.v1 import agent_pb2
from overspill_sidecar.cluster import Job

#: What the script's shell would have shown, had Slurm killed it: KILL, whose number the OOM killer uses, too.
_KILLED = int(signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class EndAs:
    """The proxy ends: with `exit_code`, or by `signal_number`, and writes `message` to stderr if there is one."""

    exit_code: int | None = None
    signal_number: int | None = None
    message: str = ""

    def to_json(self) -> bytes:
        """Return the payload of END."""
        how = {"signal": self.signal_number} if self.signal_number else {"exit_code": self.exit_code or 0}
        return json.dumps(how | ({"message": self.message} if self.message else {})).encode()


@dataclass(frozen=True, slots=True)
class Requeue:
    """Slurm is to start the job again, as after a node failure: at home, if it has one, and after the usual pause."""

    reason: str


@dataclass(frozen=True, slots=True)
class GoHome:
    """The job is to run where the user sent it, and soon: nothing of it ever ran at the site."""

    reason: str


Ending = EndAs | Requeue | GoHome


def ending_of(ended: agent_pb2.Ended, job: Job, site: str) -> Ending:
    """Return what becomes of `job` now that its run has ended so."""
    outcome = outcome_of(ended.outcome)
    reason = _sentence(site, outcome, ended.reason)
    match outcome:
        case Outcome.COMPLETED:
            return EndAs(exit_code=ended.exit_code)
        case Outcome.SIGNALED:
            return EndAs(signal_number=ended.signal or _KILLED)
        case Outcome.CANCELLED | Outcome.TIMEOUT:
            # Slurm has the last word on the job's state; a script that outlived TERM was killed.
            return EndAs(signal_number=ended.signal or int(signal.SIGTERM))
        case Outcome.OUT_OF_MEMORY:
            return EndAs(signal_number=ended.signal or _KILLED, message=reason)
        case Outcome.REJECTED:
            return GoHome(reason) if goes_home(job) else EndAs(exit_code=1, message=reason)
        case Outcome.NODE_FAIL | Outcome.LOST:
            return Requeue(reason) if job.can_requeue else EndAs(exit_code=1, message=reason)


def goes_home(job: Job) -> bool:
    """Tell whether the job has a home: one whose user chose the overspill partition has no other."""
    return job.trail is not None and bool(job.trail.partition)


def outcome_of(value: agent_pb2.RunOutcome.ValueType) -> Outcome:
    """Return the outcome; one that this relay does not know tells nothing about the script."""
    try:
        return Outcome(agent_pb2.RunOutcome.Name(value).removeprefix("RUN_OUTCOME_"))
    except ValueError:
        return Outcome.LOST


def _sentence(site: str, outcome: Outcome, reason: str) -> str:
    what = {
        Outcome.OUT_OF_MEMORY: "the job ran out of memory",
        Outcome.REJECTED: "the site could not start the job",
        Outcome.NODE_FAIL: "the machine that ran the job failed",
    }.get(outcome, "the site lost the job")
    details = " ".join(reason.split())
    return f"{site}: {what}" + (f": {details}" if details else "")
