"""Mixing what the regression and the trees say, by how well either did of late."""

from __future__ import annotations

import numpy as np

from overspill_sidecar.wait.learner import Vector, sigmoid
from overspill_sidecar.wait.outlook import GRID_S

_STEP, _FORGET = 0.02, 0.999
#: Of a single opinion, so that one job turns nothing over.
_MOST = 7.0


class Blend:
    """For each wait of the grid, weights of both logits and a correction, which follow the gradient of the log loss."""

    __slots__ = ("curvatures", "weights")

    def __init__(self) -> None:
        self.weights: Vector = np.tile([0.5, 0.5, 0.0], (len(GRID_S), 1))
        self.curvatures: Vector = np.ones(self.weights.shape)

    def logits(self, learned: Vector, forest: Vector) -> Vector:
        return np.asarray((self.weights * _inputs(learned, forest)).sum(axis=1))

    def learn(self, learned: Vector, forest: Vector, first: int, last: int, exceeded: float) -> None:
        """Learn from what both said of a job when it was submitted; arguments as `Learner.learn` has them."""
        inputs = _inputs(learned, forest)[first:last]
        weights, curvatures = self.weights[first:last], self.curvatures[first:last]
        gradients = (sigmoid((weights * inputs).sum(axis=1)) - exceeded)[:, None] * inputs
        curvatures *= _FORGET
        curvatures += gradients * gradients
        weights -= _STEP * gradients / np.sqrt(curvatures)


def _inputs(learned: Vector, forest: Vector) -> Vector:
    return np.stack([learned.clip(-_MOST, _MOST), forest.clip(-_MOST, _MOST), np.ones(len(learned))], axis=1)
