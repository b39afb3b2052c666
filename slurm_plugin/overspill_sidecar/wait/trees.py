"""Fitting boosted trees with LightGBM, the extra `trees`. Seconds of work: never where decisions are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import cast

import numpy as np
from numpy.typing import NDArray

from overspill_sidecar.wait.forest import ALL_LEAVES, ANCHORS_S, MOST_LEAVES, Forest
from overspill_sidecar.wait.samples import TrainingSet

TREES = 80
_DEPTH = 8
#: Fitted alone: one thread and fixed seeds, so that the same jobs give the same trees.
SETTINGS = {
    "objective": "binary",
    "num_leaves": MOST_LEAVES - 1,
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


@dataclass(slots=True)
class _Flat:
    """One tree: its nodes, and the values of its leaves from left to right."""

    #: Feature, threshold, whether unknown goes right, and the leaves that are kept if it goes right.
    nodes: list[tuple[int, float, bool, int]] = field(default_factory=list)
    leaves: list[float] = field(default_factory=list)

    def add(self, node: Node) -> None:
        """Append all that is below `node`."""
        if "leaf_value" in node:
            self.leaves.append(cast("float", node["leaf_value"]))
            return
        feature, threshold = cast("int", node["split_feature"]), cast("float", node["threshold"])
        # A feature that was always known has no side for the unknown: LightGBM takes it for 0 then.
        unknown_right = not node["default_left"] if node["missing_type"] == "NaN" else threshold < 0
        first = len(self.leaves)
        self.add(cast("Node", node["left_child"]))
        left = sum(1 << leaf for leaf in range(first, len(self.leaves)))
        self.nodes.append((feature, threshold, unknown_right, ALL_LEAVES & ~left))
        self.add(cast("Node", node["right_child"]))


def _flatten(trees: list[tuple[int, Node]]) -> Forest:
    """Return the trees as arrays with a column for each."""
    flat = [_Flat() for _ in trees]
    for one, (_, tree) in zip(flat, trees, strict=True):
        one.add(tree)
    height = max(1, *(len(one.nodes) for one in flat))
    nodes = [one.nodes + [(0, np.inf, False, ALL_LEAVES)] * (height - len(one.nodes)) for one in flat]
    # All in one order in memory: a question compares them node by node.
    columns = [np.array([[node[part] for node in one] for one in nodes]).T.copy() for part in range(4)]
    return Forest(
        anchor=np.array([anchor for anchor, _ in trees], np.intp),
        feature=columns[0].astype(np.intp),
        threshold=columns[1].astype(np.float64),
        unknown_right=columns[2].astype(np.bool_),
        keeps=columns[3].astype(np.uint16),
        value=np.array([one.leaves + [0.0] * (MOST_LEAVES - len(one.leaves)) for one in flat]).T.copy(),
    )
