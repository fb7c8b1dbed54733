"""How a model is trained: `Training`, which every party must hold alike, and the order of the batches.

Rows come in a common order that nobody chose (that of the intersection); batches are cut from it once, as equal as
possible, and each epoch takes them in another order, which depends on the seed alone and is the same on every machine.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import isfinite

from hanse.core.codec import canonical_json
from hanse.core.errors import ConfigError
from hanse.vertical.answers import check_epsilon
from hanse.vertical.glm.families import KINDS, MULTI_CLASS
from hanse.vertical.glm.leverage import CHOICES, USUAL_BOUND

OPTIMISERS = ("sgd", "adam")
STATISTICAL_BITS = 30
_WHOLE = {"epochs": (1, 10_000), "batch_rows": (2, 1 << 22), "seed": (0, (1 << 63) - 1), "statistical_bits": (1, 60)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The public part of a training.

    Attributes:
        family: one of `hanse.vertical.glm.families.KINDS`.
        multi_class: of a logistic regression with more than two classes: `softmax`, or `ovr`, one against the rest.
        epochs: passes over the rows, 1 to 10,000.
        batch_rows: rows of a batch; the real ones are as equal as possible and no larger.
        learning_rate: > 0, ≤ 16.
        momentum: 0 ≤ momentum < 1, for `sgd`.
        optimiser: `sgd` or `adam` (D. Kingma, J. Ba, ICLR 2015, with its constants).
        l1, l2: weights of the penalties l1·|w| and l2·w²/2 on all coefficients but the intercept, ≥ 0.
        tolerance: training ends after an epoch that moved the weights (Euclidean distance) by no more; 0: never early.
        seed: of the order of batches.
        max_leverage, high_leverage: where parties see gradients of their own columns: what becomes of rows whose
            leverage in a batch reaches that bound, 0 < max_leverage ≤ 1. `weigh_down`: they count less in that party's
            gradients; `refuse`: training does not start; `accept`: their labels may be given away, see `leverage`.
        statistical_bits: under ring-LWE, the whole training is within 2^-statistical_bits of what it is meant to be, in
            what it shows and in what it computes; longer ones are refused, see `budget`. 1 to 60.
        label_epsilon: of a logistic regression: the guest trains on labels that are answered by chance, see `answers`:
            all that the training tells is label_epsilon-differentially private in each label, 0.001 to 16; None: on
            real ones.
        wide_scores: reserve a wider range of scores: logistic ±115 instead of ±27, counts down to e^-16 instead of
            e^-8 times the mean, at up to four times the correlated randomness. It matters to protocols that evaluate
            a series.

    Raises:
        ConfigError: a value out of its range.
    """

    family: str = "logistic"
    multi_class: str = "softmax"
    epochs: int = 10
    batch_rows: int = 1024
    learning_rate: float = 0.1
    momentum: float = 0.0
    optimiser: str = "sgd"
    l1: float = 0.0
    l2: float = 0.0
    tolerance: float = 0.0
    seed: int = 0
    max_leverage: float = USUAL_BOUND
    high_leverage: str = "weigh_down"
    statistical_bits: int = STATISTICAL_BITS
    label_epsilon: float | None = None
    wide_scores: bool = False

    def __post_init__(self) -> None:
        words = {"family": KINDS, "multi_class": MULTI_CLASS, "optimiser": OPTIMISERS, "high_leverage": CHOICES}
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}, found {getattr(self, name)!r:.40}")
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r}")
        for name, top in (
            ("learning_rate", 16.0),
            ("momentum", 1.0),
            ("l1", 16.0),
            ("l2", 16.0),
            ("tolerance", 1e6),
            ("max_leverage", 1.0),
        ):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and isfinite(value) and 0 <= value <= top):
                raise ConfigError(f"{name}: expected a number from 0 to {top:g}, found {value!r}")
        if self.label_epsilon is not None:
            self._check_answers(self.label_epsilon)
        if self.learning_rate == 0 or self.max_leverage == 0 or self.momentum == 1:
            raise ConfigError("learning_rate, max_leverage: expected numbers above 0, and momentum below 1")
        if self.optimiser == "adam" and self.momentum:
            raise ConfigError("momentum: expected 0 with adam, which has its own")

    def _check_answers(self, epsilon: float) -> None:
        if self.family != "logistic":
            raise ConfigError(f"label_epsilon: expected a logistic regression, found {self.family}")
        check_epsilon(epsilon)

    @property
    def tells_single_rows(self) -> bool:
        """Whether gradients may tell more of a single row than under the usual bound, which Reveals then say."""
        return self.high_leverage == "accept" or self.max_leverage > USUAL_BOUND

    def kind(self, outputs: int) -> str:
        """The key of `hanse.vertical.glm.families.FAMILIES` for that many columns of weights."""
        is_softmax = self.family == "logistic" and self.multi_class == "softmax" and outputs > 1
        return "softmax" if is_softmax else self.family

    def digest(self, *further: bytes) -> int:
        """63 bits that differ where two parties' settings, or `further` public values, differ."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        text = canonical_json({k: float(v) if type(v) is int and k not in _WHOLE else v for k, v in plain.items()})
        hashed = hashlib.sha256(b"".join(len(each).to_bytes(8, "little") + each for each in (text, *further)))
        return int.from_bytes(hashed.digest()[:8], "little") >> 1


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows `start` to `stop` of the common order, as step `index` of the training (from 0) in `epoch` (from 0)."""

    index: int
    epoch: int
    start: int
    stop: int
    ends_epoch: bool

    @property
    def rows(self) -> slice:
        """The rows."""
        return slice(self.start, self.stop)

    @property
    def num_rows(self) -> int:
        """How many."""
        return self.stop - self.start


def num_batches(num_rows: int, batch_rows: int) -> int:
    """Batches of an epoch."""
    return -(-num_rows // batch_rows)


def bounds(num_rows: int, batch_rows: int) -> list[tuple[int, int]]:
    """First row and row behind the last of each batch, in row order; sizes differ by one at most."""
    count = num_batches(num_rows, batch_rows)
    cuts = [num_rows * at // count for at in range(count + 1)]
    return list(pairwise(cuts))


def batches(num_rows: int, training: Training, done: int = 0) -> Iterator[Batch]:
    """All steps of a training that does not end early, in order, after `done` epochs."""
    cuts = bounds(num_rows, training.batch_rows)
    for epoch in range(done, training.epochs):
        for place, cut in enumerate(_order(len(cuts), training.seed, epoch)):
            yield Batch(epoch * len(cuts) + place, epoch, *cuts[cut], ends_epoch=place == len(cuts) - 1)


def first_step(num_rows: int, training: Training, done: int) -> int:
    """The number of the first step after `done` epochs."""
    return done * num_batches(num_rows, training.batch_rows)


def has_ended(changes: Sequence[float], training: Training) -> bool:
    """Whether training ends early: the last of these epochs has moved the weights by no more than the tolerance."""
    return bool(changes) and training.tolerance > 0 and changes[-1] <= training.tolerance


def _order(count: int, seed: int, epoch: int) -> list[int]:
    def key(place: int) -> bytes:
        return hashlib.blake2b(b"%d %d %d" % (seed, epoch, place), digest_size=16, person=b"hanse glm order").digest()

    return sorted(range(count), key=key)
