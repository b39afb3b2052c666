"""What every wait model answers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job as far as its wait depends on it."""

    partition: str
    #: All tasks that may run at once together.
    cpus: int
    #: None is unlimited.
    time_limit_s: int | None


@dataclass(frozen=True, slots=True)
class WaitEstimate:
    """How long a job would wait."""

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


class WaitModel(Protocol):
    """Answers from memory: both calls take well under a millisecond."""

    def predict(self, job: QueuedJob) -> WaitEstimate | None:
        """Return how long `job` would wait if it were submitted now; None where the model knows nothing."""
        ...

    def observe(self, job: QueuedJob) -> None:
        """Take note of a job submitted after the snapshot that the model stands on, so that a burst sees itself."""
        ...
