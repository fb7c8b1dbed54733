"""Sums of floating-point numbers without any rounding, so that no order of rows, and no division into sites, matters.

A float64 is a whole number of 53 bits times a power of two. Mantissas are added up by exponent (each partial sum stays
below 2**53, so it is exact in float64), then joined to one long integer. Such an integer travels as digits of 32 bits,
all of its sign, in int64: digits of many sites add up like any other array. The idea is Kulisch's long accumulator
(U. Kulisch, "Computer Arithmetic and Validity", de Gruyter 2008).

Means and variances made of them are rounded once, at the end: they are those of the pooled rows, to the last bit.
"""

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array

Wide = npt.NDArray[np.float64]

SUM_SCALE = 1126
"""A sum is told as a whole number of 2**-1126: frexp's least exponent, −1073, less the 53 bits of a mantissa."""
PRODUCT_SCALE = 2 * SUM_SCALE
DIGIT = 32
SUM_DIGITS = 71
"""2**31 rows below 2**1024 need 1126 + 1024 + 32 bits, and one for luck."""
PRODUCT_DIGITS = 137
_BLOCK = 1 << 24
"""Rows at a time: 2**24 parts of at most 2**28 stay below 2**53."""
_HALF = 27
_LEAST = -1073


def exact_sum(values: Wide) -> int:
    """Σ values · 2**SUM_SCALE.

    Args:
        values: float64, finite, `(rows,)`.
    """
    total = 0
    for start in range(0, len(values), _BLOCK):
        mantissa, exponent = _taken_apart(values[start : start + _BLOCK])
        total += _joined(mantissa, exponent)
    return total


def exact_dot(left: Wide, right: Wide) -> int:
    """Σ left · right · 2**PRODUCT_SCALE; float64, finite, `(rows,)` each."""
    total = 0
    for start in range(0, len(left), _BLOCK):
        a, i = _taken_apart(left[start : start + _BLOCK])
        b, j = _taken_apart(right[start : start + _BLOCK])
        exponent = i + j
        a_high, a_low = a >> _HALF, a & ((1 << _HALF) - 1)
        b_high, b_low = b >> _HALF, b & ((1 << _HALF) - 1)
        total += _joined(a_high * b_high, exponent) << (2 * _HALF)
        total += _joined(a_high * b_low + a_low * b_high, exponent) << _HALF
        total += _joined(a_low * b_low, exponent)
    return total


def to_digits(value: int, count: int) -> Array:
    """A whole number as int64 digits of 32 bits, the least first, each with its sign.

    Raises:
        OverflowError: it needs more than `count`.
    """
    digits = np.frombuffer(abs(value).to_bytes(count * DIGIT // 8, "little"), dtype="<u4").astype(np.int64)
    return -digits if value < 0 else digits


def from_digits(digits: Array) -> int:
    """The number that digits of any size and sign add up to."""
    total = 0
    for digit in reversed(digits.tolist()):
        total = (total << DIGIT) + int(digit)
    return total


def _taken_apart(values: Wide) -> tuple[Array, Array]:
    """Whole mantissas (int64, 53 bits and a sign) and exponents from 0: value = mantissa · 2**(exponent − 1126)."""
    fraction, exponent = np.frexp(values)
    return np.asarray(fraction * 2.0**53, dtype=np.int64), exponent.astype(np.int64) - _LEAST


def _joined(mantissa: Array, exponent: Array) -> int:
    """Σ mantissa · 2**exponent for whole numbers below 2**55."""
    if not len(mantissa):
        return 0
    low, high = mantissa & ((1 << _HALF) - 1), mantissa >> _HALF
    first = int(exponent.min())
    place = exponent - first
    lows = np.bincount(place, weights=low.astype(np.float64))
    highs = np.bincount(place, weights=high.astype(np.float64))
    total = 0
    for index in np.flatnonzero((lows != 0) | (highs != 0)).tolist():
        total += ((int(highs[index]) << _HALF) + int(lows[index])) << index
    return total << first
