"""`hs.sklearn`: a scikit-learn estimator on one site's data as a client.

    estimator                                      what is averaged                     file
    LogisticRegression, LinearSVC                  coefficients, intercept              sklearn_linear.py
    SGDClassifier, SGDRegressor, Perceptron, …     coefficients, intercept              sklearn_passes.py
    MLPClassifier, MLPRegressor                    layers                               sklearn_passes.py
    LinearRegression, Ridge, Lasso, ElasticNet     second moments (= pooled training)   sklearn_moments.py
    GaussianNB, MultinomialNB, BernoulliNB         class-wise sums (= pooled training)  sklearn_bayes.py

`hs.fitted` turns a result's arrays into the fitted estimator. Nothing is fitted to make initial parameters, and a site
that lacks classes trains like the others: it must only be told of all of them (`classes`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanse.clients.client import Answer, Client, Config
from hanse.clients.site import Site
from hanse.clients.sklearn_family import Effort, Family
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, MissingExtraError
from hanse.strategies.scaffold import without_control

_Metrics = dict[str, float]


def sklearn(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    classes: Sequence[Any] | None = None,
    test: float | tuple[Any, Any] = 0.2,
    seed: int = 0,
    epochs: int = 5,
) -> "SklearnClient":
    """A client that trains and evaluates `estimator` on this site's data.

    Args:
        estimator: unfitted; its settings are used, it is never changed.
        X: `(n, d)`: an array, a data frame of numbers, or a sparse matrix.
        y: `(n,)`: labels or numbers.
        classes: all labels of the federation; needed for classifiers where a site may lack one. None takes those in
            `y`, and then every site must have the same.
        test: share of the examples held out for `evaluate`, stratified by class where the classes are large enough;
            or `(X_test, y_test)`; or 0 for none.
        seed: of that split; the same split in every job.
        epochs: passes over the data in a round, E in McMahan et al.; the estimator's own `max_iter`, which is meant for
            a fit to the end, is not used. Least squares and naive Bayes always need exactly one pass.

    Training answers metrics of the local model on the training part, evaluation those of the received model on the test
    part: `loss` (log loss where the model gives probabilities, otherwise mean hinge loss; mean squared error for
    regressors), `accuracy`, `auc` where there are two classes and both occur; `r2` for regressors.

    Raises:
        ConfigError: an estimator or setting that cannot be federated, with what to use instead; data that do not fit.
        MissingExtraError: scikit-learn is not installed.
    """
    return SklearnClient(estimator, X, y, classes=classes, test=test, seed=seed, epochs=epochs)


def fitted(estimator: Any, arrays: Mapping[str, Any], *, classes: Sequence[Any] | None = None) -> Any:
    """The fitted scikit-learn estimator that a federation's arrays stand for.

    Args:
        estimator: the one that was given to `hs.sklearn`.
        arrays: a result's arrays.
        classes: all labels, as given to `hs.sklearn`; None for 0, 1, … (or a regressor).

    Raises:
        ConfigError: the arrays are not those of this estimator.
    """
    is_classifier = _is_classifier(estimator)
    arrays = without_control(arrays)
    labels = _labels(classes) if classes is not None else None
    count = 0
    if is_classifier:
        count = len(labels) if labels is not None else _num_classes(arrays)
    try:
        model = family_of(estimator, count).estimator(Arrays(arrays))
    except (KeyError, IndexError):
        raise ConfigError(
            f"hs.fitted: expected the arrays of {type(estimator).__name__}, found {', '.join(list(arrays)[:6])}"
        ) from None
    if labels is not None and is_classifier:
        _name_classes(model, labels)
    return model


class SklearnClient(Client):
    """See `sklearn`."""

    def __init__(
        self, estimator: Any, X: Any, y: Any, *, classes: Any, test: float | tuple[Any, Any], seed: int, epochs: int
    ) -> None:
        if type(epochs) is not int or epochs < 1:
            raise ConfigError(f"hs.sklearn: epochs: expected a whole number ≥ 1, found {epochs!r}")
        is_classifier = _is_classifier(estimator)
        X, y = _examples(X, y, "X", "y")
        self.labels: Array | None = None
        if is_classifier:
            self.labels = _labels(np.unique(y) if classes is None else classes)
        self.family = family_of(estimator, 0 if self.labels is None else len(self.labels))
        self.epochs = epochs
        self.num_features: int = X.shape[1]
        y = self._numbered(y)
        if isinstance(test, tuple):
            self.train_X, self.train_y = X, y
            self.test_X, test_y = _examples(*test, "the test part's X", "the test part's y")
            self.test_y = self._numbered(test_y)
        else:
            train, held_out = _split(y, test, seed, stratify=is_classifier)
            self.train_X, self.train_y = X[train], y[train]
            self.test_X, self.test_y = X[held_out], y[held_out]

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`: zeros, or Glorot's uniform numbers for perceptrons."""
        return self.family.initial(self.num_features, site.seed)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        mu, correction = float(config.get("proximal_mu", 0.0)), config.get("correction", {})
        if config.get("contrast_mu"):
            raise ConfigError("hs.sklearn: cannot add MOON's loss; use hs.torch(module, train) with hs.contrast")
        if config.get("frozen"):
            raise ConfigError("hs.sklearn: cannot hold some arrays fixed; use hs.FedPer, or functions of your own")
        if (mu or correction) and not self.family.takes_mu:
            name = type(self.family.prototype).__name__
            what = "correct its gradients" if correction else "add FedProx's term"
            raise ConfigError(f"hs.sklearn: {name} cannot {what}; use FedAvg, LogisticRegression or hs.torch")
        self._check_fit(arrays)
        epochs = max(1, round(self.epochs * float(config.get("work", 1.0))))
        effort = Effort(round=site.round, epochs=epochs, proximal_mu=mu, correction=correction)
        wanted = self._wanted(config.get("wants", []), arrays, effort)
        new = self.family.train(arrays, self.train_X, self.train_y, effort)
        metrics = _metrics(self.family.estimator(new), self.train_X, self.train_y, self.family.num_classes) | wanted
        # in the model's order, in the model's dtype: server optimisers may keep it in float32
        named = {name: np.asarray(new[name], arrays[name].dtype) for name in arrays}
        return Answer(Arrays(named), len(self.train_y), metrics)

    def _wanted(self, names: Sequence[str], arrays: Arrays, effort: Effort) -> _Metrics:
        """What the strategy must know of this training (`Strategy.wants`)."""
        known = self.family.steps(self.train_X, self.train_y, effort) if names else {}
        if "loss_before" in names:
            model = self.family.estimator(arrays)
            known["loss_before"] = _metrics(model, self.train_X, self.train_y, self.family.num_classes)["loss"]
        missing = [name for name in names if name not in known]
        if missing:
            name = type(self.family.prototype).__name__
            raise ConfigError(f"hs.sklearn: {name} cannot say {missing[0]!r}; use FedAvg or LogisticRegression")
        return {name: known[name] for name in names}

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        if not len(self.test_y):
            return Answer(None, 0, {})
        self._check_fit(arrays)
        model = self.family.estimator(arrays)
        return Answer(None, len(self.test_y), _metrics(model, self.test_X, self.test_y, self.family.num_classes))

    def _check_fit(self, arrays: Arrays) -> None:
        expected = {name: array.shape for name, array in self.family.initial(self.num_features, 0).items()}
        found = {name: array.shape for name, array in arrays.items()}
        if expected != found:
            raise ConfigError(
                f"hs.sklearn: expected a model of shapes {expected} for this site's {self.num_features} features and "
                f"{self.family.num_classes} classes, found {found}; use the same features and classes at every site"
            )

    def _numbered(self, y: Array) -> Array:
        if self.labels is None:
            return y.astype(np.float64)
        order = np.argsort(self.labels)
        sorted_labels = self.labels[order]
        place = np.clip(np.searchsorted(sorted_labels, y), 0, len(sorted_labels) - 1)
        if not bool((sorted_labels[place] == y).all()):
            raise ConfigError(f"hs.sklearn: y holds labels that are not among the {len(self.labels)} in classes")
        return order[place]


def family_of(estimator: Any, num_classes: int) -> Family:
    """The family of an estimator.

    Raises:
        ConfigError: it has none.
    """
    from hanse.clients.sklearn_bayes import Discrete, Gaussian
    from hanse.clients.sklearn_linear import Logistic, SupportVectors
    from hanse.clients.sklearn_moments import Moments
    from hanse.clients.sklearn_passes import Perceptrons, StochasticGradient

    families: dict[str, type[Family]] = {
        "LogisticRegression": Logistic,
        "LinearSVC": SupportVectors,
        "SGDClassifier": StochasticGradient,
        "SGDRegressor": StochasticGradient,
        "Perceptron": StochasticGradient,
        "PassiveAggressiveClassifier": StochasticGradient,
        "PassiveAggressiveRegressor": StochasticGradient,
        "MLPClassifier": Perceptrons,
        "MLPRegressor": Perceptrons,
        "LinearRegression": Moments,
        "Ridge": Moments,
        "Lasso": Moments,
        "ElasticNet": Moments,
        "GaussianNB": Gaussian,
        "MultinomialNB": Discrete,
        "BernoulliNB": Discrete,
    }
    kind = type(estimator)
    family = families.get(kind.__name__) if kind.__module__.split(".")[0] == "sklearn" else None
    if family is not None:
        return family(estimator, num_classes)
    found = (
        f"the class {estimator.__name__}; write {estimator.__name__}()"
        if isinstance(estimator, type)
        else kind.__name__
    )
    hint = "expected an estimator whose parameters can be averaged"
    if hasattr(estimator, "steps"):
        hint = "a pipeline's steps would be fitted to each site alone; prepare X beforehand and give its last step"
    elif (
        hasattr(estimator, "tree_")
        or "Tree" in kind.__name__
        or "Forest" in kind.__name__
        or "Boosting" in kind.__name__
    ):
        hint = "trees cannot be averaged; a multilayer perceptron (MLPClassifier, MLPRegressor) can"
    raise ConfigError(f"hs.sklearn: found {found}; {hint}; supported are {', '.join(families)}")


def _is_classifier(estimator: Any) -> bool:
    try:
        from sklearn.base import is_classifier
    except ImportError:
        raise MissingExtraError("scikit-learn", "sklearn") from None
    if isinstance(estimator, type) or not hasattr(estimator, "get_params"):
        family_of(estimator, 2)
    return bool(is_classifier(estimator))


def _examples(X: Any, y: Any, x_name: str, y_name: str) -> tuple[Any, Array]:
    if hasattr(X, "tocsr"):
        X = X.tocsr().astype(np.float64)
        values = X.data
    else:
        try:
            X = values = np.asarray(X, np.float64)
        except (TypeError, ValueError):
            raise ConfigError(f"hs.sklearn: {x_name}: expected numbers; encode text and categories first") from None
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if len(X.shape) != 2 or y.ndim != 1 or X.shape[0] != len(y):
        raise ConfigError(
            f"hs.sklearn: expected {x_name} (n, d) and {y_name} (n,), found {tuple(X.shape)} and {y.shape}"
        )
    if not len(y) or not np.isfinite(values).all():
        what = "no examples" if not len(y) else f"{x_name} with NaN or infinity; impute it first"
        raise ConfigError(f"hs.sklearn: expected numbers in every place, found {what}")
    return X, y


def _labels(classes: Any) -> Array:
    labels = np.asarray(classes)
    if labels.ndim != 1 or len(labels) < 2 or len(np.unique(labels)) != len(labels):
        raise ConfigError(
            f"hs.sklearn: classes: expected at least two distinct labels, found {labels.size}; "
            "give all labels of the federation, such as classes=[0, 1]"
        )
    return labels


def _num_classes(arrays: Mapping[str, Any]) -> int:
    names = list(arrays)
    last = "class_share" if "class_share" in names else "intercept" if "intercept" in names else names[-1]
    return max(2, len(np.asarray(arrays[last])))


def _name_classes(model: Any, labels: Array) -> None:
    binarizer = getattr(model, "_label_binarizer", None)
    if binarizer is not None:  # perceptrons translate through it
        binarizer.classes_ = labels
    model.classes_ = labels


def _split(y: Array, test: float, seed: int, *, stratify: bool) -> tuple[Array, Array]:
    """Indices of the training and the test part; stratified where every class can be in both."""
    from sklearn.model_selection import train_test_split

    if type(test) not in (int, float) or not 0 <= test < 1:
        raise ConfigError(f"hs.sklearn: test: expected a share from 0 to below 1, or (X, y); found {str(test)[:40]}")
    everything = np.arange(len(y))
    if test == 0 or len(y) < 2:
        return everything, everything[:0]
    present, counts = np.unique(y, return_counts=True) if stratify else (y[:0], np.ones(1))
    num_test = int(np.ceil(test * len(y)))
    fits = len(present) > 1 and counts.min() >= 2 and min(num_test, len(y) - num_test) >= len(present)
    if not 0 < num_test < len(y):
        return everything, everything[:0]
    train, held_out = train_test_split(everything, test_size=num_test, random_state=seed, stratify=y if fits else None)
    return np.sort(train), np.sort(held_out)


def _metrics(model: Any, X: Any, y: Array, num_classes: int) -> _Metrics:
    if not num_classes:
        return _regression_metrics(np.asarray(model.predict(X)), y)
    from sklearn.metrics import roc_auc_score

    if hasattr(model, "predict_proba"):
        chances = np.asarray(model.predict_proba(X), np.float64)
        loss = _log_loss(chances, y)
        score, guess = chances[:, 1], chances.argmax(axis=1)
    else:
        score = np.asarray(model.decision_function(X), np.float64)
        loss, guess = _hinge_loss(score, y), np.asarray(model.predict(X))
    metrics = {"loss": loss, "accuracy": float((guess == y).mean())}
    if num_classes == 2 and len(np.unique(y)) == 2 and np.isfinite(score).all():
        metrics["auc"] = float(roc_auc_score(y, score))
    return metrics


def _regression_metrics(guess: Array, y: Array) -> _Metrics:
    loss = float(((guess - y) ** 2).mean())
    spread = float(y.var())
    return {"loss": loss, "r2": 1 - loss / spread} if spread else {"loss": loss}


def _log_loss(chances: Array, y: Array) -> float:
    smallest = np.finfo(np.float64).eps  # as scikit-learn's log_loss: a chance of zero costs 36, not infinity
    return float(-np.log(np.clip(chances[np.arange(len(y)), y], smallest, 1)).mean())


def _hinge_loss(score: Array, y: Array) -> float:
    """Mean hinge loss; for more than two classes the margin over the best wrong class (Crammer and Singer, 2001)."""
    if score.ndim == 1:
        margin = np.where(y == 1, score, -score)
    else:
        rows = np.arange(len(y))
        others = score.copy()
        others[rows, y] = -np.inf
        margin = score[rows, y] - others.max(axis=1)
    return float(np.maximum(0, 1 - margin).mean())
