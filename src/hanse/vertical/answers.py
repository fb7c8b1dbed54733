"""Labels answered by chance: what a guest trains on where nothing that it sends may say for certain what a label is.

S. Warner, "Randomized response", JASA 60, 1965; of K classes P. Kairouz, S. Oh, P. Viswanath, "Extremal mechanisms for
local differential privacy", JMLR 17, 2016; as privacy of labels K. Chaudhuri, D. Hsu, COLT 2011. Each row's label is
replaced by an answer: itself with probability p, any other class with q each, p / q = e^ε.

    p = e^ε / (e^ε + K − 1),   q = 1 / (e^ε + K − 1)

**Guarantee**: whatever is computed from answers, and by however many steps, is ε-differentially private in each label
(`label_epsilon`), whatever the other parties' columns and rows are and whatever they know of other labels. It says
nothing of the guest's columns, nor of metrics, which are of real labels. Which classes there are is told: those of the
guest's whole table, or else whoever chooses the common rows would see which of them occur there.

Answers are permanent (Ú. Erlingsson, V. Pihur, A. Korolova, "RAPPOR", CCS 2014): a keyed hash of the identifier draws
them, under a secret of the guest's site. So a session that is begun anew and a job that is repeated add nothing; a
label that changes, another set of classes or another ε draws anew.
"""

import hashlib
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError

SMALLEST_EPSILON, LARGEST_EPSILON = 0.001, 16
_PERSON = b"hanse answers"
Codes = npt.NDArray[np.int64]


def check_epsilon(epsilon: object) -> None:
    """Raise ConfigError unless it is a number from `SMALLEST_EPSILON`, where p and q differ, to `LARGEST_EPSILON`."""
    low, high = SMALLEST_EPSILON, LARGEST_EPSILON
    if not (isinstance(epsilon, int | float) and type(epsilon) is not bool and low <= epsilon <= high):
        raise ConfigError(f"label_epsilon: expected a number from {low} to {high}, found {epsilon!r:.40}")


def classes_among(label: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of a label, in order, without what is missing."""
    return np.unique(label[np.isfinite(label)] if label.dtype.kind == "f" else label)


def chances(epsilon: float, num_classes: int) -> tuple[float, float]:
    """p and q: of the label itself, and of each other class."""
    whole = math.exp(epsilon) + num_classes - 1
    return math.exp(epsilon) / whole, 1 / whole


def drawn(
    codes: Codes, classes: Sequence[Any], epsilon: float, *, label: str, rows: Iterable[bytes], secret: bytes
) -> Codes:
    """An answer for each row.

    Args:
        codes: each row's place in `classes`.
        classes: the label's values.
        epsilon: ε.
        label: the label's name; another one draws other answers.
        rows: one identifier for each row, each once.
        secret: bytes that nobody else knows.
    """
    named = [repr(float(each) if isinstance(each, int | float) else each) for each in classes]  # 1, 1.0, True: one
    about = canonical_json({"label": label, "classes": named, "epsilon": float(epsilon)})
    start = hashlib.blake2b(about, digest_size=16, key=secret, person=_PERSON)
    found = []
    for code, row in zip(codes.tolist(), rows, strict=True):
        one = start.copy()
        one.update(b"\n%d %b" % (code, row))  # the label, too: what two labels are answered by must not be one draw
        found.append(one.digest())
    words = np.frombuffer(b"".join(found), "<u8").reshape(-1, 2)
    others = (words[:, 1] % np.uint64(len(classes) - 1)).astype(np.int64)
    others += others >= codes
    kept, _ = chances(epsilon, len(classes))
    return np.where(words[:, 0] < np.uint64(int(kept * 2.0**64)), codes, others)


def debiased(chances_of_answers: npt.NDArray[np.float64], epsilon: float) -> npt.NDArray[np.float64]:
    """Chances of labels, from what a model of answers says `(n, num_classes)`: held within 0 and 1, with sum 1."""
    kept, other = chances(epsilon, chances_of_answers.shape[1])
    found = np.clip((chances_of_answers - other) / (kept - other), 0.0, 1.0)
    total: npt.NDArray[np.float64] = found / np.maximum(found.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return total
