"""Boosted trees as flat arrays: asked with numpy alone, whatever fitted them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.learner import Vector
from overspill_sidecar.wait.outlook import GRID_S

#: Waits for which trees are fitted: every factor of four. What they say of others is interpolated, and the blend
#: corrects it.
ANCHORS_S: tuple[float, ...] = (300.0, 1800.0, 7200.0, 28800.0)


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees whose leaves add up to logits of P(wait > t) at the anchors.

    Attributes:
        roots: the first node of each tree.
        anchor: which of `ANCHORS_S` the tree is for.
        feature: of each node; it goes left where that feature is at most the threshold.
        unknown_left: where it goes if the feature is unknown (NaN).
        left: index of the node to the left; a leaf is its own child on both sides.
        value: of a leaf.
        depth: no leaf is deeper.
    """

    roots: NDArray[np.int32]
    anchor: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    unknown_left: NDArray[np.bool_]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]
    depth: int

    def logits(self, features: Vector) -> Vector:
        """Return a logit for each wait of the grid."""
        nodes = self.roots
        for _ in range(self.depth):
            values = features[self.feature[nodes]]
            goes_left = (values <= self.threshold[nodes]) | (np.isnan(values) & self.unknown_left[nodes])
            nodes = np.where(goes_left, self.left[nodes], self.right[nodes])
        anchors = np.bincount(self.anchor, weights=self.value[nodes], minlength=len(ANCHORS_S))
        return np.asarray(anchors @ _INTERPOLATION)


def _interpolation() -> Vector:
    """Return the share of each anchor in each wait of the grid: linear in ln(wait), constant beyond the anchors."""
    anchors, grid = np.log(ANCHORS_S), np.log(GRID_S)
    return np.array([np.interp(grid, anchors, row) for row in np.eye(len(ANCHORS_S))])


_INTERPOLATION = _interpolation()
