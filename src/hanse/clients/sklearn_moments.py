"""Least squares by sufficient statistics: LinearRegression, Ridge, Lasso and ElasticNet.

Averaged: `moments`, the mean over examples of z zᵀ with z = (1, x, y), float64 `(d + 2, d + 2)`; and `per_example`,
1 / the site's number of examples. Weighed by examples, the average *is* the pooled matrix, and these estimators depend
on the data through it alone: after one round the federated model equals the pooled fit (up to the rounding of
forming the matrix, which squares the condition number), whatever the sites' distributions. Later rounds add nothing.

The mean of `per_example` is (number of sites) / (number of examples): that is what Ridge's penalty needs. As for all
estimators here a penalty on a sum over examples counts once per site: Ridge(alpha=a) over k sites is the pooled
Ridge(alpha=k·a). Lasso and ElasticNet penalise a mean and equal the pooled fit as they are.

**Reveals** second moments of the features and the target of each site, to whoever sees its update.

The matrix stands for the data when solving: rows R with RᵀR equal to the (centred) matrix are as good as all examples.
"""

from typing import Any

import numpy as np

from hanse.clients.sklearn_family import Effort, Family, Parameters
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError

MAX_FEATURES = 4096


class Moments(Family):
    """See the module."""

    averaged = "second moments of features and target"

    def initial(self, num_features: int, seed: int) -> dict[str, Array]:
        """See `Family`."""
        if num_features > MAX_FEATURES:
            name = type(self.prototype).__name__
            raise ConfigError(
                f"hs.sklearn: {name} sends a matrix over all pairs of features; expected at most {MAX_FEATURES} "
                f"features, found {num_features}; use SGDRegressor"
            )
        return {"moments": np.zeros((num_features + 2, num_features + 2)), "per_example": np.zeros(1)}

    def train(self, arrays: Parameters, X: Any, y: Array, effort: Effort) -> dict[str, Array]:
        """See `Family`."""
        rows = np.column_stack([np.ones(len(y)), X.toarray() if hasattr(X, "toarray") else X, y])
        return {"moments": rows.T @ rows / len(y), "per_example": np.array([1 / len(y)])}

    def estimator(self, arrays: Parameters) -> Any:
        """See `Family`. From no examples at all the model is zero."""
        moments, per_example = arrays["moments"].astype(np.float64), float(arrays["per_example"][0])
        model = self.clone()
        num_features = len(moments) - 2
        model.n_features_in_ = num_features
        model.coef_, model.intercept_ = np.zeros(num_features), 0.0
        if not moments[0, 0]:
            return model
        centre = moments[0, 1:] if self.prototype.fit_intercept else np.zeros(num_features + 1)
        rows = _square_root(moments[1:, 1:] - np.outer(centre, centre))
        solved = self.clone().set_params(fit_intercept=False)
        if hasattr(solved, "l1_ratio"):
            rows = rows * np.sqrt(len(rows))  # Lasso and ElasticNet penalise a mean over rows, not a sum
        elif hasattr(solved, "alpha"):
            solved.set_params(alpha=solved.alpha * per_example)
        solved.fit(rows[:, :-1], rows[:, -1])
        model.coef_ = np.asarray(solved.coef_, np.float64)
        model.intercept_ = float(centre[-1] - centre[:-1] @ model.coef_)
        return model


def _square_root(matrix: Array) -> Array:
    """R, `(n, n)`, with RᵀR = `matrix`, symmetric and positive but for rounding."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    floor = len(values) * np.finfo(np.float64).eps * max(float(values[-1]), 0.0)
    return np.asarray(np.sqrt(np.where(values > floor, values, 0.0))[:, None] * vectors.T)
