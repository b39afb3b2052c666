"""What every wait model answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from overspill_sidecar.cluster import Job

#: A wait whose probability is above this is reckoned with: at submit, at a later look, and in a simulation alike.
LIKELIER_THAN_NOT = 0.5


class QueuedJob(NamedTuple):
    """A job as far as its wait depends on it. A tuple: each answer is looked up by it, several times."""

    partition: str
    #: All tasks that may run at once together.
    cpus: int
    #: None is unlimited.
    time_limit_s: int | None
    #: Who submits it, charged to what, how; empty or None where that is not known.
    user_id: int | None = None
    account: str = ""
    qos: str = ""
    nodes: int | None = None
    #: How many tasks that is, and what they ask for beside, all together; None: unknown.
    tasks: int = 1
    memory_mib: int | None = None
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class WaitEstimate:
    """How long a job would wait."""

    #: Who says so, for people: the plan made of time limits, or what was learned.
    MODEL: ClassVar[str] = "plan"

    #: Seconds; infinite where no end is in sight.
    median_s: float
    #: Whether `median_s` is what happens if every job ahead uses up its time limit, rather than a middle.
    is_upper_bound: bool

    def p_exceeds(self, threshold_s: float) -> float:
        """Return the probability that the wait is longer than `threshold_s`; above 1/2 where the median is.

        The odds grow with the square of median/threshold: an honest shape, not a measured one.
        """
        if self.median_s <= 0:
            return 0.0
        if math.isinf(self.median_s):
            return 1.0
        return 1.0 / (1.0 + (threshold_s / self.median_s) ** 2)


@dataclass(frozen=True, slots=True)
class WaitGoingOn(WaitEstimate):
    """The whole wait of a job that has waited for `waited_s` seconds already."""

    waited_s: float = 0.0

    def p_exceeds(self, threshold_s: float) -> float:
        """Return the probability that the whole wait is longer, now that this much of it has passed."""
        if self.waited_s >= threshold_s:
            return 1.0
        rest = WaitEstimate(self.median_s - self.waited_s, self.is_upper_bound)
        return rest.p_exceeds(threshold_s - self.waited_s)


def waited_s(job: Job, now_s: float) -> float:
    """Return for how many seconds a job has waited for others; a clock that was set back counts as none."""
    return max(0.0, now_s - job.queued_at_s)


class WaitModel(Protocol):
    """Answers from memory about one snapshot: each call takes a millisecond or two at most."""

    def predict(self, job: QueuedJob) -> WaitEstimate | None:
        """Return how long `job` would wait if it were submitted now; None where the model knows nothing."""
        ...

    def pending(self, job: Job, partition: str) -> WaitEstimate | None:
        """Return the whole wait of a pending job in one of its partitions, what has passed of it included.

        Of an array it is that of the task that starts last. None where the model knows nothing.
        """
        ...

    def observe(self, job: QueuedJob) -> None:
        """Take note of a job submitted after the snapshot that the model stands on, so that a burst sees itself."""
        ...


class UnknownWaits:
    """`WaitModel` of who predicts nothing."""

    def predict(self, job: QueuedJob) -> WaitEstimate | None:  # noqa: ARG002 - the protocol's
        return None

    def pending(self, job: Job, partition: str) -> WaitEstimate | None:  # noqa: ARG002 - the protocol's
        return None

    def observe(self, job: QueuedJob) -> None:
        """Pass it over."""
