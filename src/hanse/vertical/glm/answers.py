"""Labels answered by chance: what a guest trains on where nothing that it sends may say for certain what a label is.

S. Warner, "Randomized response", JASA 60, 1965; of K classes P. Kairouz, S. Oh, P. Viswanath, "Extremal mechanisms for
local differential privacy", JMLR 17, 2016; as privacy of labels K. Chaudhuri, D. Hsu, COLT 2011. Each row's label is
replaced by an answer: itself with probability p, any other class with q each, p / q = e^ε.

    p = e^ε / (e^ε + K − 1),   q = 1 / (e^ε + K − 1),   y′ = (answer − q) / (p − q),   E[y′] = y

**Guarantee**: whatever is computed from answers, and by however many steps, is ε-differentially private in each label
(`label_epsilon`), whatever the other parties' columns are and whatever they know of other labels. Gradients of
generalised linear models are linear in y, so with y′ they are right on average, and the fit aims at the same weights;
what is lost is lost to variance. It says nothing of the guest's columns, nor of metrics, which are of real labels.

Answers are permanent (Ú. Erlingsson, V. Pihur, A. Korolova, "RAPPOR", CCS 2014): a keyed hash of the identifier draws
them, under a secret of the guest's site. So a session that is begun anew and a job that is repeated add nothing; a
label that changes, or another ε, draws anew.
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hanse.channels.protocol import Reveal
from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import Response
from hanse.vertical.glm.precision import LARGEST_ANSWER

_PERSON = b"hanse answers"


def chances(epsilon: float, num_classes: int) -> tuple[float, float]:
    """p and q: of the label itself, and of each other class."""
    whole = math.exp(epsilon) + num_classes - 1
    return math.exp(epsilon) / whole, 1 / whole


def answered(response: Response, epsilon: float, label: str, rows: Iterable[bytes], secret: bytes) -> Response:
    """The response with y′ instead of y.

    Args:
        response: of a logistic regression.
        epsilon: > 0.
        label: the label's name; another one draws other answers.
        rows: one identifier for each row, each once.
        secret: bytes that nobody else knows.

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
    about = canonical_json({"label": label, "classes": [repr(each) for each in response.classes], "epsilon": epsilon})
    told = _answers(codes, kept, classes, about, rows, secret)
    wanted = range(1, 2) if response.num_outputs == 1 else range(classes)
    values = np.column_stack([told == each for each in wanted])
    return replace(response, values=(values - other) / (kept - other))


def _answers(
    codes: npt.NDArray[np.int64], kept: float, classes: int, about: bytes, rows: Iterable[bytes], secret: bytes
) -> npt.NDArray[np.int64]:
    start = hashlib.blake2b(about, digest_size=16, key=secret, person=_PERSON)
    drawn = []
    for code, row in zip(codes.tolist(), rows, strict=True):
        one = start.copy()
        one.update(b"\n%d %b" % (code, row))  # the label, too: under equal chances a changed one would show itself
        drawn.append(one.digest())
    words = np.frombuffer(b"".join(drawn), "<u8").reshape(-1, 2)
    others = (words[:, 1] % np.uint64(classes - 1)).astype(np.int64)
    others += others >= codes
    return np.where(words[:, 0] < np.uint64(int(kept * 2.0**64)), codes, others)


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
