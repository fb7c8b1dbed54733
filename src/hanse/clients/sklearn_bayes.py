"""Naive Bayes by sufficient statistics: GaussianNB, MultinomialNB and BernoulliNB.

Averaged, each as a mean over the site's examples, float64:

    all           class_share (K,)        share of each class
    GaussianNB    sums, squares (K, d)    features, and their squares, of the class's examples
    others        counts (K, d)           feature counts (BernoulliNB: examples with the feature) of the class
                  per_example (1,)        1 / number of examples

Weighed by examples, the average *is* the pooled statistic: after one round GaussianNB equals pooled training up to
rounding (variances are E[x²] − E[x]², so features far from zero lose digits: standardise them). MultinomialNB and
BernoulliNB add `alpha` to counts, and that once per site: alpha=a over k sites is the pooled fit with alpha = k·a.
Sites that lack a class are no special case. Later rounds add nothing.

**Reveals** each site's class shares and per-class feature sums, to whoever sees its update.
"""

from typing import Any

import numpy as np

from hanse.clients.sklearn_family import Effort, Family, Parameters
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError


class _Bayes(Family):
    averaged = "class shares and per-class sums of features"

    def started(self, arrays: Parameters) -> Any:
        model = self.clone()
        model.classes_ = np.arange(self.num_classes)
        model.class_count_ = np.array(arrays["class_share"], np.float64)
        return model

    def class_shares(self, arrays: Parameters, given: Any) -> Array:
        """Prior of each class: the given one, the observed one, or even where nothing was observed."""
        if given is not None:
            return np.asarray(given, np.float64)
        shares = np.asarray(arrays["class_share"], np.float64)
        shares = shares / shares.sum() if shares.any() else np.full(self.num_classes, 1 / self.num_classes)
        # no logarithm of zero: with this a class that no site has seen is never predicted either
        return np.maximum(shares, np.finfo(np.float64).tiny)

    def memberships(self, y: Array) -> Array:
        """`(K, n)`: 1/n where the example is of the class."""
        return np.asarray((np.arange(self.num_classes)[:, None] == y) / len(y))


class Gaussian(_Bayes):
    """GaussianNB."""

    def initial(self, num_features: int, seed: int) -> dict[str, Array]:
        """See `Family`."""
        shape = (self.num_classes, num_features)
        return {"class_share": np.zeros(self.num_classes), "sums": np.zeros(shape), "squares": np.zeros(shape)}

    def train(self, arrays: Parameters, X: Any, y: Array, effort: Effort) -> dict[str, Array]:
        """See `Family`."""
        X = X.toarray() if hasattr(X, "toarray") else X
        member = self.memberships(y)
        return {"class_share": member.sum(axis=1), "sums": member @ X, "squares": member @ X**2}

    def estimator(self, arrays: Parameters) -> Any:
        """See `Family`. A class that no site has seen is never predicted; before the first round all are alike."""
        model = self.started(arrays)
        shares = model.class_count_[:, None]
        seen = np.where(shares > 0, shares, 1.0)
        model.theta_ = arrays["sums"] / seen
        spread = np.maximum(arrays["squares"] / seen - model.theta_**2, 0.0)
        overall = arrays["squares"].sum(axis=0) - arrays["sums"].sum(axis=0) ** 2
        model.epsilon_ = model.var_smoothing * max(float(overall.max()), 0.0)
        model.var_ = np.where(shares > 0, spread + model.epsilon_, 1.0)
        model.var_ = np.where(model.var_ > 0, model.var_, np.finfo(np.float64).tiny)
        model.class_prior_ = self.class_shares(arrays, model.priors)
        model.n_features_in_ = model.theta_.shape[1]
        return model


class Discrete(_Bayes):
    """MultinomialNB and BernoulliNB."""

    def initial(self, num_features: int, seed: int) -> dict[str, Array]:
        """See `Family`."""
        counts = np.zeros((self.num_classes, num_features))
        return {"class_share": np.zeros(self.num_classes), "counts": counts, "per_example": np.zeros(1)}

    def train(self, arrays: Parameters, X: Any, y: Array, effort: Effort) -> dict[str, Array]:
        """See `Family`.

        Raises:
            ConfigError: negative features.
        """
        if self._is_bernoulli:
            X = X if self.prototype.binarize is None else 1.0 * (self.prototype.binarize < X)
        elif X.min() < 0:
            raise ConfigError("hs.sklearn: MultinomialNB expected features ≥ 0, found negative ones; use GaussianNB")
        member = self.memberships(y)
        # written as Xᵀ Mᵀ, since X may be sparse
        counts = np.asarray((X.T @ member.T).T)
        return {"class_share": member.sum(axis=1), "counts": counts, "per_example": np.array([1 / len(y)])}

    def estimator(self, arrays: Parameters) -> Any:
        """See `Family`. Before the first round all classes are alike."""
        model = self.started(arrays)
        model.feature_count_ = np.array(arrays["counts"], np.float64)
        # scikit-learn's own floor for alpha=0; before the first round any positive number gives equal features
        alpha = np.maximum(model.alpha, 1e-10) * (float(arrays["per_example"][0]) or 1.0)
        counts = model.feature_count_ + alpha
        if self._is_bernoulli:
            model.feature_log_prob_ = np.log(counts) - np.log(model.class_count_ + 2 * alpha)[:, None]
        else:
            model.feature_log_prob_ = np.log(counts) - np.log(counts.sum(axis=1))[:, None]
        given = model.class_prior
        if given is None and not model.fit_prior:
            given = np.full(self.num_classes, 1 / self.num_classes)
        model.class_log_prior_ = np.log(self.class_shares(arrays, given))
        model.n_features_in_ = counts.shape[1]
        return model

    @property
    def _is_bernoulli(self) -> bool:
        return type(self.prototype).__name__ == "BernoulliNB"
