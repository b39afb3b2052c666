"""Mixing what the regression, the trees and the scenarios say, by how well each did of late."""

from __future__ import annotations

import math

import numpy as np

from overspill_sidecar.wait.learner import Vector, sigmoid
from overspill_sidecar.wait.outlook import GRID_S

_STEP, _FORGET = 0.02, 0.999
#: Of a single opinion, so that one job turns nothing over.
_MOST = 7.0
#: What the regression, the trees and the scenarios count at first, and a correction: in the mix without scenarios, and
#: in that with them.
_FIRST_WEIGHTS = (0.5, 0.5, 0.0, 0.0), (0.25, 0.25, 0.5, 0.0)
#: The lead in log loss that the mix with scenarios begins with, how fast a lead is forgotten, and how far it may grow.
_FIRST_LEAD, _LEAD_KEPT, _MOST_LEAD = 2.0, 0.998, 6.0

Opinions = tuple[Vector, Vector | None, Vector]


class Blend:
    """For each wait of the grid two mixes of logits, without the scenarios and with them, weighted by their log loss.

    The weights within each mix follow the gradient of its log loss. There are two because scenarios are worth much
    where the site does what they play; where it does not, a mix that follows them but a little is worse than the other.
    """

    __slots__ = ("curvatures", "lead", "weights")

    def __init__(self) -> None:
        self.weights: Vector = np.repeat(np.array(_FIRST_WEIGHTS)[:, None, :], len(GRID_S), axis=1)
        self.curvatures: Vector = np.ones(self.weights.shape)
        #: By how much the mix without scenarios has lost more than that with them, of late.
        self.lead: Vector = np.full(len(GRID_S), _FIRST_LEAD)

    def logits(self, opinions: Opinions) -> Vector:
        """Return the mixed logits of the waits of the grid.

        Args:
            opinions: the logits of the regression; of the trees, for which the regression's stand if there are none;
                and of the scenarios, NaN where none were played.
        """
        inputs = _inputs(opinions)
        without, *with_scenarios = (self.weights[: len(inputs)] * inputs).sum(axis=2)
        if not with_scenarios:
            return np.asarray(without)
        share = sigmoid(self.lead)
        return np.asarray(share * with_scenarios[0] + (1 - share) * without)

    def learn(self, opinions: Opinions, first: int, last: int, exceeded: float) -> None:
        """Learn from what all said of a job when it was submitted; the rest as `Learner.learn` has it."""
        inputs = _inputs(opinions)[:, first:last]
        mixes = slice(len(inputs))
        weights, curvatures = self.weights[mixes, first:last], self.curvatures[mixes, first:last]
        said = sigmoid((weights * inputs).sum(axis=2))
        if len(said) == len(_FIRST_WEIGHTS):
            lost = -np.log(said if exceeded else 1.0 - said)
            lead = self.lead[first:last] * _LEAD_KEPT + lost[0] - lost[1]
            self.lead[first:last] = lead.clip(-_MOST_LEAD, _MOST_LEAD)
        gradients = (said - exceeded)[:, :, None] * inputs
        curvatures *= _FORGET
        curvatures += gradients * gradients
        weights -= _STEP * gradients / np.sqrt(curvatures)


def _inputs(opinions: Opinions) -> Vector:
    """Return what is weighted, for the mix without scenarios, and for that with them if any were played."""
    learned, forest, played = opinions
    inputs = np.ones((1 if math.isnan(played[0]) else 2, len(learned), 4))
    inputs[:, :, 0] = learned
    inputs[:, :, 1] = learned if forest is None else forest
    inputs[0, :, 2] = 0.0
    inputs[1:, :, 2] = played
    return np.minimum(np.maximum(inputs, -_MOST, out=inputs), _MOST, out=inputs)
