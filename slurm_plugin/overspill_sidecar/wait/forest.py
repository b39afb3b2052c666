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
        threshold: of each node.
        unknown_right: where it goes if the feature is unknown (NaN).
        children: of each node the one to the left and the one to the right; a leaf leads to itself.
        value: of a leaf.
        depth: no leaf is deeper.
    """

    roots: NDArray[np.intp]
    anchor: NDArray[np.intp]
    feature: NDArray[np.intp]
    threshold: NDArray[np.float64]
    unknown_right: NDArray[np.bool_]
    children: NDArray[np.intp]
    value: NDArray[np.float64]
    depth: int

    def logits(self, features: Vector) -> Vector:
        """Return a logit for each wait of the grid."""
        nodes = self.roots
        for _ in range(self.depth):
            values = features.take(self.feature.take(nodes))
            goes_right = values > self.threshold.take(nodes)
            unknown = np.isnan(values)
            if unknown.any():
                goes_right |= unknown & self.unknown_right.take(nodes)
            nodes = self.children.take(2 * nodes + goes_right)
        anchors = np.bincount(self.anchor, weights=self.value.take(nodes), minlength=len(ANCHORS_S))
        return np.asarray(anchors @ _INTERPOLATION)


def _interpolation() -> Vector:
    """Return the share of each anchor in each wait of the grid: linear in ln(wait), constant beyond the anchors."""
    anchors, grid = np.log(ANCHORS_S), np.log(GRID_S)
    return np.array([np.interp(grid, anchors, row) for row in np.eye(len(ANCHORS_S))])


_INTERPOLATION = _interpolation()
