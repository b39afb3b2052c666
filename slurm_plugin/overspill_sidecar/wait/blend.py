"""Mixing what the regression, the trees and the scenarios say, by how well each did of late."""

from __future__ import annotations

import numpy as np

from overspill_sidecar.wait.learner import Vector, sigmoid
from overspill_sidecar.wait.outlook import GRID_S

_STEP, _FORGET = 0.02, 0.999
#: Of a single opinion, so that one job turns nothing over.
_MOST = 7.0
#: What the regression, the trees and the scenarios count at first, and a correction: before anything is learned,
#: scenarios know most.
_FIRST_WEIGHTS = 0.25, 0.25, 0.5, 0.0


class Blend:
    """For each wait of the grid, weights of the logits and a correction, which follow the gradient of the log loss."""

    __slots__ = ("curvatures", "weights")

    def __init__(self) -> None:
        self.weights: Vector = np.tile(_FIRST_WEIGHTS, (len(GRID_S), 1))
        self.curvatures: Vector = np.ones(self.weights.shape)

    def logits(self, learned: Vector, forest: Vector | None, played: Vector) -> Vector:
        """Return the mixed logits of the waits of the grid.

        Args:
            learned: the regression's, which stand for those of others, too, who have no opinion.
            forest: the trees'.
            played: the scenarios'; NaN where there are none.
        """
        return np.asarray((self.weights * _inputs(learned, forest, played)).sum(axis=1))

    def learn(self, opinions: tuple[Vector, Vector | None, Vector], first: int, last: int, exceeded: float) -> None:
        """Learn from what all said of a job when it was submitted; the rest as `Learner.learn` has it."""
        inputs = _inputs(*opinions)[first:last]
        weights, curvatures = self.weights[first:last], self.curvatures[first:last]
        gradients = (sigmoid((weights * inputs).sum(axis=1)) - exceeded)[:, None] * inputs
        curvatures *= _FORGET
        curvatures += gradients * gradients
        weights -= _STEP * gradients / np.sqrt(curvatures)


def _inputs(learned: Vector, forest: Vector | None, played: Vector) -> Vector:
    inputs = np.empty((len(learned), len(_FIRST_WEIGHTS)))
    inputs[:, 0] = learned
    inputs[:, 1] = learned if forest is None else forest
    inputs[:, 2] = learned if np.isnan(played[0]) else played
    inputs[:, 3] = 1.0
    return inputs.clip(-_MOST, _MOST, out=inputs)
