"""Fitting boosted trees with LightGBM, the extra `trees`. Seconds of work: never where decisions are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import cast

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.forest import ANCHORS_S, Forest
from overspill_sidecar.wait.samples import TrainingSet

TREES = 80
_DEPTH = 8
#: Fitted alone: one thread and fixed seeds, so that the same jobs give the same trees.
SETTINGS = {
    "objective": "binary",
    "num_leaves": 15,
    "max_depth": _DEPTH,
    "learning_rate": 0.08,
    "min_data_in_leaf": 30,
    "lambda_l2": 1.0,
    "max_bin": 63,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "num_threads": 1,
    "deterministic": True,
    "force_row_wise": True,
    "seed": 1,
    "verbose": -1,
}
#: With fewer jobs on one side, nothing is fitted.
_FEWEST = 5

Node = Mapping[str, object]


def are_available() -> bool:
    """Tell whether the extra is installed."""
    return find_spec("lightgbm") is not None


def fit(training: TrainingSet) -> Forest:
    """Return trees for each of the anchors; the same for the same jobs.

    Raises:
        ModuleNotFoundError: if the extra is not installed.
    """
    trees: list[tuple[int, Node]] = []
    for anchor, threshold_s in enumerate(ANCHORS_S):
        exceeds = training.wait_s > threshold_s
        known = exceeds | training.is_over
        trees += [(anchor, tree) for tree in _fit_one(training.features[known], exceeds[known])]
    return _flatten(trees)


def _fit_one(features: NDArray[np.float32], exceeds: NDArray[np.bool_]) -> Iterator[Node]:
    """Yield trees whose leaves add up to the logit of `exceeds`."""
    positive = int(exceeds.sum())
    if min(positive, len(exceeds) - positive) < _FEWEST:
        yield {"leaf_value": float(np.log((positive + 0.5) / (len(exceeds) - positive + 0.5)))}
        return
    import lightgbm  # noqa: PLC0415 - the extra may be missing, and takes a second to load

    data = lightgbm.Dataset(features, exceeds.astype(np.float32))
    model = lightgbm.train(dict(SETTINGS), data, TREES).dump_model()
    for tree in cast("list[dict[str, Node]]", model["tree_info"]):
        yield tree["tree_structure"]


def _flatten(trees: list[tuple[int, Node]]) -> Forest:
    """Return the trees as arrays; a leaf becomes a node that leads to itself."""
    roots: list[int] = []
    rows: list[list[float]] = []
    depth = 0
    for _, tree in trees:
        roots.append(len(rows))
        depth = max(depth, _add(tree, rows))
    feature, threshold, unknown_right, left, right, value = np.array(rows, np.float64).T
    return Forest(
        roots=np.array(roots, np.intp),
        anchor=np.array([anchor for anchor, _ in trees], np.intp),
        feature=feature.astype(np.intp),
        threshold=threshold.copy(),
        unknown_right=unknown_right.astype(np.bool_),
        children=np.stack([left, right], axis=1).astype(np.intp).ravel(),
        value=value.copy(),
        depth=depth,
    )


def _add(node: Node, rows: list[list[float]]) -> int:
    """Append a node and all below it; return how deep they go."""
    index = len(rows)
    if "leaf_value" in node:
        rows.append([0, np.inf, 0, index, index, cast("float", node["leaf_value"])])
        return 0
    feature, threshold = cast("int", node["split_feature"]), cast("float", node["threshold"])
    # A feature that was always known has no side for the unknown: LightGBM takes it for 0 then.
    unknown_right = not node["default_left"] if node["missing_type"] == "NaN" else threshold < 0
    rows.append([feature, threshold, float(unknown_right), 0, 0, 0])
    depth = 0
    for side, name in ((3, "left_child"), (4, "right_child")):
        rows[index][side] = len(rows)
        depth = max(depth, _add(cast("Node", node[name]), rows))
    return depth + 1
