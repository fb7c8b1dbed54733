"""The guest's label as it is trained on."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.trees.objectives import Objective, objective_of
from hanse.vertical import metrics
from hanse.vertical.answers import classes_among, debiased, drawn

Wide = npt.NDArray[np.float64]
MAX_CLASSES = 64
KINDS = ("classification", "regression")


@dataclass(frozen=True, slots=True)
class Response:
    """A label, and what turns margins into predictions. Only the guest holds it.

    Attributes:
        objective: what is minimised.
        target: float64, `(num_rows,)`: the place of the class, or the value. May be empty in a saved model.
        classes: the label's values, in order; empty for a regression.
        label_epsilon: of a target of answers instead of labels, see `hanse.vertical.answers`; None for labels.
    """

    objective: Objective
    target: Wide
    classes: tuple[Any, ...] = ()
    label_epsilon: float | None = None

    def answered(self, epsilon: float, label: str, rows: Iterable[bytes], secret: bytes) -> "Response":
        """Of a classification, with answers as its target; arguments as of `hanse.vertical.answers.drawn`."""
        codes = self.target.astype(np.int64)
        told = drawn(codes, self.classes, epsilon, label=label, rows=rows, secret=secret)
        return replace(self, target=told.astype(np.float64), label_epsilon=epsilon)

    def start(self) -> tuple[Wide, int]:
        """See `Objective.start`."""
        if self.classes:
            counts = np.bincount(self.target.astype(np.int64), minlength=len(self.classes))
            return self.objective.start(np.maximum(counts, 0.5))  # of answers, a class may have none
        return self.objective.start(np.array([self.target.mean(), self.target.std()]))

    def predict(self, margins: Wide) -> Wide:
        """Predictions of margins `(num_outputs, n)`.

        Returns:
            float64: for two classes `(n,)`, the probability of the second; for more `(n, num_classes)`; otherwise
            `(n,)`, values.
        """
        said = self.objective.predict(margins)
        if self.label_epsilon is not None:
            said = debiased(said, self.label_epsilon)
        return said[:, 1] if len(self.classes) == 2 else said

    def metrics(self, label: npt.NDArray[Any], predicted: Wide) -> dict[str, float]:
        """How good predictions are; see `hanse.vertical.metrics`."""
        if self.classes:
            return metrics.of_classes(label, predicted, self.classes)
        return metrics.of_numbers(label, predicted)


def response_of(label: npt.NDArray[Any], kind: str, among: npt.NDArray[Any] | None = None) -> Response:
    """Check a label.

    Args:
        label: `(num_rows,)`.
        kind: `classification` or `regression`.
        among: of a classification, labels whose values are the classes, whether or not they all occur in `label`; by
            default that itself.

    Raises:
        ConfigError: a label that does not fit; it names numbers of rows, no values.
    """
    if kind not in KINDS:
        raise ConfigError(f"objective: expected one of {', '.join(KINDS)}, found {kind!r:.40}")
    if label.ndim != 1 or not len(label):
        raise ConfigError(f"label: expected one value for each row, found {label.ndim} dimensions")
    if label.dtype.kind == "f" and not np.isfinite(label).all():
        raise ConfigError(f"label: expected finite values, found {int((~np.isfinite(label)).sum())} that are not")
    if kind == "regression":
        try:
            numbers = label.astype(np.float64)
        except (TypeError, ValueError):
            raise ConfigError(f"label: expected numbers for a regression, found {label.dtype}") from None
        if not np.isfinite(numbers).all() or np.abs(numbers).max() > 1e100:
            raise ConfigError("label: expected finite numbers of at most 1e100 in size")
        return Response(objective_of("regression", 2), numbers)
    classes = classes_among(label if among is None else among)
    codes = np.searchsorted(classes, label)
    if not 2 <= len(classes) <= MAX_CLASSES:
        raise ConfigError(f"label: expected 2 to {MAX_CLASSES} classes, found {len(classes)}")
    objective = objective_of("binary" if len(classes) == 2 else "multiclass", len(classes))
    return Response(objective, codes.astype(np.float64), tuple(classes.tolist()))
