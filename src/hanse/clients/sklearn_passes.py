"""Estimators trained in passes over the data by `partial_fit`: SGD and its kin, and multilayer perceptrons.

Averaged: coefficients and intercepts. A round is `epochs` passes from what was received; the estimator's own
`max_iter`, `tol` and early stopping belong to `fit` and are not used. Sites that lack a class train like all others,
since `partial_fit` is told all classes.

SGD's learning rate falls with the number of examples seen, so the count goes on over rounds (round − 1 times what one
round sees here). Adam's moments and momentum start afresh in every round, as FedAvg's clients do.
"""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np

from hanse.clients.sklearn_family import Effort, Family, Parameters
from hanse.core.arrays import Array
from hanse.core.seeds import generator, key_of


class _Passes(Family):
    averaged = "coefficients and intercepts"

    def train(self, arrays: Parameters, X: Any, y: Array, effort: Effort) -> dict[str, Array]:
        model = self.estimator(arrays)
        self.prepare(model, len(y), effort)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a small site has fewer rows than a batch
            for _ in range(effort.epochs):
                model.partial_fit(X, y)
        return self.arrays_of(model)

    def estimator(self, arrays: Parameters) -> Any:
        # scikit-learn offers no public way to say "start from these": one pass over a row of zeros for each class
        # builds everything that prediction and partial_fit need, and then the received numbers take their place.
        model = self.clone()
        num_features = self.num_features(arrays)
        zeros = np.zeros((max(self.num_classes, 1), num_features))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self.num_classes:
                model.partial_fit(zeros, np.arange(self.num_classes), classes=np.arange(self.num_classes))
            else:
                model.partial_fit(zeros, np.zeros(1))
        self.put(model, arrays)
        return model

    def num_features(self, arrays: Parameters) -> int:
        raise NotImplementedError

    def put(self, model: Any, arrays: Parameters) -> None:
        raise NotImplementedError

    def arrays_of(self, model: Any) -> dict[str, Array]:
        raise NotImplementedError

    def prepare(self, model: Any, num_examples: int, effort: Effort) -> None:
        pass

    def check(self) -> None:
        if self.prototype.early_stopping:
            self.refuse("early_stopping=True", "stop the federation instead: hs.App(stop=hs.EarlyStop('loss'))")


class StochasticGradient(_Passes):
    """SGDClassifier, SGDRegressor, Perceptron, PassiveAggressiveClassifier and PassiveAggressiveRegressor."""

    def check(self) -> None:
        """See `Family`."""
        super().check()
        if self.prototype.average:
            self.refuse("average=True", "the federation averages already; use average=False")
        if getattr(self.prototype, "class_weight", None) == "balanced":
            self.refuse("class_weight='balanced'", "give the weights as a dict, the same at every site")

    def initial(self, num_features: int, seed: int) -> dict[str, Array]:
        """See `Family`."""
        rows = self.num_rows if self.num_classes else 1
        shape = (rows, num_features) if self.num_classes else (num_features,)
        return {"coef": np.zeros(shape), "intercept": np.zeros(rows)}

    def num_features(self, arrays: Parameters) -> int:
        """See `initial`."""
        return int(arrays["coef"].shape[-1])

    def put(self, model: Any, arrays: Parameters) -> None:
        """Take the place of the coefficients; nothing else of the pass over zeros remains but the examples counted."""
        model.coef_ = np.array(arrays["coef"], np.float64)
        model.intercept_ = np.array(arrays["intercept"], np.float64)
        model.t_ = 1.0

    def prepare(self, model: Any, num_examples: int, effort: Effort) -> None:
        """Let the learning rate go on where the rounds before left it."""
        model.t_ = 1.0 + (max(effort.round, 1) - 1) * effort.epochs * num_examples

    def arrays_of(self, model: Any) -> dict[str, Array]:
        """See `initial`."""
        return {"coef": model.coef_, "intercept": np.atleast_1d(model.intercept_)}


class Perceptrons(_Passes):
    """MLPClassifier and MLPRegressor with the solvers adam and sgd."""

    def check(self) -> None:
        """See `Family`."""
        super().check()
        if self.prototype.solver == "lbfgs":
            self.refuse("solver='lbfgs'", "use solver='adam' or 'sgd'")

    def initial(self, num_features: int, seed: int) -> dict[str, Array]:
        """Uniform within ±√(6 / (fan_in + fan_out)), or √2 instead of √6 for the logistic activation.

        Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks", AISTATS 2010,
        Equation 16, as scikit-learn draws them; from the job's seed, so that every site would give the same.
        """
        rng = generator(key_of(seed, purpose="initial"))
        factor = 2.0 if self.prototype.activation == "logistic" else 6.0
        hidden = self.prototype.hidden_layer_sizes
        outputs = self.num_rows if self.num_classes else 1
        sizes = [num_features, *(hidden if hasattr(hidden, "__iter__") else [hidden]), outputs]
        arrays: dict[str, Array] = {}
        for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            bound = np.sqrt(factor / (fan_in + fan_out))
            arrays[f"coefs.{layer}"] = rng.uniform(-bound, bound, (fan_in, fan_out))
            arrays[f"intercepts.{layer}"] = rng.uniform(-bound, bound, fan_out)
        return arrays

    def num_features(self, arrays: Parameters) -> int:
        """See `initial`."""
        return int(arrays["coefs.0"].shape[0])

    def put(self, model: Any, arrays: Parameters) -> None:
        """Take the place of all layers, and forget the optimiser that the pass over zeros left."""
        for layer in range(len(model.coefs_)):
            model.coefs_[layer] = np.array(arrays[f"coefs.{layer}"], np.float64)
            model.intercepts_[layer] = np.array(arrays[f"intercepts.{layer}"], np.float64)
        vars(model).pop("_optimizer", None)
        model.t_ = 0

    def arrays_of(self, model: Any) -> dict[str, Array]:
        """See `initial`."""
        arrays: dict[str, Array] = {}
        for layer, (coef, intercept) in enumerate(zip(model.coefs_, model.intercepts_, strict=True)):
            arrays[f"coefs.{layer}"], arrays[f"intercepts.{layer}"] = coef, intercept
        return arrays
