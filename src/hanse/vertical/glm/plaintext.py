"""The yardstick: the same training in the clear, float64, on the pooled columns.

What the protocols are measured against, and the oracle of their tests: every formula of a step is written here once, as
one reads it. It is also a way to fit one party alone. Nothing here is private.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import FAMILIES, Response, Table
from hanse.vertical.glm.training import Training, batches

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants."""


@dataclass(slots=True)
class Optimiser:
    """The state of one block of weights; `step` moves them.

    Args:
        weights: float64, `(num_columns, num_outputs)`.
        penalised: bool `(num_columns,)`: False for the intercept.
    """

    training: Training
    weights: Table
    penalised: npt.NDArray[np.bool_]
    first: Table = field(init=False)
    second: Table = field(init=False)
    count: int = 0

    def __post_init__(self) -> None:
        self.first = np.zeros_like(self.weights)
        self.second = np.zeros_like(self.weights)

    def step(self, gradient: Table) -> None:
        """Move the weights by one batch's mean gradient, without penalties, which are added here.

        The l1 penalty is a proximal step (soft threshold), so that coefficients reach 0.
        """
        t, mask = self.training, self.penalised[:, None]
        gradient = gradient + t.l2 * mask * self.weights
        if t.optimiser == "adam":
            self.count += 1
            self.first = BETA1 * self.first + (1 - BETA1) * gradient
            self.second = BETA2 * self.second + (1 - BETA2) * gradient**2
            corrected = np.sqrt(self.second / (1 - BETA2**self.count)) + EPSILON
            self.weights = self.weights - t.learning_rate * self.first / (1 - BETA1**self.count) / corrected
        else:
            self.first = t.momentum * self.first + t.learning_rate * gradient
            self.weights = self.weights - self.first
        if t.l1:
            threshold = t.learning_rate * t.l1 * mask
            self.weights = np.sign(self.weights) * np.maximum(np.abs(self.weights) - threshold, 0.0)


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training in the clear ends with.

    Attributes:
        weights: float64, `(num_columns, num_outputs)`.
        changes: of each epoch, how far it moved the weights.
        losses: of each epoch, the mean loss of its rows while it ran.
    """

    weights: Table
    changes: tuple[float, ...]
    losses: tuple[float, ...]


def fit(
    table: Table,
    response: Response,
    training: Training,
    *,
    penalised: npt.NDArray[np.bool_] | None = None,
    sample_weights: Table | None = None,
    start: Table | None = None,
    mean: Callable[[Table], Table] | None = None,
) -> Fit:
    """Train on pooled columns.

    Args:
        table: float64, `(num_rows, num_columns)`, prepared as the protocols do it; an intercept is a column of ones.
        response: of the same rows.
        training: how.
        penalised: bool `(num_columns,)`, True where penalties hold; by default everywhere.
        sample_weights: float64, `(num_rows,)`, ≥ 0; only their ratios to the largest matter.
        start: weights to begin with (warm start); by default zero.
        mean: in place of the family's mean function, such as the series that stand for it.

    Raises:
        ConfigError: arrays that do not fit each other.
    """
    rows, columns = table.shape
    if len(response.values) != rows:
        raise ConfigError(f"response: expected {rows} rows as in the table, found {len(response.values)}")
    shape = (columns, response.num_outputs)
    if start is not None and start.shape != shape:
        raise ConfigError(f"start: expected weights of {shape}, found {start.shape}")
    scale = np.ones((rows, 1)) if sample_weights is None else relative_weights(sample_weights, rows)[:, None]
    begin = np.zeros(shape) if start is None else start.astype(np.float64)
    optimiser = Optimiser(training, begin, np.ones(columns, np.bool_) if penalised is None else penalised)
    family = FAMILIES[training.kind(response.num_outputs)]
    mean = mean or family.mean
    changes: list[float] = []
    losses: list[float] = []
    before, loss = begin, 0.0
    for batch in batches(rows, training):
        x, y, s = table[batch.rows], response.values[batch.rows], scale[batch.rows]
        z = x @ optimiser.weights
        loss += float((s * family.loss(z, y)).sum())
        optimiser.step(x.T @ (s * (mean(z) - y)) / batch.num_rows)
        if batch.ends_epoch:
            changes.append(float(np.linalg.norm(optimiser.weights - before)))
            losses.append(loss / rows)
            before, loss = optimiser.weights, 0.0
            if changes[-1] <= training.tolerance:
                break
    return Fit(optimiser.weights, tuple(changes), tuple(losses))


def relative_weights(weights: Table, rows: int) -> Table:
    """Sample weights as parts of the largest.

    Raises:
        ConfigError: not one for each row, negative, not finite, or all zero.
    """
    weights = np.asarray(weights, np.float64)
    if weights.shape != (rows,):
        raise ConfigError(f"sample weights: expected one for each of {rows} rows, found {weights.shape}")
    bad = int((~(np.isfinite(weights) & (weights >= 0))).sum())
    if bad:
        raise ConfigError(f"sample weights: expected finite numbers from 0 on, found {bad} others")
    if not weights.any():
        raise ConfigError("sample weights: expected some above 0, found none")
    relative: Table = weights / weights.max()
    return relative
