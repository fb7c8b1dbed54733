"""What a training under ring-LWE is short of perfect: all its statistical distances and errors, added up.

Nothing here depends on data but sizes. Four things are not exact, each bounded for the worst case:

- Slots. What is masked is uniform, but a sum of masks and values wraps around the slots' modulus M with probability
  |v| / M, and the result is then wrong by M.
- Flooding. Noise of products in slots, which depends on a party's secret factors, is drowned in 2^115: errors of
  variance 10.5 times N factors below 2^29 stay below 10.6 deviations, 2^40.6, but with probability 2^-79, rounding adds
  2^41; together at most 2^-73 a coefficient.
- Likewise that of inner products in 2^95: at most 21.5 times the sum of a row's absolute values.
- Truncation of each share by itself, where weights are shared: wrong with probability |x| / 2^111.
"""

from collections.abc import Sequence
from math import ceil, frexp, log2

import numpy as np

from hanse.core.errors import ConfigError
from hanse.crypto import rlwe
from hanse.vertical.glm.precision import LARGEST_MEAN, LARGEST_WEIGHT, largest_residual
from hanse.vertical.glm.series import Series
from hanse.vertical.glm.slots import FACTOR_BITS, RESIDUAL_BITS, SCORE_BITS, TABLE_BITS, WEIGHT_BITS
from hanse.vertical.glm.softmax import mean_of
from hanse.vertical.glm.training import Training, bounds, num_batches

LARGEST_ROW = 1 << 16
"""Sum of the absolute values of a row, which products are exact for."""
LARGEST_LINEAR_SCORE = 1 << 10
"""Of linear models: what is assumed of scores, in deviations of the response. A training that breaks it diverges."""
_SLOT_FLOOD = 2.0**-73
_PRODUCT_FLOOD_BITS, _ERROR = 95, 21.5


def shortfall(training: Training, rows: int, outputs: int, columns: Sequence[int], *, shared: bool) -> float:
    """A bound of the distance between a whole training and one in which nothing is statistical.

    Args:
        training: its epochs, batches and mean function count.
        rows, outputs: of the table and of the weights.
        columns: how many each data party has.
        shared: whether weights are shared (`dealer_free` without own gradients).
    """
    largest = max(stop - start for start, stop in bounds(rows, training.batch_rows))
    steps = training.epochs * num_batches(rows, training.batch_rows)
    total = 0.0
    mean = mean_of(training, outputs)
    if mean is not None:
        for series, each in ((mean.series, outputs), (mean.pairs, sum(mean.log_sums.pairs) if mean.log_sums else 0)):
            if series is not None:
                total += steps * _evaluation(series, largest * each)
    residuals = LARGEST_MEAN * largest_residual(training) * largest
    total += steps * outputs * sum(columns) * _product(LARGEST_MEAN * largest)
    if shared:
        total += steps * outputs * len(columns) * largest * _product(LARGEST_ROW)
        factor, exponent = frexp(training.learning_rate / largest)
        shift = TABLE_BITS + RESIDUAL_BITS - exponent - WEIGHT_BITS
        weights = LARGEST_WEIGHT * (training.learning_rate * training.l2 + 2 * training.momentum)
        moved = residuals * factor * 2.0 ** (TABLE_BITS + RESIDUAL_BITS) + weights * 2.0 ** (shift + WEIGHT_BITS)
        total += steps * outputs * sum(columns) * moved * 2.0**-111
        if mean is None:
            total += steps * outputs * largest * LARGEST_LINEAR_SCORE * 2.0 ** (SCORE_BITS + FACTOR_BITS - 111)
    return total


def _evaluation(series: Series, numbers: int) -> float:
    """Of a series at so many numbers."""
    largest = float(np.hypot(series.cosines, series.sines).sum()) * 2.0**RESIDUAL_BITS
    slots = ceil(numbers * 2 * series.range.terms / rlwe.SIZE) * rlwe.SIZE
    return numbers * 2 * largest / rlwe.slot_modulus() + 3 * slots * _SLOT_FLOOD


def _product(row: float) -> float:
    """Of an inner product with a row whose absolute values sum up to `row` at most."""
    return _ERROR * row * 2.0 ** (TABLE_BITS - _PRODUCT_FLOOD_BITS)


def check(training: Training, rows: int, outputs: int, columns: Sequence[int], *, shared: bool) -> None:
    """Refuse a training that does not keep to its `statistical_bits`; arguments as for `shortfall`.

    Raises:
        ConfigError: it does not. It says what it would keep to.
    """
    bits = -log2(shortfall(training, rows, outputs, columns, shared=shared))
    if bits < training.statistical_bits:
        raise ConfigError(
            f"statistical_bits: expected a training that keeps to {training.statistical_bits} in all, found one that "
            f"keeps to {bits:.1f}; take fewer epochs, a smaller number, or the protocol dealer, which loses none"
        )
