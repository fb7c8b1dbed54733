"""What is minimised: first and second derivatives of a row's loss, as whole numbers, and the start of the margins.

A derivative x is told as round-half-even(x · 2**SCALE_BITS); for regression x is in units of a power of two near the
target's standard deviation. Sums of fewer than 2**27 rows then stay below 2**53 and are exact wherever they are taken.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError

SCALE_BITS = 26
Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss.

    Args:
        num_classes: of a classification.
    """

    num_classes: int = 2

    name: ClassVar[str] = ""

    @property
    def num_outputs(self) -> int:
        """Margins of a row, and trees of a round."""
        return 1

    def start(self, totals: Wide) -> tuple[Wide, int]:
        """Margins to begin with, float64 `(outputs,)`, and the exponent of the unit of derivatives.

        Args:
            totals: float64: rows of each class; for regression mean and standard deviation.
        """
        raise NotImplementedError

    def gradients(self, margins: Wide, target: Wide) -> tuple[Wide, Wide]:
        """First and second derivatives of every row's loss by its margins: float64, `(outputs, rows)` each.

        Args:
            margins: float64, `(outputs, rows)`.
            target: float64, `(rows,)`: the place of the class, or the value.
        """
        raise NotImplementedError

    def derivatives(self, margins: Wide, target: Wide, unit: int) -> tuple[Array, Array]:
        """The same as whole numbers: int64, `(outputs, rows)` each.

        Args:
            margins, target: see `gradients`.
            unit: see `start`. g and h are in the same unit, so that −g / h is a margin again.
        """
        g, h = self.gradients(margins, target)
        return whole(np.ldexp(g, -unit)), whole(h)

    def predict(self, margins: Wide) -> Wide:
        """Probabilities `(rows, classes)`, or values `(rows,)`."""
        raise NotImplementedError


class Binary(Objective):
    """Logistic loss: g = p − y, h = p (1 − p)."""

    name: ClassVar[str] = "binary"

    def start(self, totals: Wide) -> tuple[Wide, int]:
        """The log odds of all rows, each class counted at least half."""
        negative, positive = np.maximum(totals, 0.5).tolist()
        return np.array([math.log(positive / negative)]), 0

    def gradients(self, margins: Wide, target: Wide) -> tuple[Wide, Wide]:
        """See `Objective.gradients`."""
        p = sigmoid(margins)
        return p - target, p * (1 - p)

    def predict(self, margins: Wide) -> Wide:
        """See `Objective.predict`."""
        p = sigmoid(margins[0])
        return np.stack([1 - p, p], axis=1)


class Multiclass(Objective):
    """Softmax: g = pₖ − [y = k], h = 2 pₖ (1 − pₖ), as XGBoost has it: one tree for each class and round."""

    name: ClassVar[str] = "multiclass"

    @property
    def num_outputs(self) -> int:
        """One for each class."""
        return self.num_classes

    def start(self, totals: Wide) -> tuple[Wide, int]:
        """Logarithms of the classes' shares, each class counted at least half a row."""
        counts = np.maximum(totals, 0.5)
        return np.array([math.log(count / counts.sum()) for count in counts.tolist()]), 0

    def gradients(self, margins: Wide, target: Wide) -> tuple[Wide, Wide]:
        """See `Objective.gradients`."""
        p = softmax(margins)
        mine = np.arange(self.num_classes)[:, None] == target[None, :]
        return p - mine, 2 * p * (1 - p)

    def predict(self, margins: Wide) -> Wide:
        """See `Objective.predict`."""
        return np.ascontiguousarray(softmax(margins).T)


class Regression(Objective):
    """Half the squared error: g = prediction − y, h = 1."""

    name: ClassVar[str] = "regression"

    def start(self, totals: Wide) -> tuple[Wide, int]:
        """The mean; the unit is the power of two above the standard deviation."""
        mean, deviation = totals.tolist()
        return np.array([mean]), math.frexp(deviation)[1] if deviation > 0 else 0

    def gradients(self, margins: Wide, target: Wide) -> tuple[Wide, Wide]:
        """See `Objective.gradients`."""
        g = margins - target
        return g, np.ones_like(g)

    def predict(self, margins: Wide) -> Wide:
        """See `Objective.predict`."""
        values: Wide = margins[0]
        return values


OBJECTIVES: dict[str, type[Objective]] = {kind.name: kind for kind in (Binary, Multiclass, Regression)}


def objective_of(name: str, num_classes: int) -> Objective:
    """An objective by its name.

    Raises:
        ConfigError: an unknown name, or a number of classes that does not fit.
    """
    if name not in OBJECTIVES:
        raise ConfigError(f"objective: expected one of {', '.join(OBJECTIVES)}; found {str(name)[:60]!r}")
    least, most = {"binary": (2, 2), "multiclass": (2, 1000), "regression": (2, 2)}[name]
    if type(num_classes) is not int or not least <= num_classes <= most:
        raise ConfigError(f"num_classes: expected from {least} to {most} for {name}, found {num_classes!r}")
    return OBJECTIVES[name](num_classes)


def sigmoid(margins: Wide) -> Wide:
    """1 / (1 + e⁻ᵐ) without overflow."""
    small = np.exp(-np.abs(margins))
    return np.where(margins >= 0, 1 / (1 + small), small / (1 + small))


def softmax(margins: Wide) -> Wide:
    """Over the first axis."""
    raised = np.exp(margins - margins.max(axis=0))
    return np.asarray(raised / raised.sum(axis=0))


def whole(values: Wide) -> Array:
    """round-half-even(x · 2**SCALE_BITS), int64."""
    return np.rint(np.ldexp(values, SCALE_BITS)).astype(np.int64)
