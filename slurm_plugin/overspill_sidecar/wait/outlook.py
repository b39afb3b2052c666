"""How long a job may wait, as the probability of each wait."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

#: Waits, in seconds, whose probability is learned; between them it is interpolated. One minute to sixteen days.
GRID_S: tuple[float, ...] = (
    *(60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0),
    *(3600.0, 7200.0, 14400.0, 28800.0, 43200.0),
    *(86400.0, 172800.0, 345600.0, 691200.0, 1382400.0),
)
_LOG_GRID = tuple(map(math.log, GRID_S))
#: Nothing is ever certain: keeps logarithms finite.
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a wait model answers.

    Attributes:
        exceeds: the probability that the whole wait is longer than each of `GRID_S`; never rising.
        waited_s: how long the job has waited already; all answers are for a job that has waited so long.
        upper_s: bound that the wait keeps below with a probability of 0.95.
    """

    exceeds: Sequence[float]
    waited_s: float
    upper_s: float

    @property
    def median_s(self) -> float:
        return self.quantile_s(0.5)

    def p_exceeds(self, threshold_s: float) -> float:
        """Return the probability that the whole wait is longer than `threshold_s`; never rises with it."""
        if threshold_s <= self.waited_s:
            return 1.0
        return min(1.0, self._survival(threshold_s) / self._survival(self.waited_s))

    def quantile_s(self, share: float) -> float:
        """Return the wait that so large a share of such jobs does not exceed: 0.5 gives the median."""
        left = (1.0 - share) * self._survival(self.waited_s)
        return max(self.waited_s, self._time_of(max(left, _LEAST)))

    def _survival(self, wait_s: float) -> float:
        """Return P(wait > wait_s): exponential up to the grid, logistic in ln(wait) on it, a power law beyond it."""
        exceeds = self.exceeds
        if wait_s <= 0:
            return 1.0
        if wait_s <= GRID_S[0]:
            return float(max(exceeds[0], _LEAST) ** (wait_s / GRID_S[0]))
        if wait_s >= GRID_S[-1]:
            return max(exceeds[-1] * GRID_S[-1] / wait_s, _LEAST)
        index = bisect_left(GRID_S, wait_s)
        share = (math.log(wait_s) - _LOG_GRID[index - 1]) / (_LOG_GRID[index] - _LOG_GRID[index - 1])
        return _sigmoid((1 - share) * _logit(exceeds[index - 1]) + share * _logit(exceeds[index]))

    def _time_of(self, survival: float) -> float:
        """Return the wait whose `_survival` this is."""
        exceeds = self.exceeds
        if survival >= exceeds[0]:
            return GRID_S[0] * math.log(survival) / math.log(max(min(exceeds[0], 1 - _LEAST), _LEAST))
        if survival <= exceeds[-1]:
            return GRID_S[-1] * exceeds[-1] / survival
        index = next(number for number, value in enumerate(exceeds) if value <= survival)
        above, here, wanted = _logit(exceeds[index - 1]), _logit(exceeds[index]), _logit(survival)
        share = (above - wanted) / (above - here)
        return math.exp(_LOG_GRID[index - 1] + share * (_LOG_GRID[index] - _LOG_GRID[index - 1]))


def _logit(probability: float) -> float:
    kept = min(max(probability, _LEAST), 1 - _LEAST)
    return math.log(kept / (1 - kept))


def _sigmoid(value: float) -> float:
    return 1.0 / (1.0 + math.exp(-value))
