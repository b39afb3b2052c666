"""A bound that holds as often as it promises, whatever the model's own spread is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass

#: How often the bound is to hold.
COVERAGE = 0.95
#: How much one miss moves it, in units of the logit of its share. Hits move it back, nineteen times less each.
_STEP = 0.05
_MOST = 9.0


@dataclass(slots=True)
class AdaptiveShare:
    """Which quantile of the model's own forecast to give as the bound, so that 95 % of the waits stay below it.

    Adaptive conformal inference: each miss raises the share, each hit lowers it, so that in the long run the misses
    are as many as they may be, even while the queue changes. Source: Gibbs and Candès, NeurIPS 2021.
    """

    logit: float = math.log(COVERAGE / (1 - COVERAGE))

    @property
    def share(self) -> float:
        return 1.0 / (1.0 + math.exp(-self.logit))

    def learn(self, *, has_held: bool) -> None:
        moved = -_STEP * (1 - COVERAGE) if has_held else _STEP * COVERAGE
        self.logit = min(_MOST, max(-_MOST, self.logit + moved))
