"""Where the binary points are in training modulo 2^64, and the proof that nothing crosses the top.

A step computes Δw = s·2^-e · Xᵀd with learning_rate / rows = s·2^-e, ½ ≤ s < 1. The factor s goes into the public
coefficients of d, and 2^-e into the one truncation of the step, by `shift` bits, which also takes the momentum and the
l2 penalty. What is truncated must stay below 2^62:

    Σ|x|·|d|·2^(table + residuals)                 < 2^61    each party checks Σ|x| of its columns for each batch
    |w|·l2·lr·2^(weights + shift) + |v|·momentum·2^(weights + shift)   < 2^61

For `logistic` |d| is bounded, and with it everything but |w|, which is checked at the end. For `linear` and `poisson`
the bound of |d| is an assumption; a training that breaks it diverges, and that is what the check of the final weights
sees.
"""

from dataclasses import dataclass
from math import ceil, frexp, log2

import numpy as np

from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import Table
from hanse.vertical.glm.training import Training

TABLE_BITS = 16
WEIGHT_BITS = 24
SCORE_BITS = TABLE_BITS + WEIGHT_BITS
SAMPLE_WEIGHT_BITS = 8
LINEAR_FACTOR_BITS = 13
LARGEST_MEAN = 4.0
"""Of the absolute values of a column in a batch."""
LARGEST_WEIGHT = 64.0
LARGEST_RESIDUAL = {"logistic": 1.25, "linear": 64.0, "poisson": 256.0}
LARGEST_ANSWER = 8.0
"""Of labels that are answered by chance, see `answers`; real ones of a logistic regression are 0 and 1."""
_MEAN_STEP = {"logistic": 5.0, "linear": 16.0, "poisson": 16.0}
"""Of |x·d| over a batch, for the range of the velocity."""
_MOST_BITS = 30
_FEWEST_BITS = 18


@dataclass(frozen=True, slots=True)
class Step:
    """The numbers of one size of batch.

    Attributes:
        factor: s.
        shift: bits that the update is truncated by.
        decay: l2·lr with `shift` fraction bits, an integer.
        keep: momentum with `shift` fraction bits, an integer.
    """

    factor: float
    shift: int
    decay: int
    keep: int


@dataclass(frozen=True, slots=True)
class Precision:
    """Fraction bits of a training.

    Attributes:
        residuals: of d.
        means: of the mean response before sample weights are multiplied in.
        dealt: of the dealer's sines and cosines; the public coefficients have the rest of `means`.
    """

    residuals: int
    means: int
    dealt: int


def largest_residual(training: Training) -> float:
    """A bound of |d|, proved for `logistic`, assumed for the others."""
    return LARGEST_RESIDUAL[training.family] + (0.0 if training.label_epsilon is None else LARGEST_ANSWER - 1.0)


def precision_of(training: Training, largest_batch: int, *, weighted: bool) -> Precision:
    """The most bits that fit, for batches of at most that many rows.

    Raises:
        ConfigError: batches, a learning rate, momentum or penalty that leave too few.
    """
    room = 61 - TABLE_BITS - ceil(log2(LARGEST_MEAN * largest_residual(training) * largest_batch))
    if room < _FEWEST_BITS:
        raise ConfigError(f"batch_rows: {largest_batch} rows leave too few bits in fixed point; take smaller batches")
    fitting = [bits for bits in range(_FEWEST_BITS, min(_MOST_BITS, room) + 1) if _fits(training, bits, largest_batch)]
    if not fitting:
        raise ConfigError("learning_rate: too small or too large for fixed point with this momentum, l2 and batch_rows")
    means = fitting[-1] - (SAMPLE_WEIGHT_BITS if weighted else 0)
    return Precision(fitting[-1], means, means // 2)


def step_of(training: Training, precision: Precision, rows: int) -> Step:
    """The numbers for a batch of `rows`, the largest or one less."""
    factor, exponent = frexp(training.learning_rate / rows)
    shift = TABLE_BITS + precision.residuals - exponent - WEIGHT_BITS
    decay = round(training.learning_rate * training.l2 * 2.0**shift)
    return Step(factor, shift, decay, round(training.momentum * 2.0**shift))


def _fits(training: Training, residuals: int, rows: int) -> bool:
    """Whether the update stays below its bound, with a bit to spare for batches of one row less."""
    step = step_of(training, Precision(residuals, 0, 0), rows)
    pull = training.learning_rate * training.l2 * LARGEST_WEIGHT
    push = _MEAN_STEP[training.family] + LARGEST_MEAN * (largest_residual(training) - LARGEST_RESIDUAL[training.family])
    velocity = (training.learning_rate * push + pull) / (1 - training.momentum)
    top = (pull + velocity * training.momentum) * 2.0 ** (WEIGHT_BITS + step.shift)
    return 2 <= step.shift <= 60 and top < 2.0**60


def check_columns(values: Table, cuts: list[tuple[int, int]]) -> None:
    """Check the bound of Σ|x| for every batch.

    Raises:
        ConfigError: columns beyond it. It counts them and names no value.
    """
    beyond = np.zeros(values.shape[1], np.bool_)
    for start, stop in cuts:
        beyond |= np.abs(values[start:stop]).sum(axis=0) > LARGEST_MEAN * (stop - start)
    if beyond.any():
        raise ConfigError(
            f"table: expected a mean absolute value of at most {LARGEST_MEAN:g} in every batch, "
            f"found {int(beyond.sum())} columns with more; scale them, or clip outliers"
        )


def check_weights(weights: Table) -> None:
    """Check what training ended with.

    Raises:
        ConfigError: weights that only a training that diverged has.
    """
    if not (np.abs(weights) <= LARGEST_WEIGHT).all():
        raise ConfigError(
            f"training diverged: expected weights within ±{LARGEST_WEIGHT:g}; take a smaller learning rate, or more l2"
        )
