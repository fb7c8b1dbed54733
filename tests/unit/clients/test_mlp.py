"""NumPy perceptrons: slopes by finite differences, closed forms, the site's part of strategies, and repetition."""

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hanse as hs
from hanse.clients.app import App
from hanse.clients.execute import Runtime
from hanse.clients.mlp import flat_of
from hanse.clients.perceptrons import Shape, Stack
from hanse.clients.training import LOSSES, order_of
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.core.ids import TaskId
from hanse.core.records import Task
from tests.unit.clients.federation import federate

DOUBLE: Any = np.dtype(np.float64)


def app_of(**declared: Any) -> App:
    app = App(seed=5)

    @app.client
    def client(site: Any) -> Any:
        return hs.mlp(*site.load("rows"), **declared)

    return app


def rows(seed: int, count: int, *, classes: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, 4))
    return X, (X @ rng.standard_normal((4, classes)) if classes else X @ np.arange(4.0)).argmax(axis=-1)


@settings(deadline=None, max_examples=30)
@given(
    loss=st.sampled_from(LOSSES),
    hidden=st.lists(st.integers(1, 5), max_size=2),
    models=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_gradients_are_those_of_finite_differences(loss: str, hidden: list[int], models: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = {"cross_entropy": 3, "binary_cross_entropy": 1, "mse": 2}[loss]
    stack = Stack(Shape((4, *hidden, outputs), DOUBLE), models)
    stack.values[:] = rng.standard_normal(stack.values.shape)
    X, share = rng.standard_normal((models, 6, 4)), rng.random((models, 6))
    y = rng.integers(0, outputs, (models, 6)) if loss == "cross_entropy" else rng.random((models, 6, outputs)).round()
    stack.gradients(X, y, share, loss)
    grads, step = stack.grads.copy(), 1e-6
    for place in rng.choice(stack.values.shape[1], 5):
        found = []
        for move in (step, -2 * step, step):
            stack.values[:, place] += move
            found.append((share * stack.gradients(X, y, share, loss)).sum(axis=1))
        assert np.allclose(grads[:, place], (found[0] - found[1]) / (2 * step), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("hidden", [(), (5,), (4, 3)])
def test_gradients_of_models_that_are_all_one_are_those_of_each(loss: str, hidden: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    outputs = {"cross_entropy": 3, "binary_cross_entropy": 1, "mse": 2}[loss]
    stack = Stack(Shape((4, *hidden, outputs), DOUBLE), 6)
    model = rng.standard_normal(stack.values.shape[1])
    X, share = rng.standard_normal((5, 7, 4)), rng.random((5, 7))
    y = rng.integers(0, outputs, (5, 7)) if loss == "cross_entropy" else rng.random((5, 7, outputs)).round()
    stack.values[:] = model
    each = stack.gradients(X, y, share, loss)
    grads = stack.grads[:5].copy()
    stack.values[:], stack.grads[:] = np.nan, np.nan
    together = stack.gradients(X, y, share, loss, model=model)
    assert np.allclose(together, each, rtol=1e-12)
    assert np.allclose(stack.grads[:5], grads, rtol=1e-11, atol=1e-13)
    assert np.isnan(stack.grads[5]).all()  # of a model without a batch


def test_one_step_of_least_squares_is_the_formula() -> None:
    X, y = np.random.default_rng(0).standard_normal((20, 4)), np.arange(20.0)
    app = app_of(loss="mse", optimizer=hs.SGD(0.1), batch_size=20, dtype=np.float64)
    model, trained, _ = federate(app, {"a": (X, y)})
    start = federate(app, {"a": (X, y)}, rounds=0)[0]
    gap = X @ start["0.weight"][0] + start["0.bias"][0] - y
    assert np.allclose(model["0.weight"][0], start["0.weight"][0] - 0.1 * 2 * (X.T @ gap) / 20, rtol=1e-12)
    assert np.allclose(model["0.bias"][0], start["0.bias"][0] - 0.1 * 2 * gap.mean(), rtol=1e-12)
    assert trained["a"]["loss"] == pytest.approx((gap**2).mean(), rel=1e-12)


def test_sites_learn_together_and_evaluate_what_they_held_out() -> None:
    X, y = rows(0, 400)
    sites = {"a": (X[:300], y[:300]), "b": (X[300:], y[300:])}
    app = app_of(hidden=[8], classes=3, optimizer=hs.SGD(0.3, momentum=0.9), epochs=2, batch_size=16, test=0.2)
    _, _, evaluated = federate(app, sites, rounds=8)
    assert all(metrics["accuracy"] > 0.85 for metrics in evaluated.values())  # type: ignore[operator]


@pytest.mark.parametrize("optimizer", [hs.SGD(0.1, 0.9, 0.01), hs.Adam(0.01)])
def test_workers_replaced_or_shared_change_no_bit(optimizer: Any) -> None:
    app = app_of(hidden=[5], classes=3, optimizer=optimizer, batch_size=7)
    data = {"a": rows(1, 23), "b": rows(2, 31)}

    def train(runtime: Runtime, site: str, model: Arrays | None) -> Arrays:
        call = "parameters" if model is None else "train"
        outcome = runtime.execute(Task(TaskId("j", "main", 1, call, 0), site, call, seed=9), model, None)
        assert outcome.arrays is not None, outcome.reply.error
        return outcome.arrays

    def runtime(site: str) -> Runtime:
        return Runtime(app, site_name=site, load=lambda name: data[site], log=print)

    model = train(runtime("a"), "a", None)
    alone = {site: train(runtime(site), site, model) for site in data}
    both = {site: runtime(site) for site in data}
    for site in ("b", "a", "b", "b", "a"):
        assert train(both[site], site, model) == alone[site]
    assert train(both["a"], "a", model) != train(both["b"], "b", model)


def test_fedprox_pulls_back_and_scaffold_and_feddyn_reach_the_pooled_optimum() -> None:
    rng = np.random.default_rng(3)
    sites = {}
    for name, shift in (("a", -1.0), ("b", 2.0)):
        X = rng.standard_normal((40, 2)) + shift
        sites[name] = {"rows": (X, X @ [1.0, -2.0] + shift + rng.standard_normal(40))}
    X, y = (np.concatenate([sites[name]["rows"][part] for name in sites]) for part in (0, 1))
    pooled = np.linalg.lstsq(np.c_[X, np.ones(80)], y, rcond=None)[0]

    def fit(strategy: Any, rounds: int = 250) -> Array:
        app = hs.App(strategy, rounds=rounds, evaluate_every=0, seed=1)
        app.client(
            lambda site: hs.mlp(
                *site.load("rows"), loss="mse", optimizer=hs.SGD(0.02), epochs=5, batch_size=40, dtype=np.float64
            )
        )
        arrays = hs.without_control(hs.simulate(app, sites, progress=False).arrays)
        return np.concatenate([arrays["0.weight"][0], arrays["0.bias"]])

    assert np.abs(fit(hs.Scaffold()) - pooled).max() < 1e-3
    assert np.abs(fit(hs.FedDyn(alpha=0.5)) - pooled).max() < 1e-3
    away = np.abs(fit(hs.FedAvg()) - pooled).max()
    assert away > 0.004  # what the corrections take away
    assert np.abs(fit(hs.FedProx(proximal_mu=5.0)) - pooled).max() < away
    one = np.abs(fit(hs.FedNova(), 40) - fit(hs.FedAvg(), 40)).max()
    assert one < 1e-9  # sites take the same number of steps, where FedNova is FedAvg


def test_epochs_and_learning_rate_from_the_config_are_used() -> None:
    data = {"a": rows(1, 20)}
    declared: dict[str, Any] = {"classes": 3, "batch_size": 5}
    changed = federate(app_of(optimizer=hs.SGD(0.5), **declared), data, config={"epochs": 3, "client_lr": 0.1})[0]
    assert changed == federate(app_of(optimizer=hs.SGD(0.1), epochs=3, **declared), data)[0]
    assert changed != federate(app_of(optimizer=hs.SGD(0.5), epochs=3, **declared), data)[0]


def test_a_schedule_of_the_app_is_the_rate_of_each_round() -> None:
    sites = {"a": {"rows": rows(1, 20)}}

    def trained(rounds: int, initial: Any, **settings: Any) -> Arrays:
        app = App(rounds=rounds, initial=initial, evaluate_every=0, **settings)
        app.client(lambda site: hs.mlp(*site.load("rows"), classes=3, optimizer=hs.SGD(9.0), batch_size=20))
        return hs.simulate(app, sites, engine="sequential", progress=False).arrays

    start = {"0.weight": np.zeros((3, 4), np.float32), "0.bias": np.zeros(3, np.float32)}
    halved = trained(2, start, lr=hs.Schedule(0.4, "step", every=1, factor=0.5))
    first, wild = trained(1, start, lr=0.4), trained(2, start)
    for name, array in trained(1, dict(first), lr=0.2).items():
        np.testing.assert_allclose(halved[name], array, rtol=1e-5, atol=1e-7)  # a round's order sums in another one
        assert not np.allclose(wild[name], array)


@pytest.mark.parametrize("optimizer", [hs.SGD(0.1), hs.SGD(0.1, 0.9, 0.01), hs.Adam(0.05, weight_decay=0.1)], ids=repr)
def test_arrays_that_are_frozen_stay_and_the_rest_is_trained_over_them(optimizer: Any) -> None:
    """With its first layer held, a perceptron is a linear model of what that layer answers."""
    X, y = rows(2, 30)
    options: dict[str, Any] = {"classes": 3, "optimizer": optimizer, "batch_size": 7, "epochs": 2, "dtype": DOUBLE}
    rng = np.random.default_rng(0)
    whole = {name: rng.standard_normal(array.shape) for name, array in Shape((4, 6, 3), DOUBLE).initial(rng).items()}
    features = np.maximum(X @ whole["0.weight"].T + whole["0.bias"], 0)
    head = {"0.weight": whole["2.weight"], "0.bias": whole["2.bias"]}

    def trained(X: Array, start: Any, **more: Any) -> Arrays:
        app = App(initial=start, seed=5)
        app.client(lambda site: hs.mlp(*site.load("rows"), **options, **more))
        return federate(app, {"a": (X, y)}, config={"frozen": ["0.weight", "0.bias"] if more else []})[0]

    found, expected = trained(X, whole, hidden=[6]), trained(features, head)
    assert found["0.weight"].tobytes() == whole["0.weight"].tobytes()
    for part in ("weight", "bias"):
        np.testing.assert_allclose(found[f"2.{part}"], expected[f"0.{part}"], rtol=1e-9)
        assert not np.allclose(found[f"2.{part}"], whole[f"2.{part}"])


def test_a_changed_model_in_the_same_arrays_is_seen_in_the_next_round() -> None:
    X, y = rows(1, 20)
    client = hs.mlp(X, y, classes=3, optimizer=hs.SGD(0.1))
    arrays = Arrays({"0.weight": np.zeros((3, 4), np.float32), "0.bias": np.zeros(3, np.float32)})
    site: Any = type("Site", (), {"round": 1, "phase": "train"})()
    first = client.measured(arrays, (X.astype(np.float32), y), site)["loss"]
    arrays["0.bias"][:] = [5, 0, 0]
    site.round = 2
    assert client.measured(arrays, (X.astype(np.float32), y), site)["loss"] != first


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        (np.zeros((3, 2)), [0, 1, 2], {}, "classes: expected the number of labels"),
        (np.zeros((3, 2)), [0, 1, 2], {"classes": 2}, "labels 0 to 1"),
        (np.zeros((3, 2)), [0, -1, 1], {"classes": 2}, "labels 0 to 1"),
        (np.zeros((3, 2)), [0, 1], {"classes": 2}, "found 3 and 2"),
        (np.zeros((0, 2)), [], {"classes": 2}, "at least one"),
        (np.zeros(3), [0, 1, 1], {"classes": 2}, r"expected X \(n, features\)"),
        (np.zeros((3, 2)), [0, 1, 1], {"classes": 2, "hidden": [0]}, "hidden: expected widths"),
        (np.zeros((3, 2)), [0, 1, 1], {"classes": 2, "hidden": 64}, "hidden: expected widths"),
        (np.zeros((3, 2)), [0, 1, 2], {"loss": "binary_cross_entropy"}, "expected 0 or 1"),
        (np.zeros((3, 2)), ["a", "b", "c"], {"classes": 2}, "expected numbers"),
        (np.zeros((3, 2)), [0, 1, 1], {"classes": 2, "dtype": "int8"}, "dtype: expected float32"),
        (np.zeros((3, 2)), [0, 1, 1], {"classes": 2, "test": (1,)}, "expected \\(X, y\\)"),
    ],
)
def test_wrong_arguments_are_refused(X: Any, y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hs.mlp(X, y, optimizer=hs.SGD(0.1), **options)


def test_a_model_of_another_shape_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected a model of shapes"):
        flat_of(Arrays({"0.weight": np.zeros((3, 4))}), Shape((4, 3), DOUBLE))


def test_a_site_with_one_example_trains() -> None:
    _, trained, _ = federate(app_of(classes=3, optimizer=hs.SGD(0.1)), {"a": rows(1, 1)}, rounds=2)
    assert trained["a"]["loss"] > 0  # type: ignore[operator]
    assert order_of(0, 1, 1).tolist() == [[0]]


def test_a_training_of_numbers_leaves_global_state_alone_and_user_code_beside_it_has_its_own() -> None:
    app = app_of(optimizer=hs.SGD(0.1), classes=3, test=0.5)

    @app.query
    def ask(config: Any, site: Any) -> Any:
        return {"x": np.random.random(), "y": random.random()}

    def drawn(calls: list[str]) -> Any:
        runtime = Runtime(app, site_name="a", load=lambda _: rows(0, 8), log=lambda _: None)
        model = runtime.client(5).inner.shape.initial(np.random.default_rng(0))  # type: ignore[attr-defined]
        found = None
        for place, call in enumerate(calls):
            outcome = runtime.execute(Task(TaskId("job", "c", 1, call, place), "a", call, seed=5), Arrays(model), None)
            assert outcome.reply.ok
            found = outcome.reply.metrics
        return found

    assert drawn(["query"]) == drawn(["train", "query"]) == drawn(["query", "evaluate", "query"])

    plain = app_of(optimizer=hs.SGD(0.1), classes=3, test=0.5)
    runtime = Runtime(plain, site_name="a", load=lambda _: rows(0, 8), log=lambda _: None)
    model = runtime.client(5).shape.initial(np.random.default_rng(0))  # type: ignore[attr-defined]
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    for call in ("train", "evaluate"):
        assert runtime.execute(Task(TaskId("job", "c", 1, call, 0), "a", call, seed=5), Arrays(model), None).reply.ok
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
