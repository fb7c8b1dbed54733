"""XGBoost's trees as arrays: there and back, what hostile arrays come to, bagging and cyclic runs."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.core.errors import ConfigError, MissingExtraError, UpdateError
from hanse.trees.boosters import NODE_ARRAYS, appended, header, read_header, taken_apart, wrong_trees


def tree(depth: int = 2, features: int = 3) -> dict[str, Any]:
    """A complete tree in XGBoost's order."""
    nodes = 2 ** (depth + 1) - 1
    inner = 2**depth - 1
    made = {name: np.zeros(nodes, dtype=dtype) for name, dtype in NODE_ARRAYS.items()}
    made["left"][:] = made["right"][:] = -1
    made["left"][:inner] = 2 * np.arange(inner) + 1
    made["right"][:inner] = 2 * np.arange(inner) + 2
    made["feature"][:inner] = np.arange(inner) % features
    made["condition"][:] = np.linspace(-1, 1, nodes)
    return {**made, "starts": np.array([0, nodes])}


def test_good_trees_are_good() -> None:
    assert wrong_trees(tree(), 3, 1) == ""
    both = appended([tree(0), tree(3), tree(1)])
    assert both["starts"].tolist() == [0, 1, 16, 19]
    assert wrong_trees(both, 3, 3) == ""
    assert "whole rounds" in wrong_trees(both, 3, 2)


@pytest.mark.parametrize(
    ("name", "place", "value", "said"),
    [
        ("left", 0, 0, "after their parent"),  # itself: a circle
        ("left", 1, 0, "after their parent"),
        ("left", 0, 7, "within their tree"),
        ("left", 0, 2**30, "within their tree"),
        ("left", 0, -2, "after their parent"),
        ("left", 0, -1, "two children or none"),
        ("left", 0, 2, "one parent"),  # both children are one node
        ("right", 1, 6, "one parent"),
        ("feature", 0, 3, "features from 0 to 2"),
        ("feature", 0, -1, "features from 0 to 2"),
        ("condition", 3, np.nan, "finite numbers as condition"),
        ("hessian", 0, np.inf, "finite numbers as hessian"),
        ("default_left", 0, 2, "0 or 1"),
        ("starts", 0, 1, "one after another"),
        ("starts", 1, 8, "one after another"),
        ("starts", 1, 6, "one after another"),
    ],
)
def test_trees_that_are_none(name: str, place: int, value: Any, said: str) -> None:
    arrays = tree()
    arrays[name][place] = value
    assert said in wrong_trees(arrays, 3, 1)


def test_arrays_of_other_kinds() -> None:
    for change in (
        {"left": tree()["left"].astype(np.int64)},
        {"left": tree()["left"][:-1]},
        {"condition": tree()["condition"].reshape(1, -1)},
        {"starts": np.array([0, 0, 7])},
        {"starts": np.array([], dtype=np.int64)},
        {"starts": np.array([0, 9, 7])},
    ):
        assert wrong_trees({**tree(), **change}, 3, 1), change
    assert wrong_trees({}, 3, 1)


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["left", "right"]), st.integers(-3, 40))
def test_whatever_passes_can_be_walked(seed: int, side: str, value: int) -> None:
    """The independent judge walks from the root: it must end, and meet every node once."""
    arrays = tree(3)
    place = seed % 15
    arrays[side][place] = value
    seen: set[int] = set()
    waiting, is_tree = [0], True
    while waiting and is_tree:
        node = waiting.pop()
        is_tree = 0 <= node < 15 and node not in seen
        if is_tree:
            seen.add(node)
            below = int(arrays["left"][node]), int(arrays["right"][node])
            is_tree = (below[0] == -1) == (below[1] == -1)
            waiting += [child for child in below if child != -1]
    is_tree = is_tree and len(seen) == 15
    assert (
        not wrong_trees(arrays, 3, 1) or not is_tree or not (arrays["left"] > np.arange(15))[arrays["left"] >= 0].all()
    )
    if not wrong_trees(arrays, 3, 1):
        assert is_tree


def test_headers_are_read_or_refused() -> None:
    words = ("binary:logistic",)
    assert read_header(header("binary:logistic", 1, 3, 0.5), words) == ("binary:logistic", 1, 3, 0.5)
    good = header("binary:logistic", 1, 3, 0.5)
    for change in (
        {"xgboost": np.frombuffer(b"\xff", np.uint8)},
        {"xgboost": np.frombuffer(b"rank:map", np.uint8)},
        {"num_outputs": np.array([0])},
        {"num_features": np.array([], dtype=np.int64)},
        {"base_score": np.array([np.nan])},
    ):
        with pytest.raises(ConfigError, match=r"arrays of hs\.XGBoost"):
            read_header({**good, **change}, words)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "stacking"}, "mode"),
        ({"objective": "rank:map"}, "objective"),
        ({"local_rounds": 0}, "local_rounds"),
        ({"num_classes": 3}, "num_classes"),
        ({"base_score": 1.0}, "base_score"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        hs.XGBoost(**options)


# ---- with XGBoost itself ----

needs_xgboost = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("xgboost"), reason="xgboost is not installed (extra 'xgboost')"
)


def rows(n: int = 600, classes: int = 2, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    X[rng.random(X.shape) < 0.1] = np.nan
    signal = np.nan_to_num(X[:, 0]) + np.nan_to_num(X[:, 1]) ** 2
    return X, np.searchsorted(np.quantile(signal, np.arange(1, classes) / classes), signal).astype(float)


def grown(strategy: Any, X: Any, y: Any, sites: int = 3, rounds: int = 5, **params: Any) -> Any:
    app = hs.App(strategy, rounds=rounds)

    @app.client
    def client(site: Any) -> Any:
        return hs.xgboost({"max_depth": 3, "eta": 0.5, **params}, *site.load("rows"), test=0.2)

    parts = {f"s{i}": {"rows": (X[i::sites], y[i::sites])} for i in range(sites)}
    return hs.simulate(app, parts, progress=False)


@needs_xgboost
@pytest.mark.parametrize(
    ("objective", "classes"), [("binary:logistic", 2), ("multi:softprob", 3), ("reg:squarederror", 2)]
)
def test_a_booster_survives_the_way(objective: str, classes: int) -> None:
    import xgboost

    X, y = rows(classes=classes)
    several = {"num_class": classes} if classes > 2 else {}
    params = {"objective": objective, "max_depth": 4, "gamma": 1.0, "base_score": 0.5, "nthread": 1, **several}
    model = xgboost.train(params, xgboost.DMatrix(X, y), 7)
    outputs = classes if classes > 2 else 1
    arrays = {**header(objective, outputs, 4, 0.5), **taken_apart(json.loads(model.save_raw("json")))}
    assert wrong_trees(arrays, 4, outputs) == ""
    again = hs.booster(hs.Arrays(arrays))
    data = xgboost.DMatrix(X)
    np.testing.assert_array_equal(again.predict(data), model.predict(data))
    assert again.get_score(importance_type="gain") == model.get_score(importance_type="gain")
    assert again.num_boosted_rounds() == 7


@needs_xgboost
def test_one_site_of_bagging_is_xgboost() -> None:
    import xgboost

    X, y = rows()
    app = hs.App(hs.XGBoost(local_rounds=2), rounds=3, evaluate_every=0)

    @app.client
    def client(site: Any) -> Any:
        return hs.xgboost({"max_depth": 3}, X, y, test=0)

    result = hs.simulate(app, ["a"], progress=False)
    params = {"objective": "binary:logistic", "max_depth": 3, "base_score": 0.5, "nthread": 1}
    model = xgboost.train(params, xgboost.DMatrix(X, y), 6)
    data = xgboost.DMatrix(X)
    np.testing.assert_allclose(hs.booster(result.arrays).predict(data), model.predict(data), rtol=1e-5)


@needs_xgboost
@pytest.mark.parametrize("mode", ["bagging", "cyclic"])
def test_both_modes_learn(mode: str) -> None:
    X, y = rows(900)
    result = grown(hs.XGBoost(mode), X, y, rounds=9)
    assert len(result.arrays["starts"]) - 1 == (27 if mode == "bagging" else 9)
    assert result.rounds[-1].metrics["auc"] > 0.9
    assert result.rounds[-1].metrics["loss"] < result.rounds[0].metrics["loss"]
    assert result.rounds[0].by_site["s0"]["evaluate_examples"] == 60
    again = grown(hs.XGBoost(mode), X, y, rounds=9)
    assert again.arrays == result.arrays


@needs_xgboost
def test_cyclic_takes_turns_and_is_honest_about_the_quorum() -> None:
    X, y = rows()
    app = hs.App(hs.XGBoost("cyclic"), rounds=2, quorum=2, deadline_s=0.2)
    app.client(lambda site: hs.xgboost({}, X, y))
    with pytest.raises(hs.JobFailed, match="one site a round"):
        hs.simulate(app, ["a", "b"], progress=False)
    app = hs.App(hs.XGBoost("cyclic"), rounds=5, evaluate_every=0)
    app.client(lambda site: hs.xgboost({}, X, y))
    result = hs.simulate(app, ["a", "b", "c"], progress=False)
    assert [record.folded for record in result.rounds] == [("a",), ("b",), ("c",), ("a",), ("b",)]


@needs_xgboost
def test_classes_take_turns_and_regression_has_its_base() -> None:
    X, y = rows(classes=3)
    result = grown(hs.XGBoost(objective="multi:softprob", num_classes=3), X, y)
    assert result.rounds[-1].metrics["accuracy"] > 0.6
    result = grown(hs.XGBoost(objective="reg:squarederror", base_score=100.0), X, 100 + 5 * y, rounds=8)
    assert result.rounds[-1].metrics["r2"] > 0.4


@needs_xgboost
def test_hostile_trees_never_reach_xgboost(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = rows()
    arrays = dict(grown(hs.XGBoost(), X, y, rounds=1).arrays)
    arrays["left"] = arrays["left"].copy()
    arrays["left"][0] = 0
    with pytest.raises(UpdateError, match="after their parent"):
        hs.booster(hs.Arrays(arrays))
    from hanse.clients import xgboost as client_module

    honest = client_module.taken_apart

    def hostile(document: Any, first: int = 0) -> Any:
        made = honest(document, first)
        made["feature"] = made["feature"] + 4
        return made

    monkeypatch.setattr(client_module, "taken_apart", hostile)
    with pytest.raises(hs.JobFailed, match="features from 0 to 3"):
        grown(hs.XGBoost(), X, y, rounds=1)


@needs_xgboost
def test_other_boosters_are_refused_at_the_site() -> None:
    X, y = rows()
    for name in ("objective", "booster", "base_score", "num_parallel_tree"):
        with pytest.raises(ConfigError, match=name):
            hs.xgboost({name: 1}, X, y)
    with pytest.raises(ConfigError, match=r"X of \(n, d\)"):
        hs.xgboost({}, X[0], y)


def test_without_xgboost_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xgboost", None)
    with pytest.raises(MissingExtraError, match=r"hanse\[xgboost\]"):
        hs.xgboost({}, *rows(20))
