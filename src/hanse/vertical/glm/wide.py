"""Integers modulo 2^112 as arrays of Python's: few enough of them that their speed does not matter, but for products.

Products with a table of small integers go through float64 BLAS over limbs of 24 bits: exact as long as the absolute
values of a row of the table sum to at most 2^29.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.crypto.rlwe import WIDE_BITS

Integers = npt.NDArray[Any]
"""dtype object, Python integers."""

_MODULUS = 1 << WIDE_BITS
_LIMB_BITS = 24
_LIMBS = -(-WIDE_BITS // _LIMB_BITS)


def zeros(*shape: int) -> Integers:
    """Zero, as Python integers."""
    return np.full(shape, 0, object)


def reduce(values: Integers) -> Integers:
    """Modulo 2^112, from 0 on."""
    return np.asarray(values % _MODULUS, object)


def from_floats(values: npt.NDArray[np.float64], fraction_bits: int) -> Integers:
    """Fixed point: round(x·2^fraction_bits), of absolute value below 2^62."""
    return np.rint(values * 2.0**fraction_bits).astype(np.int64).astype(object)


def to_floats(values: Integers, fraction_bits: int) -> npt.NDArray[np.float64]:
    """Centred modulo 2^112, and divided by 2^fraction_bits."""
    centred = (values + _MODULUS // 2) % _MODULUS - _MODULUS // 2
    return centred.astype(np.float64) * 2.0**-fraction_bits


def to_words(values: Integers) -> npt.NDArray[np.uint64]:
    """Modulo 2^112 as two words, the lower first: uint64 `(*shape, 2)`."""
    reduced = values % _MODULUS
    return np.stack([(reduced % (1 << 64)).astype(np.uint64), (reduced >> 64).astype(np.uint64)], axis=-1)


def from_words(words: npt.NDArray[np.uint64]) -> Integers:
    """Back from `to_words`."""
    return np.asarray((words[..., 0].astype(object) + (words[..., 1].astype(object) << 64)) % _MODULUS, object)


def truncate(values: Integers, shift: int, *, is_first: bool) -> Integers:
    """This party's share of x / 2^shift, of two: within one unit but with probability |x| / 2^111."""
    reduced = values % _MODULUS
    return np.asarray(reduced >> shift if is_first else _MODULUS - ((_MODULUS - reduced) >> shift), object)


def product(table: npt.NDArray[np.int64], vector: Integers) -> Integers:
    """table @ vector modulo 2^112, for a vector `(m,)` and a table `(n, m)`."""
    reduced = vector % _MODULUS
    limbs = np.stack(
        [((reduced >> _LIMB_BITS * at) % (1 << _LIMB_BITS)).astype(np.float64) for at in range(_LIMBS)], axis=1
    )
    parts = (table.astype(np.float64) @ limbs).astype(np.int64).astype(object)
    total = sum(parts[:, at] << _LIMB_BITS * at for at in range(_LIMBS))
    return np.asarray(total % _MODULUS, object)
