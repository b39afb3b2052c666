"""Online logistic regression, one for each wait of the grid, over the same features. Numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.outlook import GRID_S

Vector = NDArray[np.float64]
#: Step size of AdaGrad, its forgetting (old gradients must not stop learning for good), and ridge.
_STEP, _FORGET, _RIDGE = 0.05, 0.9995, 1e-5
_FIRST_CURVATURE = 4.0
#: How much of a feature's mean and spread each new job changes at least.
_SLOWEST = 0.0005
_LEAST_VARIANCE = 1e-4
_MOST_DEVIATIONS = 4.0
#: Mean of |z| of a normal variable, about.
_MEAN_DEVIATION = 0.8
#: Beyond this a logit says nothing more.
_MOST = 12.0
#: Logits of the shortest and the longest wait before anything is learned: no job is thought to wait long.
_FIRST_LOGITS = -0.5, -4.0


def sigmoid(logits: Vector) -> Vector:
    return np.asarray(1.0 / (1.0 + np.exp(-np.minimum(np.maximum(logits, -_MOST), _MOST))))


class Learner:
    """Weights of each wait's regression over the features' deviations from their means, and the sizes of these."""

    __slots__ = ("curvatures", "means", "seen", "variances", "weights")

    def __init__(self, features: int) -> None:
        #: How often each feature was known.
        self.seen: Vector = np.zeros(features)
        self.means: Vector = np.zeros(features)
        self.variances: Vector = np.ones(features)
        self.weights: Vector = np.zeros((len(GRID_S), 2 * features + 1))
        self.weights[:, -1] = np.linspace(*_FIRST_LOGITS, len(GRID_S))
        self.curvatures: Vector = np.full(self.weights.shape, _FIRST_CURVATURE)

    def logits(self, features: Vector) -> Vector:
        """Return the logit of P(wait > t) for each t of the grid."""
        logits: Vector = self.weights @ self._inputs(features)
        return np.minimum(np.maximum(logits, -_MOST, out=logits), _MOST, out=logits)

    def see(self, features: Vector) -> None:
        """Take a job's features into their means and variances."""
        is_known = ~np.isnan(features)
        self.seen += is_known
        deviations = np.where(is_known, features - self.means, 0.0)
        self.means += deviations * np.maximum(1.0 / np.maximum(self.seen, 1.0), _SLOWEST)
        products = deviations * (features - self.means)
        # As if a job with a deviation of one had been there before the first.
        changes = np.maximum(1.0 / (self.seen + 1), _SLOWEST) * (products - self.variances)
        self.variances += np.where(is_known, changes, 0.0)

    def learn(self, features: Vector, first: int, last: int, exceeded: float) -> None:
        """Learn that the wait did (1) or did not (0) exceed each of the grid's waits from `first` up to `last`."""
        inputs = self._inputs(features)
        weights, curvatures = self.weights[first:last], self.curvatures[first:last]
        errors = sigmoid(weights @ inputs) - exceeded
        gradients = errors[:, None] * inputs + _RIDGE * weights
        curvatures *= _FORGET
        curvatures += gradients * gradients
        weights -= _STEP * gradients / np.sqrt(curvatures)

    def _inputs(self, features: Vector) -> Vector:
        """Return the deviations, how far they are from usual either way, and a one. What is unknown counts nothing."""
        count = len(features)
        inputs = np.empty(2 * count + 1)
        deviations, distances = inputs[:count], inputs[count : 2 * count]
        np.subtract(features, self.means, out=deviations)
        deviations /= np.sqrt(self.variances + _LEAST_VARIANCE)
        np.minimum(np.maximum(deviations, -_MOST_DEVIATIONS, out=deviations), _MOST_DEVIATIONS, out=deviations)
        np.subtract(np.abs(deviations), _MEAN_DEVIATION, out=distances)
        inputs[-1] = 1.0
        inputs[np.isnan(inputs)] = 0.0
        return inputs
