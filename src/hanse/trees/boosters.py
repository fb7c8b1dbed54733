"""XGBoost's trees as plain arrays, so that nothing of a booster's file format crosses a border.

A booster made here is taken apart into numbers; numbers that came from elsewhere are checked, and only then become the
document that XGBoost reads. So XGBoost's parser never sees bytes of others, only a document written here, of trees that
are trees. What remains: XGBoost's C++ code predicting with, and training on, well-formed trees that somebody chose.

    left, right        int32, `(nodes,)`: children, counted within the tree; −1 in leaves. Children come after parents
    feature            int32: what a node asks about; 0 in leaves
    condition          float32: rows with x < condition go left; in leaves, what the leaf adds
    default_left       uint8: where missing values go
    gain, hessian, weight    float32: XGBoost's statistics of a node, for importances
    starts             int64, `(trees + 1,)`: where each tree's nodes begin

Trees of several classes take turns. Categorical splits, linear boosters, DART and vector leaves are refused.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError

MAX_NODES = 1 << 20
"""Of a tree."""
MAX_TREES = 100_000
NODE_ARRAYS: dict[str, Any] = {
    "left": np.int32,
    "right": np.int32,
    "feature": np.int32,
    "condition": np.float32,
    "default_left": np.uint8,
    "gain": np.float32,
    "hessian": np.float32,
    "weight": np.float32,
}
_NAMES_THERE = {
    "left": "left_children",
    "right": "right_children",
    "feature": "split_indices",
    "condition": "split_conditions",
    "default_left": "default_left",
    "gain": "loss_changes",
    "hessian": "sum_hessian",
    "weight": "base_weights",
}
ROOT_PARENT = 2**31 - 1


def taken_apart(document: Mapping[str, Any], first: int = 0) -> dict[str, Array]:
    """Trees of a booster that was made here, from its JSON document.

    Args:
        document: of `Booster.save_raw("json")`, parsed.
        first: the trees before this one are left out.

    Raises:
        ConfigError: a booster of another kind, or trees that ask about categories.
    """
    booster = document["learner"]["gradient_booster"]
    if booster.get("name") != "gbtree":
        raise ConfigError(f"xgboost: expected booster gbtree, found {str(booster.get('name'))[:40]}")
    model = booster["model"]
    if model["gbtree_model_param"].get("num_parallel_tree", "1") not in ("1", "0"):
        raise ConfigError("xgboost: expected num_parallel_tree 1, found more; use more rounds")
    trees = [_compact(tree) for tree in model["trees"][first:]]
    sizes = [len(tree["left"]) for tree in trees]
    joined = {
        name: np.concatenate([tree[name] for tree in trees] or [np.empty(0, dtype)]).astype(dtype)
        for name, dtype in NODE_ARRAYS.items()
    }
    return {**joined, "starts": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)}


def put_together(arrays: Mapping[str, Array], template: Mapping[str, Any], num_outputs: int) -> dict[str, Any]:
    """The JSON document of a booster with these trees.

    Args:
        arrays: checked with `wrong_trees`.
        template: the document of a booster without trees, made here with the right objective and features.
        num_outputs: trees of a round.
    """
    starts = arrays["starts"].tolist()
    num_features = template["learner"]["learner_model_param"]["num_feature"]
    spans = itertools.pairwise(starts)
    trees = [_tree(arrays, a, b, place, num_features) for place, (a, b) in enumerate(spans)]
    learner = dict(template["learner"])
    booster = dict(learner["gradient_booster"])
    model = {
        **booster["model"],
        "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
        "iteration_indptr": list(range(0, len(trees) + 1, num_outputs)),
        "tree_info": [place % num_outputs for place in range(len(trees))],
        "trees": trees,
    }
    learner["gradient_booster"] = {**booster, "model": model}
    return {**template, "learner": learner}


def wrong_trees(arrays: Mapping[str, Array], num_features: int, num_outputs: int) -> str:
    """Why these arrays are no trees; empty if they are.

    **Guarantee.** If empty: every tree is a proper binary tree with its children after their parent, asks about
    features that there are, and holds finite numbers only.
    """
    for name, dtype in {**NODE_ARRAYS, "starts": np.int64}.items():
        array = arrays.get(name)
        if array is None or array.dtype != dtype or array.ndim != 1:
            return f"expected {name} {np.dtype(dtype)} of one dimension"
    starts, sizes = arrays["starts"], np.diff(arrays["starts"])
    count = len(arrays["left"])
    if any(len(arrays[name]) != count for name in NODE_ARRAYS):
        return "expected as many values of every kind as nodes"
    if not len(starts) or starts[0] != 0 or starts[-1] != count or not ((sizes > 0) & (sizes <= MAX_NODES)).all():
        return f"expected trees of 1 to {MAX_NODES} nodes, one after another"
    if len(sizes) > MAX_TREES or len(sizes) % num_outputs:
        return f"expected at most {MAX_TREES} trees, and whole rounds of {num_outputs}"
    for name in ("condition", "gain", "hessian", "weight"):
        if not np.isfinite(arrays[name]).all():
            return f"expected finite numbers as {name}"
    if (arrays["default_left"] > 1).any():
        return "expected 0 or 1 as default_left"
    if (arrays["feature"] < 0).any() or (arrays["feature"] >= num_features).any():
        return f"expected features from 0 to {num_features - 1}"
    return _wrong_links(arrays["left"].astype(np.int64), arrays["right"].astype(np.int64), starts, sizes)


def appended(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Trees of several sets, one after another."""
    joined = {name: np.concatenate([part[name] for part in parts]) for name in NODE_ARRAYS}
    offsets = np.cumsum([0, *(int(part["starts"][-1]) for part in parts)]).tolist()
    starts = [part["starts"][:-1] + offset for part, offset in zip(parts, offsets, strict=False)]
    return {**joined, "starts": np.concatenate([*starts, [offsets[-1]]]).astype(np.int64)}


def _wrong_links(left: Array, right: Array, starts: Array, sizes: Array) -> str:
    leaf = left == -1
    if ((right == -1) != leaf).any():
        return "expected two children or none"
    place = np.arange(len(left)) - np.repeat(starts[:-1], sizes)
    size = np.repeat(sizes, sizes)
    asks = ~leaf
    for child in (left[asks], right[asks]):
        if not ((child > place[asks]) & (child < size[asks])).all():
            return "expected children after their parent, within their tree"
    base = np.repeat(starts[:-1], sizes)[asks]
    parents = np.bincount(np.concatenate([base + left[asks], base + right[asks]]), minlength=len(left))
    if not (parents == (place > 0)).all():
        return "expected every node but the root to have one parent"
    return ""


def _compact(tree: Mapping[str, Any]) -> dict[str, Array]:
    """One tree without the nodes that pruning has left over, parents before children."""
    if any(tree.get("split_type", ())) or tree.get("categories_nodes"):
        raise ConfigError("xgboost: expected numeric features only, found splits by category; encode categories first")
    if tree["tree_param"].get("size_leaf_vector", "1") not in ("0", "1"):
        raise ConfigError(
            "xgboost: expected leaves of one value, found vectors; use multi_strategy one_output_per_tree"
        )
    left, right = tree["left_children"], tree["right_children"]
    order = [0]
    for node in order:  # grows while it is walked
        if left[node] != -1:
            order += [left[node], right[node]]
    place = {node: index for index, node in enumerate(order)}
    place[-1] = -1
    made = {name: np.array([tree[there][node] for node in order]) for name, there in _NAMES_THERE.items()}
    for side in ("left", "right"):
        made[side] = np.array([place[int(child)] for child in made[side].tolist()])
    made["feature"] = np.where(made["left"] == -1, 0, made["feature"])
    return made


def _tree(arrays: Mapping[str, Array], start: int, stop: int, place: int, num_features: str) -> dict[str, Any]:
    nodes = stop - start
    made: dict[str, Any] = {there: arrays[name][start:stop].tolist() for name, there in _NAMES_THERE.items()}
    parents = [ROOT_PARENT] * nodes
    for node, children in enumerate(zip(made["left_children"], made["right_children"], strict=True)):
        for child in children:
            if child != -1:
                parents[child] = node
    return {
        **made,
        "parents": parents,
        "split_type": [0] * nodes,
        **{name: [] for name in ("categories", "categories_nodes", "categories_segments", "categories_sizes")},
        "id": place,
        "tree_param": {
            "num_deleted": "0",
            "num_feature": num_features,
            "num_nodes": str(nodes),
            "size_leaf_vector": "1",
        },
    }


def header(objective: str, num_outputs: int, num_features: int, base_score: float) -> dict[str, Array]:
    """What must be known of trees beside them."""
    return {
        "xgboost": np.frombuffer(objective.encode(), dtype=np.uint8),
        "num_outputs": np.array([num_outputs]),
        "num_features": np.array([num_features]),
        "base_score": np.array([base_score]),
    }


def read_header(arrays: Mapping[str, Array], objectives: Sequence[str]) -> tuple[str, int, int, float]:
    """Objective, outputs, features and base score.

    Raises:
        ConfigError: arrays of another kind, or values that are not possible.
    """
    try:
        objective = arrays["xgboost"].tobytes().decode()
        outputs, features = int(arrays["num_outputs"][0]), int(arrays["num_features"][0])
        base = float(arrays["base_score"][0])
    except (KeyError, IndexError, ValueError, TypeError):
        raise ConfigError("xgboost: expected the arrays of hs.XGBoost, found others") from None
    if objective not in objectives or not 1 <= outputs <= 1000 or not 1 <= features <= 10**6 or not np.isfinite(base):
        raise ConfigError("xgboost: expected the arrays of hs.XGBoost, found others")
    return objective, outputs, features, base
