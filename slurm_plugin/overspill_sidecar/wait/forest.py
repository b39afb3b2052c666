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


#: No tree has more leaves: each is a bit.
MOST_LEAVES = 16
ALL_LEAVES = 2**MOST_LEAVES - 1


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees whose leaves add up to logits of P(wait > t) at the anchors.

    All nodes of all trees are asked at once: each that sends the job to its right rules out the leaves to its left, and
    of the leaves that remain in a tree the leftmost is the job's. Source: Lucchese et al., "QuickScorer", SIGIR 2015.
    The arrays have a column for each tree; where a tree has fewer nodes than others, some rule nothing out.

    Attributes:
        anchor: which of `ANCHORS_S` the tree is for.
        feature: of each node; it sends the job to the right where that feature is above the threshold.
        threshold: of each node.
        unknown_right: whether it does so, too, if the feature is unknown (NaN).
        keeps: bits of the leaves that are left if it does.
        value: of each leaf, leftmost first.
    """

    anchor: NDArray[np.intp]
    feature: NDArray[np.intp]
    threshold: NDArray[np.float64]
    unknown_right: NDArray[np.bool_]
    keeps: NDArray[np.uint16]
    value: NDArray[np.float64]

    def logits(self, features: Vector) -> Vector:
        """Return a logit for each wait of the grid."""
        values = features.take(self.feature)
        goes_right = (values > self.threshold) | (np.isnan(values) & self.unknown_right)
        leaves = np.bitwise_and.reduce(np.where(goes_right, self.keeps, _ALL), axis=0)
        found = self.value[_LEFTMOST[leaves], np.arange(len(self.anchor))]
        anchors = np.bincount(self.anchor, weights=found, minlength=len(ANCHORS_S))
        return np.asarray(anchors @ _INTERPOLATION)


def _leftmost() -> NDArray[np.intp]:
    """Return the lowest bit of each number, 0 of none."""
    numbers = np.arange(ALL_LEAVES + 1)
    return np.log2(np.maximum(numbers & -numbers, 1)).astype(np.intp)


def _interpolation() -> Vector:
    """Return the share of each anchor in each wait of the grid: linear in ln(wait), constant beyond the anchors."""
    anchors, grid = np.log(ANCHORS_S), np.log(GRID_S)
    return np.array([np.interp(grid, anchors, row) for row in np.eye(len(ANCHORS_S))])


_INTERPOLATION = _interpolation()
_LEFTMOST = _leftmost()
_ALL = np.uint16(ALL_LEAVES)
