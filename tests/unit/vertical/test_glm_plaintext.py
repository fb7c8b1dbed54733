"""The yardstick itself: against scikit-learn, a loop over single rows and numbers, and with bad input."""

from typing import Any

import numpy as np
import pytest

from hanse.core.errors import ConfigError
from hanse.vertical.glm import plaintext
from hanse.vertical.glm.families import response_of
from hanse.vertical.glm.training import Training, batches, bounds

linear_model = pytest.importorskip("sklearn.linear_model", reason="the oracle is scikit-learn (extra `sklearn`)")


def data(family: str, rows: int = 600, columns: int = 4) -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((rows, columns))
    z = x @ rng.standard_normal(columns) * 0.5 + 0.3
    if family == "logistic":
        return x, (rng.random(rows) < 1 / (1 + np.exp(-z))).astype(int)
    if family == "poisson":
        return x, rng.poisson(np.exp(z))
    return x, z + rng.standard_normal(rows) * 0.1


def trained(family: str, **settings: Any) -> tuple[Any, Any, Any, Any]:
    x, y = data(family)
    table = np.column_stack([np.ones(len(x)), x])
    response = response_of(y, family)
    penalised = np.array([False] + [True] * x.shape[1])
    training = Training(family=family, **{"epochs": 1500, "batch_rows": 600, "learning_rate": 0.5} | settings)
    found = plaintext.fit(table, response, training, penalised=penalised)
    return x, y, response, found


@pytest.mark.parametrize("family", ["logistic", "poisson", "linear"])
def test_it_ends_where_scikit_learn_does(family: str) -> None:
    x, y, response, found = trained(family, l2=0.01)
    rows = len(x)
    if family == "logistic":
        other: Any = linear_model.LogisticRegression(C=1 / (0.01 * rows), tol=1e-10, max_iter=1000).fit(x, y)
        expected = other.predict_proba(x)[:, 1]
    elif family == "linear":
        other = linear_model.Ridge(alpha=0.01 * rows).fit(x, y)
        expected = other.predict(x)
    else:  # the penalty is relative to the scaled response
        other = linear_model.PoissonRegressor(alpha=0.01 * y.mean(), tol=1e-10, max_iter=1000).fit(x, y)
        expected = other.predict(x)
    table = np.column_stack([np.ones(rows), x])
    assert np.abs(response.predict(table @ found.weights) - expected).max() < 1e-4 * np.abs(expected).max()


def test_l1_reaches_zero_as_scikit_learn_s_lasso() -> None:
    x, y, response, found = trained("linear", l1=0.36)
    scaled = (y - y.mean()) / y.std()
    other = linear_model.Lasso(alpha=0.36, tol=1e-10).fit(x, scaled)
    assert np.abs(found.weights[1:, 0] - other.coef_).max() < 1e-6
    assert np.array_equal(found.weights[1:, 0] == 0, other.coef_ == 0)
    assert (other.coef_ == 0).any()
    assert response.scale == pytest.approx(y.std())


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_every_step_is_that_of_the_formula(optimiser: str) -> None:
    """Against loops over rows, batches and columns written from the formulas."""
    x, y = data("logistic", rows=23, columns=2)
    weights = np.random.default_rng(1).random(23)
    momentum = 0.5 if optimiser == "sgd" else 0.0
    training = Training(
        epochs=3, batch_rows=5, learning_rate=0.3, optimiser=optimiser, momentum=momentum, l2=0.1, seed=9
    )
    found = plaintext.fit(x, response_of(y, "logistic"), training, sample_weights=weights)
    w, first, second = [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]
    for count, batch in enumerate(batches(23, training), start=1):
        gradient = [0.1 * each for each in w]
        for row in range(batch.start, batch.stop):
            z = sum(w[j] * float(x[row, j]) for j in range(2))
            d = float(weights[row] / weights.max()) * (1 / (1 + np.exp(-z)) - float(y[row]))
            gradient = [g + d * float(x[row, j]) / batch.num_rows for j, g in enumerate(gradient)]
        for j in range(2):
            if optimiser == "sgd":
                first[j] = 0.5 * first[j] + 0.3 * gradient[j]
                w[j] -= first[j]
            else:
                first[j] = 0.9 * first[j] + 0.1 * gradient[j]
                second[j] = 0.999 * second[j] + 0.001 * gradient[j] ** 2
                w[j] -= 0.3 * (first[j] / (1 - 0.9**count)) / ((second[j] / (1 - 0.999**count)) ** 0.5 + 1e-8)
    assert np.abs(found.weights[:, 0] - w).max() < 1e-12
    assert len(found.changes) == 3


def test_batches_are_even_and_each_epoch_has_every_row_once() -> None:
    training = Training(epochs=4, batch_rows=10, seed=5)
    sizes = {stop - start for start, stop in bounds(101, 10)}
    assert sizes == {9, 10}
    orders = []
    for epoch in range(4):
        taken = [batch for batch in batches(101, training) if batch.epoch == epoch]
        assert sorted(row for batch in taken for row in range(batch.start, batch.stop)) == list(range(101))
        assert [batch.ends_epoch for batch in taken] == [False] * 10 + [True]
        orders.append(tuple(batch.start for batch in taken))
    assert len(set(orders)) == 4
    assert orders[0] == tuple(b.start for b in batches(101, training))[:11]
    assert [batch.index for batch in batches(101, training)] == list(range(44))


def test_an_early_end_and_a_warm_start() -> None:
    x, y = data("logistic")
    response = response_of(y, "logistic")
    early = plaintext.fit(x, response, Training(epochs=500, learning_rate=1.0, tolerance=1e-3))
    assert len(early.changes) < 200
    assert early.changes[-1] <= 1e-3 < early.changes[-2]
    again = plaintext.fit(x, response, Training(epochs=500, learning_rate=1.0, tolerance=1e-3), start=early.weights)
    assert len(again.changes) == 1


def test_scores_far_out_stay_finite() -> None:
    for family in ("logistic", "poisson"):
        x, y = data(family)
        found = plaintext.fit(x * 50, response_of(y, family), Training(family=family, epochs=20, batch_rows=64))
        assert np.isfinite(found.weights).all()
        assert np.isfinite(found.losses).all()
        assert np.abs(x * 50 @ found.weights).max() > 20


def test_several_classes_are_the_softmax_that_scikit_learn_fits() -> None:
    """To its weights but for one constant a row of them, which a softmax does not see and a penalty takes to 0."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, _ = data("logistic")
    y = np.array(["c", "a", "b"])[np.argmax(x[:, :3] + 0.5 * np.random.default_rng(3).normal(size=(len(x), 3)), axis=1)]
    response = response_of(y, "logistic")
    assert response.family.name == "softmax"
    training = Training(epochs=400, learning_rate=1.0, batch_rows=len(x), momentum=0.9, l2=0.01)
    found = plaintext.fit(x, response, training)
    theirs = linear_model.LogisticRegression(C=1 / (0.01 * len(x)), fit_intercept=False, tol=1e-10, max_iter=2000)
    theirs.fit(x, y)
    assert np.abs(found.weights - theirs.coef_.T).max() < 1e-4
    assert np.abs(response.predict(x @ found.weights) - theirs.predict_proba(x)).max() < 1e-4
    losses = -np.log(theirs.predict_proba(x)[np.arange(len(x)), np.searchsorted(response.classes, y)])
    assert abs(found.losses[-1] - losses.mean()) < 1e-4


def test_several_classes_one_against_the_rest() -> None:
    x, _ = data("logistic")
    y = np.array(["c", "a", "b"])[np.argmax(x[:, :3], axis=1)]
    response = response_of(y, "logistic", "ovr")
    assert response.classes == ("a", "b", "c")
    found = plaintext.fit(x, response, Training(epochs=100, learning_rate=1.0, multi_class="ovr"))
    chances = response.predict(x @ found.weights)
    assert np.allclose(chances.sum(1), 1)
    assert (np.array(response.classes)[chances.argmax(1)] == y).mean() > 0.85
    alone = plaintext.fit(x, response_of(y == "b", "logistic"), Training(epochs=100, learning_rate=1.0))
    assert np.allclose(alone.weights[:, 0], found.weights[:, 1])


@pytest.mark.parametrize(
    ("family", "label", "words"),
    [
        ("logistic", [1, 1, 1], "expected 2 to 64 classes, found 1"),
        ("logistic", list(range(65)), "found 65"),
        ("linear", [7.25, 7.25], "found a constant"),
        ("linear", [1.0, np.nan, np.inf], "found 2 that are not"),
        ("linear", [1e300, -1e300, 2e300], "within the range of floats"),
        ("linear", ["a", "b"], "expected numbers"),
        ("poisson", [1.0, -2.0, 0.5], "found 2 that are negative or not whole"),
        ("poisson", [0, 0], "above 0, found none"),
        ("normal", [0, 1], "expected one of logistic, linear, poisson"),
        ("linear", [[1.0], [2.0]], "one value for each row"),
    ],
)
def test_labels_that_do_not_fit_are_refused(family: str, label: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as refused:
        response_of(np.array(label), family)
    assert "7.25" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"batch_rows": 1}, "batch_rows"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"l2": -1.0}, "l2"),
        ({"optimiser": "lbfgs"}, "optimiser"),
        ({"optimiser": "adam", "momentum": 0.5}, "momentum"),
        ({"family": "gamma"}, "family"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Training(**settings)


def test_the_digest_tells_settings_apart() -> None:
    assert Training().digest() == Training().digest()
    assert Training(learning_rate=1.0).digest() == Training(learning_rate=1).digest()
    others = [Training(l2=0.1), Training(epochs=11), Training(seed=1), Training(family="poisson")]
    assert len({each.digest() for each in [Training(), *others]}) == 5
    assert Training().digest(b"ab", b"c") != Training().digest(b"a", b"bc")


@pytest.mark.parametrize("weights", [[1.0, 2.0], [1.0, -1.0, 1.0], [np.inf, 1.0, 1.0], [0.0, 0.0, 0.0]])
def test_sample_weights_that_do_not_fit_are_refused(weights: Any) -> None:
    with pytest.raises(ConfigError, match="sample weights"):
        plaintext.relative_weights(np.array(weights), 3)
