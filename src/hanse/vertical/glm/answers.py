"""Linear models on labels that are answered by chance, see `hanse.vertical.answers`.

    y′ = (answer − q) / (p − q),   E[y′] = y

Gradients of generalised linear models are linear in y, so with y′ they are right on average, and the fit aims at the
same weights; what is lost is lost to variance.
"""

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from hanse.channels.protocol import Reveal
from hanse.core.errors import ConfigError
from hanse.vertical.answers import chances, drawn
from hanse.vertical.glm.families import Response
from hanse.vertical.glm.precision import LARGEST_ANSWER


def answered(response: Response, epsilon: float, label: str, rows: Iterable[bytes], secret: bytes) -> Response:
    """The response of a logistic regression with y′ instead of y; arguments as of `drawn`.

    Raises:
        ConfigError: an ε so small for so many classes that fixed point does not hold y′.
    """
    classes = len(response.classes)
    kept, other = chances(epsilon, classes)
    if (1 - other) / (kept - other) > LARGEST_ANSWER:
        least = math.log((LARGEST_ANSWER + classes - 2) / (LARGEST_ANSWER - 1))
        raise ConfigError(
            f"label_epsilon: expected at least {least:.3f} for {classes} classes, found {epsilon:g}; what is smaller "
            "takes longer numbers than fixed point has here"
        )
    codes = response.values.argmax(axis=1) if response.num_outputs > 1 else response.values[:, 0].astype(np.int64)
    told = drawn(codes, response.classes, epsilon, label=label, rows=rows, secret=secret)
    wanted = range(1, 2) if response.num_outputs == 1 else range(classes)
    values = np.column_stack([told == each for each in wanted])
    return replace(response, values=(values - other) / (kept - other))


def gradient_revealed(to: str, about: str, guest: str, epsilon: float | None) -> Reveal:
    """What the gradient of its own columns tells `to` about another: of the guest by real labels or by answers."""
    if about != guest:
        return Reveal(to, about, "own_gradient", f"{_GRADIENT} Xᵀ(mean − y) over the rows of the batch")
    if epsilon is None:
        what = (
            f"{_GRADIENT} Xᵀ(mean − y) over the rows of the batch: sums of labels, and the labels themselves where "
            "columns are many for the rows of a batch (label_epsilon bounds that)"
        )
        return Reveal(to, about, "own_gradient", what)
    answers = f"y′ of labels that are answered by chance once and for all, label_epsilon={epsilon:g}"
    return Reveal(to, about, "answered_gradient", f"{_GRADIENT} Xᵀ(mean − y′) over the rows of the batch, {answers}")


_GRADIENT = "at each step, the gradient of its own columns:"
