"""What the generalised linear models differ in: the mean function, the loss, and how a label becomes a response.

P. McCullagh, J. Nelder, "Generalized Linear Models", 2nd edition, 1989, with canonical links, so that for all of them
the gradient of the loss over the linear predictor z is mean(z) − y. Several classes are one softmax, or fitted one
against the rest, each with the sigmoid of its own predictor.

The response that is trained on is scaled by what the label's holder alone knows: linear responses to mean 0 and
variance 1, counts to mean 1. So one learning rate and one fixed-point range fit all data, and predictions are scaled
back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.vertical.answers import classes_among

Table = npt.NDArray[np.float64]

LARGEST_LOG_MEAN = 4.0
"""Counts: a mean above e^4 times the overall mean is held there while training, so that no step is unbounded."""
MAX_CLASSES = 64


def _sigmoid(z: Table) -> Table:
    return 0.5 * (1.0 + np.tanh(0.5 * z))


def softmax(z: Table) -> Table:
    """exp(z) over its sum in each row `(n, num_outputs)`, finite for every finite z."""
    powers = np.exp(z - z.max(axis=1, keepdims=True))
    chances: Table = powers / powers.sum(axis=1, keepdims=True)
    return chances


def _softmax_loss(z: Table, y: Table) -> Table:
    return np.asarray(np.logaddexp.reduce(z, axis=1) - (y * z).sum(axis=1))[:, None]


def _exponential(z: Table) -> Table:
    return np.exp(np.minimum(z, LARGEST_LOG_MEAN))


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of model.

    Attributes:
        name: `logistic`, `softmax`, `linear` or `poisson`.
        mean: z `(n, num_outputs)` → the expected response, float64, likewise, finite for every finite z.
        loss: (z, y) → the negative log-likelihood up to terms without z, float64, elementwise, of a softmax `(n, 1)`.
    """

    name: str
    mean: Callable[[Table], Table]
    loss: Callable[[Table, Table], Table]


KINDS = ("logistic", "linear", "poisson")
"""What a label may be taken for."""
MULTI_CLASS = ("softmax", "ovr")
"""How a logistic regression takes more than two classes: one softmax, or one against the rest."""
FAMILIES = {
    "logistic": Family("logistic", _sigmoid, lambda z, y: np.logaddexp(0.0, z) - y * z),
    "softmax": Family("softmax", softmax, _softmax_loss),
    "linear": Family("linear", lambda z: z, lambda z, y: 0.5 * (z - y) ** 2),
    "poisson": Family("poisson", _exponential, lambda z, y: np.exp(np.minimum(z, 30.0)) - y * z),
}


@dataclass(frozen=True, slots=True)
class Response:
    """A label as it is trained on, and what turns predictors back into predictions. Only the guest holds it.

    Attributes:
        family: the model's.
        values: float64, `(num_rows, num_outputs)`.
        classes: the label's values, in order, for `logistic` and `softmax`; otherwise empty.
        offset, scale: the label is offset + scale × response.
    """

    family: Family
    values: Table
    classes: tuple[Any, ...] = ()
    offset: float = 0.0
    scale: float = 1.0

    @property
    def num_outputs(self) -> int:
        """Columns of weights: 1, or the number of classes where there are more than two."""
        return int(self.values.shape[1])

    def check_rows(self, rows: int) -> None:
        """Raise ConfigError unless there is one for each of so many rows."""
        if len(self.values) != rows:
            raise ConfigError(f"label: expected {rows} rows as in the table, found {len(self.values)}")

    def predict(self, z: Table) -> Table:
        """Predictions of linear predictors `(n, num_outputs)`.

        Returns:
            float64: for two classes `(n,)`, the probability of the second; for more `(n, num_classes)`, summing to 1;
            otherwise `(n,)`, in the label's own unit.
        """
        if self.family.name == "softmax":
            return softmax(z)
        if self.family.name == "logistic":
            chances = _sigmoid(z)
            return (
                chances[:, 0] if self.num_outputs == 1 else chances / np.maximum(chances.sum(1, keepdims=True), 1e-300)
            )
        if self.family.name == "poisson":
            return self.scale * np.exp(np.minimum(z[:, 0], 700.0))
        return self.offset + self.scale * z[:, 0]


def response_of(
    label: npt.NDArray[Any], family: str, multi_class: str = "softmax", among: npt.NDArray[Any] | None = None
) -> Response:
    """Check a label and bring it into the form that is trained on.

    Args:
        label: one value for each row.
        family: `logistic`, `linear` or `poisson`.
        multi_class: what more than two classes become, one of `MULTI_CLASS`.
        among: of `logistic`, labels whose values are the classes, whether or not they all occur in `label`; by default
            that itself.

    Raises:
        ConfigError: a label that does not fit the family: one class or too many, not finite, constant, negative
            counts. It names numbers of rows, no values.
    """
    if label.ndim != 1:
        raise ConfigError(f"label: expected one value for each row, found {label.ndim} dimensions")
    if family not in KINDS:
        raise ConfigError(f"family: expected one of {', '.join(KINDS)}, found {family!r}")
    kind = FAMILIES[family]
    if label.dtype.kind == "f" and not np.isfinite(label).all():
        raise ConfigError(f"label: expected finite values, found {int((~np.isfinite(label)).sum())} that are not")
    if family == "logistic":
        return _classes(label, multi_class, label if among is None else among)
    try:
        numbers = label.astype(np.float64)
    except (TypeError, ValueError):
        raise ConfigError(f"label: expected numbers for {family}, found {label.dtype}") from None
    if family == "poisson":
        if (numbers < 0).any() or (numbers != np.rint(numbers)).any():
            bad = int(((numbers < 0) | (numbers != np.rint(numbers))).sum())
            raise ConfigError(f"label: expected counts, found {bad} that are negative or not whole")
        if not numbers.any():
            raise ConfigError("label: expected some counts above 0, found none")
        scale = float(numbers.mean())
        return Response(kind, (numbers / scale)[:, None], scale=scale)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = float(numbers.std())
    if not np.isfinite(deviation):
        raise ConfigError("label: expected values that vary within the range of floats, found larger ones; scale it")
    if deviation <= 1e-14 * max(1.0, float(np.abs(numbers).max())):
        raise ConfigError("label: expected values that vary, found a constant")
    mean = float(numbers.mean())
    return Response(kind, ((numbers - mean) / deviation)[:, None], offset=mean, scale=deviation)


def _classes(label: npt.NDArray[Any], multi_class: str, among: npt.NDArray[Any]) -> Response:
    classes = classes_among(among)
    codes = np.searchsorted(classes, label)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ConfigError(f"label: expected 2 to {MAX_CLASSES} classes, found {len(classes)}")
    wanted = [1] if len(classes) == 2 else range(len(classes))
    values = np.column_stack([codes == each for each in wanted]).astype(np.float64)
    family = "softmax" if len(classes) > 2 and multi_class == "softmax" else "logistic"
    return Response(FAMILIES[family], values, tuple(classes.tolist()))
