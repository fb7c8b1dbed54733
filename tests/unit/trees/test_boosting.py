"""Federated trees are the pooled trees, node by node and bit by bit; and as good as XGBoost's."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.clients.boosting import area_under_curve
from hanse.core.errors import UpdateError
from hanse.strategies.boosting import wrong_summary
from hanse.trees import Forest, bins_of
from hanse.trees.bins import pooled_edges, summary_of
from tests.unit.trees import oracle

SMALL: dict[str, Any] = {"max_depth": 3, "min_group": 1, "min_child_rows": 2, "max_bins": 8, "min_child_weight": 0.1}


def rows(seed: int, n: int, kind: str, classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = np.stack([rng.normal(size=n), rng.integers(0, 5, n), rng.exponential(size=n)], axis=1)
    signal = X[:, 0] + 0.4 * X[:, 1] - X[:, 2] + rng.normal(size=n) / 2
    X[rng.random(X.shape) < 0.15] = np.nan
    if kind == "regression":
        return X, 1000 + 37.5 * signal
    cuts = np.quantile(signal, np.arange(1, classes) / classes)
    return X, np.searchsorted(cuts, signal).astype(float)


def grown(X: Any, y: Any, places: Any, strategy: Any, rounds: int = 3, test: float = 0.0) -> Any:
    app = hs.App(strategy, rounds=rounds, evaluate_every=1 if test else 0)

    @app.client
    def client(site: Any) -> Any:
        return hs.boosting(*site.load("rows"), test=test)

    sites = {f"s{int(part)}": {"rows": (X[places == part], y[places == part])} for part in np.unique(places)}
    return hs.simulate(app, sites, progress=False)


def same(forest: Forest, tree: int, node: int, expected: oracle.Node) -> None:
    if expected.feature is None:
        assert forest.feature[tree, node] == -1
        assert forest.value[tree, node] == expected.value
        return
    assert forest.feature[tree, node] == expected.feature
    assert forest.threshold[tree, node] == expected.threshold
    assert bool(forest.missing_left[tree, node]) == expected.missing_left
    for side, child in enumerate(expected.children):
        same(forest, tree, 2 * node + 1 + side, child)


@pytest.mark.parametrize(("kind", "classes"), [("binary", 2), ("multiclass", 3), ("regression", 2)])
@pytest.mark.parametrize("sites", [1, 3])
def test_federated_trees_are_the_pooled_ones(kind: str, classes: int, sites: int) -> None:
    X, y = rows(1, 150, kind, classes)
    places = np.random.default_rng(2).integers(0, sites, len(X))
    result = grown(X, y, places, hs.Boosting(kind, classes, **SMALL))
    edges = [oracle.edges_of(X[:, f].tolist(), 8) for f in range(3)]
    assert [result.arrays["edges"][a:b].tolist() for a, b in zip(
        result.arrays["edge_starts"][:-1], result.arrays["edge_starts"][1:], strict=True)] == edges  # fmt: skip
    trees, margins = oracle.boost(X, y, kind, classes, 3, edges, oracle.Settings(3, 0.3, 1.0, 0.0, 0.1, 2))
    forest = hs.forest(result.arrays)
    assert forest.num_trees == len(trees)
    assert max(t.feature is not None for t in trees)
    for place, tree in enumerate(trees):
        same(forest, place, 0, tree)
    np.testing.assert_array_equal(forest.margins(X).T, margins)


@pytest.mark.parametrize(
    ("gamma", "lam", "weight", "least"), [(0.8, 1.0, 0.1, 2), (0.0, 0.0, 4.0, 1), (0.1, 5.0, 0.0, 25)]
)
def test_every_setting_is_the_oracles(gamma: float, lam: float, weight: float, least: int) -> None:
    X, y = rows(12, 150, "binary", 2)
    options = {"min_split_gain": gamma, "reg_lambda": lam, "min_child_weight": weight, "min_child_rows": least}
    strategy = hs.Boosting(max_depth=3, learning_rate=0.2, max_bins=8, min_group=1, **options)  # type: ignore[arg-type]
    result = grown(X, y, np.arange(150) % 2, strategy)
    edges = [oracle.edges_of(X[:, f].tolist(), 8) for f in range(3)]
    trees, _ = oracle.boost(X, y, "binary", 2, 3, edges, oracle.Settings(3, 0.2, lam, gamma, weight, least))
    forest = hs.forest(result.arrays)
    for place, tree in enumerate(trees):
        same(forest, place, 0, tree)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.sampled_from(["binary", "multiclass", "regression"]))
def test_division_into_sites_changes_no_bit(seed: int, sites: int, kind: str) -> None:
    X, y = rows(seed, 120, kind, 2 if kind == "binary" else 3)
    strategy = hs.Boosting(kind, 2 if kind != "multiclass" else 3, **SMALL)
    places = np.random.default_rng(seed).integers(0, sites, len(X))
    one = grown(X, y, np.zeros(len(X)), strategy, rounds=2)
    many = grown(X, y, places, strategy, rounds=2)
    assert one.arrays == many.arrays


@pytest.mark.parametrize("split", range(5))
def test_as_good_as_pooled_xgboost_on_breast_cancer(split: int) -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (extra 'xgboost')")
    datasets = pytest.importorskip("sklearn.datasets")
    from sklearn.metrics import roc_auc_score

    X, y = datasets.load_breast_cancer(return_X_y=True)
    out = np.random.default_rng(split).random(len(X)) < 0.3
    places = np.argsort(np.argsort(X[:, 0])) * 4 // len(X)  # by tumour radius: as unlike each other as can be
    places[out] = -1
    kept = ~out
    result = grown(X[kept], y[kept].astype(float), places[kept], hs.Boosting(max_depth=4), rounds=30)
    mine = roc_auc_score(y[out], hs.forest(result.arrays).predict_proba(X[out])[:, 1])
    settings = {"objective": "binary:logistic", "max_depth": 4, "eta": 0.3, "tree_method": "hist", "nthread": 1}
    model = xgboost.train(settings, xgboost.DMatrix(X[kept], y[kept]), 30)
    assert mine > roc_auc_score(y[out], model.predict(xgboost.DMatrix(X[out]))) - 0.01


def test_sites_evaluate_what_they_hold_out() -> None:
    X, y = rows(3, 400, "binary", 2)
    places = np.arange(len(X)) % 2
    result = grown(X, y, places, hs.Boosting(max_depth=3), rounds=10, test=0.3)
    assert result.rounds[-1].metrics["auc"] > 0.8
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"]
    assert result.rounds[0].by_site["s0"]["evaluate_examples"] == 60
    regression = grown(*rows(3, 400, "regression"), places, hs.Boosting("regression"), rounds=10, test=0.3)
    assert regression.rounds[-1].metrics["r2"] > 0.6


def test_a_fresh_worker_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows(4, 200, "binary", 2)
    places = np.arange(len(X)) % 2
    warm = grown(X, y, places, hs.Boosting(**SMALL))
    from hanse.clients import execute

    made = execute.Runtime.client

    def forgetful(self: Any, seed: int) -> Any:
        self._client = None
        return made(self, seed)

    monkeypatch.setattr(execute.Runtime, "client", forgetful)
    assert grown(X, y, places, hs.Boosting(**SMALL)).arrays == warm.arrays


def test_a_result_is_saved_and_read_again(tmp_path: Any) -> None:
    X, y = rows(5, 200, "multiclass")
    result = grown(X, y, np.zeros(len(X)), hs.Boosting("multiclass", 3, **SMALL))
    result.save(tmp_path / "model.safetensors")
    again = hs.forest(hs.Result.load(tmp_path / "model.safetensors").arrays)
    forest = hs.forest(result.arrays)
    np.testing.assert_array_equal(again.predict_proba(X), forest.predict_proba(X))
    assert set(forest.predict(X).tolist()) <= {0, 1, 2}
    assert (forest.predict(X) == y).mean() > 0.6


# ---- edges ----


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40), st.integers(2, 9), st.data())
def test_edges_divide_the_values(values: list[float], max_bins: int, data: st.DataObject) -> None:
    array = np.array(values, dtype=np.float64) + 0.0
    cut = data.draw(st.integers(0, len(values)))
    edges = pooled_edges([summary_of(array[:cut]), summary_of(array[cut:])], max_bins)
    assert len(edges) < max_bins
    assert (np.diff(edges) > 0).all()
    for edge in edges:  # something lies on each side
        assert (array < edge).any()
        assert (array >= edge).any()
    if 2 <= len(set(values)) <= max_bins:
        assert len(edges) == len(set(array.tolist())) - 1
    assert edges.tolist() == oracle.edges_of([v + 0.0 for v in values], max_bins)


def test_bins_lie_left_of_their_edge() -> None:
    from hanse.trees import Edges

    edges = Edges.of([np.array([1.0, 2.0]), np.array([])])
    x = np.array([[0.5, 7.0], [1.0, np.nan], [1.5, 0.0], [2.0, 0.0], [np.nan, 0.0]])
    assert bins_of(x, edges, 4).tolist() == [[0, 1, 1, 2, 4], [0, 4, 0, 0, 0]]


def test_edges_stand_for_enough_rows() -> None:
    X, y = rows(6, 300, "binary", 2)
    result = grown(X, y, np.arange(300) % 2, hs.Boosting(max_bins=64, min_group=10), rounds=1)
    starts = result.arrays["edge_starts"]
    known = int((~np.isnan(X[:, 0])).sum())
    assert 0 < starts[1] <= known // 10  # no more distinct values than groups of ten


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "ranking"}, "objective"),
        ({"objective": "binary", "num_classes": 3}, "num_classes"),
        ({"objective": "multiclass", "num_classes": 1}, "num_classes"),
        ({"max_depth": 0}, "max_depth"),
        ({"max_depth": 13}, "max_depth"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"reg_lambda": -1}, "reg_lambda"),
        ({"max_bins": 1}, "max_bins"),
        ({"min_group": True}, "min_group"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(hs.ConfigError, match=said):
        hs.Boosting(**options)


def test_sites_that_do_not_fit_are_told_why() -> None:
    X, y = rows(7, 60, "binary", 2)
    with pytest.raises(hs.JobFailed, match="labels from 0 to 1"):
        grown(X, y + 1, np.zeros(60), hs.Boosting())
    app = hs.App(hs.Boosting(), rounds=1)

    @app.client
    def client(site: Any) -> Any:
        return hs.boosting(*site.load("rows"), classes=["no", "yes"], test=0)

    labels = np.where(y > 0, "yes", "no")
    sites = {"a": {"rows": (X, labels)}, "b": {"rows": (X[:, :2], labels)}}
    with pytest.raises(hs.JobFailed, match="the same number of features at all sites, found a 3, b 2"):
        hs.simulate(app, sites, progress=False)
    for bad in ((X, np.array(["maybe"] * 60)), (np.full((60, 1), np.inf), labels), (X[0], labels)):
        with pytest.raises(hs.ConfigError, match=r"hs\.boosting"):
            hs.boosting(*bad, classes=["no", "yes"])
    with pytest.raises(hs.ConfigError, match="test: expected a share"):
        hs.boosting(X, y, test=1.0)


def test_summaries_that_are_none_are_refused() -> None:
    good = {"values": np.array([1.0, 2.0]), "counts": np.array([1, 3]), "lengths": np.array([2, 0])}
    assert wrong_summary(hs.Arrays(good)) == ""
    for change in (
        {"values": np.array([1.0, np.nan])},
        {"values": np.array([1.0])},
        {"counts": np.array([0, 3])},
        {"counts": np.array([1.0, 3.0])},
        {"counts": np.array([1, 2**41])},
        {"lengths": np.array([3, -1])},
        {"lengths": np.array([], dtype=np.int64)},
        {"lengths": np.array([2, 1])},
        {"more": np.array([1])},
    ):
        assert wrong_summary(hs.Arrays({**good, **change})), change


def test_arrays_that_are_no_forest_are_refused() -> None:
    X, y = rows(8, 60, "binary", 2)
    arrays = dict(grown(X, y, np.zeros(60), hs.Boosting(**SMALL), rounds=1).arrays)
    with pytest.raises(UpdateError, match="'objective'"):
        hs.forest({"w": np.zeros(3)})
    for name, array in (
        ("value", arrays["value"][:, :-1]),
        ("value", arrays["value"].astype(np.float32)),
        ("base", np.zeros(2)),
        ("feature", np.zeros_like(arrays["feature"])),
    ):
        with pytest.raises(UpdateError, match="forest: expected"):
            hs.forest({**arrays, name: array})
    with pytest.raises(UpdateError, match="at least"):
        hs.forest(arrays).predict(X[:, :0])


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=40))
def test_the_area_under_the_curve_counts_pairs(pairs: list[tuple[int, int]]) -> None:
    score, label = (np.array(part) for part in zip(*pairs, strict=True))
    good, bad = score[label == 1], score[label == 0]
    found = area_under_curve(score.astype(float), label)
    if not len(good) or not len(bad):
        assert np.isnan(found)
    else:
        expected = ((good[:, None] > bad).sum() + 0.5 * (good[:, None] == bad).sum()) / (len(good) * len(bad))
        assert found == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_the_compiled_loop_gives_the_same_bits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numba", reason="numba is not installed (extra 'fast')")
    from hanse.trees import growing

    X, y = rows(10, 300, kind, 3 if kind == "multiclass" else 2)
    strategy = hs.Boosting(kind, 3 if kind == "multiclass" else 2, **SMALL)
    slow = grown(X, y, np.zeros(300), strategy)
    monkeypatch.setattr(growing._Patience, "left", 0)
    used = []
    from hanse.trees import compiled

    add = compiled.add_rows
    monkeypatch.setattr(compiled, "add_rows", lambda *parts: used.append(1) or add(*parts))
    assert grown(X, y, np.zeros(300), strategy).arrays == slow.arrays
    assert used


def test_places_are_found_again_when_a_tree_is_another() -> None:
    X, y = rows(11, 200, "binary", 2)
    client = hs.boosting(X, y, test=0)
    first = hs.forest(grown(X, y, np.zeros(200), hs.Boosting(**SMALL), rounds=1).arrays)
    other = hs.forest(grown(X[:, ::-1], 1 - y, np.zeros(200), hs.Boosting(**SMALL), rounds=1).arrays)
    for forest in (first, first, other, first):
        np.testing.assert_array_equal(client._places_in(forest, 0, X), forest.nodes(X, 0))


def test_a_site_that_leaves_a_tree_is_left_out_if_the_quorum_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    from hanse.clients.boosting import BoostingClient

    step = BoostingClient.step

    def sometimes(self: Any, arrays: Any, config: Any, site: Any) -> Any:
        if (site.name, site.round, site.phase) == ("s1", 2, "level-1"):
            raise RuntimeError("gone")
        return step(self, arrays, config, site)

    monkeypatch.setattr(BoostingClient, "step", sometimes)
    X, y = rows(13, 300, "binary", 2)
    app = hs.App(hs.Boosting(max_depth=3), rounds=3, quorum=2, evaluate_every=0)

    @app.client
    def client(site: Any) -> Any:
        return hs.boosting(*site.load("rows"), test=0)

    sites = {f"s{i}": {"rows": (X[i::3], y[i::3])} for i in range(3)}
    result = hs.simulate(app, sites, progress=False)
    assert "s1" in result.rounds[1].failed
    assert result.rounds[2].failed == {}
    assert hs.forest(result.arrays).num_trees == 3
