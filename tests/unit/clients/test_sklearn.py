"""scikit-learn clients, judged by scikit-learn itself: pooled fits, its own solvers, its own metrics."""

from typing import Any

import numpy as np
import pytest

sk = pytest.importorskip("sklearn")
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris  # noqa: E402
from sklearn.ensemble import RandomForestClassifier  # noqa: E402
from sklearn.linear_model import (  # noqa: E402
    ElasticNet,
    Lasso,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Perceptron,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.metrics import log_loss, roc_auc_score  # noqa: E402
from sklearn.naive_bayes import BernoulliNB, GaussianNB, MultinomialNB  # noqa: E402
from sklearn.neural_network import MLPClassifier, MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.svm import SVC, LinearSVC  # noqa: E402
from sklearn.tree import DecisionTreeClassifier  # noqa: E402

import hanse as hs  # noqa: E402
from hanse.clients.app import App  # noqa: E402
from hanse.clients.execute import Runtime  # noqa: E402
from hanse.clients.site import Site  # noqa: E402
from hanse.clients.sklearn import SklearnClient, fitted, sklearn  # noqa: E402
from hanse.core.arrays import Arrays  # noqa: E402
from hanse.core.errors import ConfigError  # noqa: E402
from hanse.core.ids import TaskId  # noqa: E402
from hanse.core.records import Task  # noqa: E402
from tests.unit.clients.federation import federate  # noqa: E402


def cancer() -> tuple[Any, Any]:
    X, y = load_breast_cancer(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def iris() -> tuple[Any, Any]:
    X, y = load_iris(return_X_y=True)
    return (X - X.mean(axis=0)) / X.std(axis=0), y


def parts(X: Any, y: Any, *cuts: int) -> dict[str, tuple[Any, Any]]:
    """Sites of unequal sizes whose labels are skewed; the first of them may see one class only."""
    order = np.argsort(y, kind="stable")
    return {f"s{i}": (X[rows], y[rows]) for i, rows in enumerate(np.split(order, cuts))}


def app_of(estimator: Any, **options: Any) -> App:
    app = App()
    app.client(lambda site: sklearn(estimator, *site.load("data"), **options))
    return app


CLASSIFIERS = [
    LogisticRegression(),
    LogisticRegression(solver="liblinear", class_weight="balanced"),
    LinearSVC(),
    SGDClassifier(loss="log_loss"),
    SGDClassifier(loss="hinge"),
    Perceptron(),
    MLPClassifier((8,), learning_rate_init=0.01),
    MLPClassifier((8,), solver="sgd", activation="tanh", learning_rate_init=0.02),
    GaussianNB(),
    BernoulliNB(),
]


@pytest.mark.parametrize("data", [cancer, iris], ids=["two classes", "three classes"])
@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=str)
def test_every_classifier_learns_from_sites_that_lack_classes(estimator: Any, data: Any) -> None:
    X, y = data()
    classes = sorted(set(y.tolist()))
    sites = parts(X, y, len(y) // 8, len(y) // 2)
    assert len(set(sites["s0"][1])) == 1
    app = app_of(estimator, classes=classes)
    model, trained, evaluated = federate(app, sites, rounds=12)
    accuracy = (fitted(estimator, model, classes=classes).predict(X) == y).mean()
    # the floor is what guessing the largest class gives, and then some
    assert accuracy > max(np.bincount(y) / len(y)) + 0.12, accuracy
    assert {"loss", "accuracy"} <= set(trained["s1"])
    assert {"loss", "accuracy"} <= set(evaluated["s1"])
    assert "auc" not in evaluated["s0"]


REGRESSORS = [
    LinearRegression(),
    Ridge(alpha=0.1),
    Lasso(alpha=0.1),
    ElasticNet(alpha=0.01),
    SGDRegressor(),
    MLPRegressor(hidden_layer_sizes=(16,), learning_rate_init=0.01),
]


@pytest.mark.parametrize("estimator", REGRESSORS, ids=str)
def test_every_regressor_learns(estimator: Any) -> None:
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(axis=0), (y - 150) / 77
    _, _, evaluated = federate(app_of(estimator, epochs=5), parts(X, y, 100, 200), rounds=20)
    # sites are cut by the target, so r2 within a site says nothing; the loss over all does
    mean_loss = np.mean([metrics["loss"] for metrics in evaluated.values()])
    assert mean_loss < 0.75 * y.var()


@pytest.mark.parametrize("estimator", [*CLASSIFIERS, *REGRESSORS], ids=str)
def test_initial_parameters_need_no_fit_and_are_the_same_at_every_site(estimator: Any) -> None:
    X, y = cancer()
    task = Task(TaskId("job", "main", 0, "parameters", 1), "s0", "parameters", seed=5)
    made = []
    for name, data in parts(X, y, 50).items():
        app = app_of(estimator, **({"classes": [0, 1]} if estimator in CLASSIFIERS else {}))
        runtime = Runtime(app, site_name=name, load=lambda wanted, data=data: data, log=print)  # type: ignore[misc]
        made.append(runtime.execute(task, None, None).arrays)
    assert made[0] is not None
    assert made[0] == made[1]


# ---- equal to pooled training ----


def three_sites(y: Any) -> dict[str, Any]:
    return {"a": slice(0, 30), "b": slice(30, 200), "c": slice(200, len(y))}


def pooled_and_federated(estimator: Any, pooled: Any, X: Any, y: Any, **options: Any) -> tuple[Any, Any]:
    sites = {name: (X[rows], y[rows]) for name, rows in three_sites(y).items()}
    model, _, _ = federate(app_of(estimator, test=0, **options), sites)
    return pooled.fit(X, y), fitted(estimator, model, classes=options.get("classes"))


@pytest.mark.parametrize(
    ("estimator", "pooled"),
    [
        (LinearRegression(), LinearRegression()),
        (LinearRegression(fit_intercept=False), LinearRegression(fit_intercept=False)),
        (Ridge(alpha=0.2), Ridge(alpha=0.6)),  # the penalty counts once a site
        (Lasso(alpha=0.5, tol=1e-12, max_iter=100_000), Lasso(alpha=0.5, tol=1e-12, max_iter=100_000)),
        (ElasticNet(alpha=0.1, tol=1e-12, max_iter=100_000), ElasticNet(alpha=0.1, tol=1e-12, max_iter=100_000)),
    ],
    ids=str,
)
def test_least_squares_equals_the_pooled_fit_after_one_round(estimator: Any, pooled: Any) -> None:
    X, y = load_diabetes(return_X_y=True)
    X, y = X / X.std(axis=0) + 3, y + 0.0
    expected, found = pooled_and_federated(estimator, pooled, X, y)
    np.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.predict(X), expected.predict(X), rtol=1e-6)


@pytest.mark.parametrize(
    ("estimator", "pooled", "count_data"),
    [
        (GaussianNB(), GaussianNB(), False),
        (GaussianNB(var_smoothing=0.1), GaussianNB(var_smoothing=0.1), False),
        (BernoulliNB(alpha=0.5), BernoulliNB(alpha=1.5), False),
        (MultinomialNB(alpha=0.5), MultinomialNB(alpha=1.5), True),
        (MultinomialNB(alpha=0.5, fit_prior=False), MultinomialNB(alpha=1.5, fit_prior=False), True),
    ],
    ids=str,
)
def test_naive_bayes_equals_the_pooled_fit_after_one_round(estimator: Any, pooled: Any, count_data: bool) -> None:
    X, y = cancer()
    X = np.round(5 * (X - X.min())) if count_data else X
    labels = np.array(["well", "ill"])
    expected, found = pooled_and_federated(estimator, pooled, X, labels[y], classes=["well", "ill"])
    order = [list(expected.classes_).index(label) for label in found.classes_]
    np.testing.assert_allclose(
        found.predict_log_proba(X), expected.predict_log_proba(X)[:, order], rtol=1e-6, atol=1e-9
    )
    assert (found.predict(X) == expected.predict(X)).all()


def test_sparse_features_give_what_dense_ones_give() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    X, y = cancer()
    X = np.maximum(X, 0)
    for estimator in (
        LogisticRegression(),
        LinearSVC(),
        MultinomialNB(),
        LinearRegression(),
    ):
        dense, *_ = federate(app_of(estimator), {"a": (X, y)})
        found, *_ = federate(app_of(estimator), {"a": (sparse.csr_matrix(X), y)})
        for name, array in dense.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-6, atol=1e-8)


# ---- our own steps on scikit-learn's objectives ----


def with_settings(data: Any, estimator: Any) -> Any:
    return pytest.param(data, estimator, id=f"{data.__name__}-{estimator}")


@pytest.mark.parametrize(
    ("data", "estimator"),
    [
        with_settings(data, estimator)
        for data in (cancer, iris)
        for estimator in (
            LogisticRegression(C=0.05),
            LogisticRegression(C=0.05, class_weight="balanced"),
            LogisticRegression(C=0.05, class_weight={0: 1.0, 1: 3.0}),
            LogisticRegression(C=0.03, l1_ratio=1.0, solver="saga"),
            LogisticRegression(C=0.2, l1_ratio=0.5, solver="saga"),
            LogisticRegression(C=0.05, fit_intercept=False),
            LinearSVC(C=0.01),
            LinearSVC(C=0.01, intercept_scaling=2.0),
        )
    ],
)
def test_our_gradient_steps_lead_where_scikit_learns_solvers_lead(data: Any, estimator: Any) -> None:
    X, y = data()
    X = X[:, ::3] if data is cancer else X  # fewer features that say the same, so that 4000 steps arrive
    arrays, *_ = federate(app_of(estimator, test=0, epochs=4000), {"a": (X, y)})
    theirs = estimator.set_params(tol=1e-9, max_iter=50_000).fit(X, y)
    np.testing.assert_allclose(arrays["coef"], theirs.coef_, rtol=2e-3, atol=1e-3)
    # softmax chances do not change when all intercepts rise, so only differences between them are defined
    free = estimator.__class__ is LogisticRegression and len(theirs.intercept_) > 1
    ours_b, theirs_b = (b - b.mean() if free else b for b in (arrays["intercept"], theirs.intercept_ + np.zeros(1)))
    np.testing.assert_allclose(ours_b, theirs_b, rtol=2e-3, atol=1e-3)


def test_no_round_of_one_site_goes_uphill() -> None:
    X, y = cancer()
    app = app_of(LogisticRegression(), test=0, epochs=1)
    losses = [federate(app, {"a": (100 * X, y)}, rounds=rounds)[1]["a"]["loss"] for rounds in (1, 3, 9, 27)]
    assert losses == sorted(losses, reverse=True)


def test_labels_cut_over_sites_still_come_near_pooled_training() -> None:
    X, y = iris()
    sites = parts(X, y, len(y) // 8, len(y) // 2)
    model, *_ = federate(app_of(LogisticRegression(), classes=[0, 1, 2]), sites, rounds=20)
    pooled = LogisticRegression(C=1 / 3).fit(X, y)
    assert fitted(LogisticRegression(), model).score(X, y) >= pooled.score(X, y) - 0.02


@pytest.mark.parametrize("rows", [1, 40])
def test_the_largest_curvature_is_the_largest_eigenvalue(rows: int) -> None:
    from hanse.clients.sklearn_linear import largest_curvature

    X = np.random.default_rng(0).standard_normal((rows, 5)) * [1, 2, 3, 4, 5]
    shares = np.full(rows, 1 / rows)
    columns = np.column_stack([X, np.ones(rows)])
    exact = np.linalg.eigvalsh(columns.T @ columns / rows)[-1]
    assert 0.9 * exact <= largest_curvature(X, shares) <= exact * (1 + 1e-9)


def test_the_proximal_term_keeps_a_site_near_the_model() -> None:
    X, y = cancer()

    def moved(estimator: Any, mu: float) -> float:
        arrays, *_ = federate(app_of(estimator, test=0), {"a": (X, y)}, config={"proximal_mu": mu})
        return float(np.linalg.norm(arrays["coef"]))

    for estimator in (LogisticRegression(), LinearSVC()):
        norms = [moved(estimator, mu) for mu in (0.0, 0.1, 10.0)]
        assert norms[0] > norms[1] > norms[2] > 0


def test_the_proximal_term_is_refused_where_it_cannot_be_added() -> None:
    X, y = cancer()
    runtime = Runtime(app_of(GaussianNB()), site_name="a", load=lambda name: (X, y), log=print)
    model = runtime.execute(Task(TaskId("job", "main", 0, "parameters", 1), "a", "parameters"), None, None).arrays
    task = Task(TaskId("job", "main", 1, "train", 2), "a", "train", config={"proximal_mu": 0.1})
    assert "FedProx" in runtime.execute(task, model, None).reply.error


# ---- metrics, splits, workers ----


def test_metrics_are_scikit_learns() -> None:
    X, y = cancer()
    model, _, evaluated = federate(app_of(LogisticRegression(), test=(X[:100], y[:100])), {"a": (X[100:], y[100:])})
    estimator = fitted(LogisticRegression(), model)
    chances = estimator.predict_proba(X[:100])
    assert evaluated["a"]["loss"] == pytest.approx(log_loss(y[:100], chances))
    assert evaluated["a"]["auc"] == pytest.approx(roc_auc_score(y[:100], chances[:, 1]))
    assert evaluated["a"]["accuracy"] == pytest.approx((chances.argmax(axis=1) == y[:100]).mean())


def test_the_split_is_stratified_where_it_can_be_and_repeats() -> None:
    X, y = np.arange(200.0).reshape(100, 2), np.array([0] * 80 + [1] * 20)
    client = SklearnClient(LogisticRegression(), X, y, classes=None, test=0.25, seed=1, epochs=1)
    assert (len(client.test_y), client.test_y.sum()) == (25, 5)
    again = SklearnClient(LogisticRegression(), X, y, classes=None, test=0.25, seed=1, epochs=1)
    assert (client.test_X == again.test_X).all()
    other = SklearnClient(LogisticRegression(), X, y, classes=None, test=0.25, seed=2, epochs=1)
    assert client.test_X.tolist() != other.test_X.tolist()
    lone = SklearnClient(LogisticRegression(), X, np.array([0] * 99 + [1]), classes=None, test=0.25, seed=1, epochs=1)
    assert len(lone.test_y) == 25


def test_a_site_with_one_example_trains_on_it_and_evaluates_nothing() -> None:
    X, y = cancer()
    sites = {"a": (X[:1], y[:1]), "b": (X[1:], y[1:])}
    _, trained, evaluated = federate(app_of(LogisticRegression(), classes=[0, 1]), sites)
    assert "loss" in trained["a"]
    assert evaluated["a"] == {}


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=str)
def test_a_new_worker_for_every_task_changes_no_bit(estimator: Any) -> None:
    X, y = iris()

    def run(fresh: bool) -> Arrays:
        runtime = None
        model: Arrays | None = None
        for number, call in enumerate(("parameters", "train", "train", "train")):
            if runtime is None or fresh:
                runtime = Runtime(app_of(estimator), site_name="a", load=lambda name: (X, y), log=print)
            task = Task(TaskId("job", "main", number, call, number), "a", call, seed=4)
            model = runtime.execute(task, model, None).arrays
        assert model is not None
        return model

    assert run(fresh=True) == run(fresh=False)


def test_fitted_gives_back_the_labels() -> None:
    X, y = cancer()
    labels = np.array(["ill", "well"])[y]
    for estimator in (
        LogisticRegression(),
        SGDClassifier(),
        MLPClassifier((8,), learning_rate_init=0.01),
        GaussianNB(),
    ):
        model, *_ = federate(app_of(estimator, classes=["well", "ill"], epochs=20), {"a": (X, labels)})
        assert (fitted(estimator, model, classes=["well", "ill"]).predict(X) == labels).mean() > 0.85


# ---- what is refused ----


@pytest.mark.parametrize(
    ("estimator", "said"),
    [
        (DecisionTreeClassifier(), "trees cannot be averaged"),
        (RandomForestClassifier(), "trees cannot be averaged"),
        (make_pipeline(LogisticRegression()), "prepare X beforehand"),
        (SVC(), "supported are LogisticRegression"),
        (LogisticRegressionCV(), "supported are LogisticRegression"),
        (LogisticRegression, "write LogisticRegression()"),
        (3, "found int"),
        (LinearSVC(loss="hinge"), "SGDClassifier(loss='hinge')"),
        (LinearSVC(penalty="l1"), "SGDClassifier(loss='squared_hinge', penalty='l1')"),
        (SGDClassifier(early_stopping=True), "early_stopping=True"),
        (SGDClassifier(average=True), "use average=False"),
        (SGDClassifier(class_weight="balanced"), "as a dict"),
        (MLPClassifier(solver="lbfgs"), "use solver='adam'"),
    ],
    ids=str,
)
def test_what_cannot_be_federated_is_refused_with_what_can(estimator: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sklearn(estimator, np.zeros((4, 2)), np.array([0, 1, 0, 1]))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("X", "y", "options", "said"),
    [
        (np.zeros(4), np.zeros(4), {}, "found (4,) and (4,)"),
        (np.zeros((4, 2)), np.zeros(3), {}, "found (4, 2) and (3,)"),
        (np.full((2, 2), np.nan), [0, 1], {}, "impute"),
        ([["a"], ["b"]], [0, 1], {}, "encode text"),
        (np.zeros((0, 2)), [], {"classes": [0, 1]}, "no examples"),
        (np.zeros((2, 2)), [0, 0], {}, "at least two distinct labels"),
        (np.zeros((2, 2)), [0, 7], {"classes": [0, 1]}, "not among the 2"),
        (np.zeros((2, 2)), [0, 1], {"test": 1.5}, "test: expected a share"),
        (np.zeros((2, 2)), [0, 1], {"epochs": 0}, "epochs"),
    ],
)
def test_data_that_do_not_fit_are_named_without_a_value(X: Any, y: Any, options: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sklearn(LogisticRegression(), X, y, **options)
    assert said in str(caught.value)


def test_a_model_of_other_features_is_refused() -> None:
    X, y = cancer()
    runtime = Runtime(app_of(LogisticRegression()), site_name="a", load=lambda name: (X[:, :5], y), log=print)
    model = Arrays({"coef": np.zeros((1, 30)), "intercept": np.zeros(1)})
    reply = runtime.execute(Task(TaskId("job", "main", 1, "train", 2), "a", "train"), model, None).reply
    assert "5 features" in reply.error


def test_fitted_refuses_foreign_arrays() -> None:
    with pytest.raises(ConfigError, match="expected the arrays of LogisticRegression"):
        fitted(LogisticRegression(), {"w": np.zeros(3)}, classes=[0, 1])


# ---- what strategies ask of a client ----


def skewed(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Three sites of digits-like blobs, each with two of three classes."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(3, 4)) * 2
    sets = {}
    for site, (classes, num) in {"a": ([0, 1], 40), "b": ([1, 2], 25), "c": ([2, 0], 90)}.items():
        y = rng.choice(classes, num)
        sets[site] = {"rows": (centres[y] + rng.normal(size=(num, 4)), y)}
    return sets


def trained(strategy: Any, rounds: int, epochs: int = 5) -> Any:
    app = hs.App(strategy, rounds=rounds, evaluate_every=0)

    @app.client
    def client(site: Any) -> Any:
        X, y = site.load("rows")
        return hs.sklearn(LogisticRegression(), X, y, classes=[0, 1, 2], test=0, epochs=epochs)

    return hs.simulate(app, skewed(), progress=False)


def gradient_of_all(arrays: Any) -> float:
    """Length of Σ ∇F_k at the model, from the formula of the objective with C = 1, not from the adapter."""
    total = np.zeros((3, 5))
    for sets in skewed().values():
        X, y = sets["rows"]
        ones = np.hstack([X, np.ones((len(y), 1))])
        w = np.hstack([arrays["coef"], arrays["intercept"][:, None]])
        scores = ones @ w.T
        chances = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        slope = (chances - np.eye(3)[y]).T @ ones / len(y)
        slope[:, :4] += w[:, :4] / len(y)
        total += slope
    return float(np.linalg.norm(total))


def test_scaffold_and_feddyn_find_the_common_optimum_with_linear_models() -> None:
    plain = gradient_of_all(trained(hs.FedAvg(weights="equal"), 300).arrays)
    assert plain > 1e-2
    for strategy in (hs.Scaffold(), hs.FedDyn(0.1)):
        result = trained(strategy, 300)
        assert gradient_of_all(result.arrays) < 1e-3 * plain
        model = hs.fitted(LogisticRegression(), result.arrays, classes=[0, 1, 2])
        assert model.coef_.shape == (3, 4)


def test_linear_models_say_how_they_trained() -> None:
    said = trained(hs.Scaffold(), 1, epochs=3).rounds[-1].by_site["a"]
    assert said["train_num_steps"] == 3
    X, _ = skewed()["a"]["rows"]
    ones = np.hstack([X, np.ones((len(X), 1))])
    largest = float(np.linalg.eigvalsh(ones.T @ ones / len(X))[-1])
    assert said["train_client_lr"] == pytest.approx(1 / (0.5 * largest + 1 / len(X)), rel=1e-2)
    before = trained(hs.QFedAvg(), 1).rounds[-1].by_site["a"]["train_loss_before"]
    assert before == pytest.approx(np.log(3))  # of zeros, over three classes
    assert trained(hs.FedNova(), 2).status == "finished"


@pytest.mark.parametrize(("strategy", "says"), [(hs.FedNova(), "cannot say 'num_steps'"), (hs.FedDyn(), "correct its")])
def test_models_that_cannot_do_their_part_say_so(strategy: Any, says: str) -> None:
    client = hs.sklearn(MLPClassifier((3,)), np.ones((4, 2)), [0, 1, 0, 1], test=0)
    config = {"wants": ["num_steps"]} if strategy.wants else {"correction": {"x": np.ones(1)}}
    site = Site("a", lambda name: None, lambda text: None)
    with pytest.raises(ConfigError, match=says):
        client.train(hs.Arrays(client.parameters({}, site)), config, site)
