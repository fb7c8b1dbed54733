"""`hs.boosting`: a site's half of `hs.Boosting`, and `hs.forest`, what a result's arrays predict.

The server is told histograms of derivatives (whole numbers), never a row's; margins of rows stay in the worker and are
computed again by a fresh one, with the same bits, since trees are added in order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.analytics.exact import PRODUCT_DIGITS, SUM_DIGITS, exact_dot, exact_sum, to_digits
from hanse.analytics.release import microaggregated
from hanse.clients.client import Answer, Client, Config
from hanse.clients.held_out import held_out
from hanse.clients.site import Site
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, TaskError
from hanse.strategies.boosting import EDGES, LEVEL, SUMMARY_VALUES, TARGET, edges_of, num_growing, objective_in
from hanse.trees import Forest, bins_of, histograms, summary_of

Wide = npt.NDArray[np.float64]


def boosting(
    X: Any,
    y: Any,
    *,
    classes: Sequence[Any] | None = None,
    test: float | tuple[Any, Any] = 0.2,
    seed: int = 0,
) -> "BoostingClient":
    """A client that grows trees with the other sites.

    Args:
        X: `(n, d)`: numbers; NaN where a value is missing. The same columns in the same order at all sites.
        y: `(n,)`: labels, or numbers for regression.
        classes: all labels of the federation, in order; None for regression, or for labels that are 0, 1, … already.
        test: share of the examples held out for `evaluate`, stratified by class where it can be; or `(X_test, y_test)`;
            or 0 for none.
        seed: of that split.

    Evaluation answers `loss` (log loss, or mean squared error), `accuracy`, `auc` where there are two classes and both
    occur, `r2` for regression.

    Raises:
        ConfigError: data that do not fit.
    """
    return BoostingClient(X, y, classes=classes, test=test, seed=seed)


def forest(arrays: Mapping[str, Any]) -> Forest:
    """The trees of a result, to predict with: `hs.forest(result.arrays).predict_proba(X)`.

    Raises:
        UpdateError: these are no trees.
    """
    return Forest.of(arrays)


class BoostingClient(Client):
    """See `boosting`."""

    def __init__(self, X: Any, y: Any, *, classes: Sequence[Any] | None, test: Any, seed: int) -> None:
        self._classes = None if classes is None else list(classes)
        x, target = examples_of(X, y, self._classes)
        self._train, self._test = held_out_of(x, target, self._classes, test, seed)
        self._bins: tuple[bytes, Array] | None = None
        self._margins: Wide | None = None
        self._num_trees = 0
        self._places: dict[int, tuple[tuple[Array, Array, Array], Array]] = {}
        self._seen = b""

    def step(self, arrays: Arrays | None, config: Config, site: Site) -> Answer:
        """See `Client.step`."""
        x, y = self._train
        if site.phase == TARGET:
            return Answer(self._tell_target(y, config), 0, {})
        if arrays is None:
            raise TaskError("refused", f"{site.phase}: expected what is known so far, found none")
        if site.phase == EDGES:
            return Answer(_tell_features(x, int(config["min_group"])), 0, {})
        return Answer(self._tell_level(arrays, int(site.phase.removeprefix(LEVEL)), int(config["max_bins"])), 0, {})

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client.evaluate`: of the rows held out."""
        x, y = self._test
        return Answer(None, len(y), metrics_of(Forest.of(arrays).predict_proba(x), y) if len(y) else {})

    def _tell_target(self, y: Wide, config: Config) -> dict[str, Array]:
        objective = objective_in(config)
        if objective.name == "regression":
            digits = to_digits(exact_sum(y), SUM_DIGITS), to_digits(exact_dot(y, y), PRODUCT_DIGITS)
            return {"rows": np.array([len(y)]), "sum": digits[0], "squares": digits[1]}
        wrong = y[(y < 0) | (y >= objective.num_classes) | (y != np.rint(y))]
        if len(wrong):
            raise ConfigError(
                f"hs.boosting: expected labels from 0 to {objective.num_classes - 1}, or classes=[…] with all "
                f"{objective.num_classes}; found others"
            )
        return {"rows": np.bincount(y.astype(np.int64), minlength=objective.num_classes)}

    def _tell_level(self, arrays: Arrays, level: int, max_bins: int) -> dict[str, Array]:
        x, y = self._train
        whole, edges = Forest.of(arrays), edges_of(arrays)
        if edges.num_features != x.shape[1]:
            raise ConfigError(f"hs.boosting: expected {edges.num_features} features, found {x.shape[1]}")
        outputs = whole.objective.num_outputs
        done = whole.num_trees - (outputs if level else 0)
        key = edges.values.tobytes()
        if self._bins is None or self._bins[0] != key:
            self._bins = key, bins_of(x, edges, max_bins)
        g, h = whole.objective.derivatives(self._margins_of(whole.first(done), x), y, int(arrays["unit"][0]))
        made = np.zeros((num_growing(whole, level), edges.num_features, max_bins + 1, 3), dtype=np.int64)
        growing = whole.growing(level) if level else [(output, 0) for output in range(outputs)]
        for output in range(outputs):
            mine = [place for place, (tree, _) in enumerate(growing) if tree % outputs == output]
            if not mine:
                continue
            if level:
                at = self._places_in(whole, growing[mine[0]][0], x)
                place = np.full(whole.feature.shape[1], -1, dtype=np.int64)
                place[[growing[each][1] for each in mine]] = np.arange(len(mine))
                place = place[at]
            else:
                place = np.zeros(len(x), dtype=np.int64)
            made[mine] = histograms(self._bins[1], place, len(mine), g[output], h[output], max_bins)
        return {"histograms": made}

    def _places_in(self, forest: Forest, tree: int, x: Wide) -> Array:
        """The leaf of every row, going on from where it was one level ago if the tree has only grown since."""
        before = self._places.get(tree)
        asked = forest.feature[tree].copy(), forest.threshold[tree].copy(), forest.missing_left[tree].copy()
        start = None
        if before is not None:
            was, place = before
            kept = was[0] != -1
            if all(np.array_equal(old[kept], new[kept]) for old, new in zip(was, asked, strict=True)):
                start = place
        place = forest.nodes(x, tree, start)
        self._places[tree] = asked, place
        return place

    def _margins_of(self, done: Forest, x: Wide) -> Wide:
        """What the finished trees say of the training rows, going on from what is known of them."""
        start, outputs = self._num_trees, done.objective.num_outputs
        known = done.first(start).value.tobytes() if start <= done.num_trees else None
        if self._margins is None or known != self._seen:
            self._margins, start = np.repeat(done.base[:, None], len(x), axis=1), 0
        for tree in range(start, done.num_trees):
            self._margins[tree % outputs] += done.value[tree, self._places_in(done, tree, x)]
        self._places = {tree: place for tree, place in self._places.items() if tree >= done.num_trees}
        self._num_trees, self._seen = done.num_trees, done.value.tobytes()
        return self._margins


def metrics_of(said: Wide, y: Wide) -> dict[str, float]:
    """How good predictions are.

    Args:
        said: probabilities `(rows, classes)`, or values `(rows,)`.
        y: `(rows,)`, as `boosting` numbers it.
    """
    if said.ndim == 1:
        errors = (said - y) ** 2
        spread = ((y - y.mean()) ** 2).sum()
        return {"loss": float(errors.mean()), "r2": float(1 - errors.sum() / spread) if spread else float("nan")}
    labels = y.astype(np.int64)
    chance = said[np.arange(len(y)), labels]
    found = {"loss": float(-np.log(np.clip(chance, 1e-15, 1)).mean())}
    found["accuracy"] = float((said.argmax(axis=1) == labels).mean())
    if said.shape[1] == 2:
        found["auc"] = area_under_curve(said[:, 1], labels)
    return found


def area_under_curve(score: Wide, labels: Array) -> float:
    """The share of pairs of both classes that are in order, ties counted half (Mann and Whitney); NaN without both."""
    positive = int(labels.sum())
    negative = len(labels) - positive
    if not positive or not negative:
        return float("nan")
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((rank[labels == 1].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _tell_features(x: Wide, min_group: int) -> dict[str, Array]:
    """A summary of every feature, of values that stand for `min_group` rows, and of 4096 at most."""
    told = []
    for column in x.T:
        known = column[~np.isnan(column)]
        told.append(summary_of(microaggregated(known, max(min_group, -(-len(known) // SUMMARY_VALUES)))))
    return {
        "values": np.concatenate([values for values, _ in told]),
        "counts": np.concatenate([counts for _, counts in told]),
        "lengths": np.array([len(values) for values, _ in told], dtype=np.int64),
    }


def held_out_of(
    x: Wide, y: Wide, classes: list[Any] | None, test: Any, seed: int
) -> tuple[tuple[Wide, Wide], tuple[Wide, Wide]]:
    """Rows to grow on, and rows to evaluate on; `test` as for `boosting`."""
    if isinstance(test, tuple):
        return (x, y), examples_of(test[0], test[1], classes)
    kept, out = held_out(y, float(test), seed, stratify=classes is not None)
    return (x[kept], y[kept]), (x[out], y[out])


def examples_of(X: Any, y: Any, classes: list[Any] | None) -> tuple[Wide, Wide]:
    """Rows and numbered labels.

    Raises:
        ConfigError: they do not fit.
    """
    try:
        x, labels = np.asarray(X, dtype=np.float64), np.asarray(y)
    except (TypeError, ValueError):
        raise ConfigError("hs.boosting: X: expected numbers, found something else") from None
    if x.ndim != 2 or not x.shape[1] or labels.shape != (len(x),):
        raise ConfigError(f"hs.boosting: expected X of (n, d) and y of (n,), found {x.shape} and {labels.shape}")
    if np.isinf(x).any():
        raise ConfigError("hs.boosting: X: expected finite numbers or NaN, found infinite ones")
    return x, _target(labels, classes)


def _target(labels: Array, classes: list[Any] | None) -> Wide:
    if classes is None:
        try:
            target = np.asarray(labels, dtype=np.float64)
        except (TypeError, ValueError):
            raise ConfigError("hs.boosting: y: expected numbers, or give classes=[…] with all labels") from None
        if not np.isfinite(target).all():
            raise ConfigError("hs.boosting: y: expected finite numbers, found others")
        return target
    place = {label: index for index, label in enumerate(classes)}
    unknown = [label for label in set(labels.tolist()) if label not in place]
    if unknown:
        raise ConfigError(f"hs.boosting: expected the {len(classes)} labels of classes=[…], found others in y")
    return np.array([place[label] for label in labels.tolist()], dtype=np.float64)
