"""Between the dtypes of a model and float64: exact widening, and the one rounding at the end.

    dtype                     widened                      rounded from float64
    float16, 32, 64, bfloat16 exactly                      to nearest, ties to even, once (no double rounding)
    (u)int8 … (u)int32        exactly                      to nearest, ties to even
    int64, uint64             to nearest float64           to nearest, ties to even; 2**63 (2**64) becomes the maximum
    bool, complex, float8     refused                      refused

`ml_dtypes` casts float64 to bfloat16 by way of float32, which rounds twice; here float32 is reached by rounding
to odd, after which the second rounding is harmless (S. Boldo, G. Melquiond, "Emulation of FMA and correctly
rounded sums: proved algorithms using rounding to odd", IEEE TC 57(4), 2008, theorem 2).
"""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

Block = npt.NDArray[Any]
"""1-D values in the dtype of their array."""
Wide = npt.NDArray[np.float64]
"""1-D float64 values."""

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
INTEGERS = tuple(np.dtype(f"{sign}{size}") for sign in "iu" for size in (1, 2, 4, 8))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether values may be NaN or infinite."""
    return dtype in FLOATS


def is_reducible(dtype: np.dtype[Any]) -> bool:
    """Whether a mean of this dtype is defined."""
    return dtype in FLOATS or dtype in INTEGERS


def widen_into(out: Wide, block: Block) -> None:
    """`out[:] = block` in float64."""
    if block.dtype == BFLOAT16:
        np.copyto(out, bfloat16_to_float32(block))
    else:
        np.copyto(out, block)


def bfloat16_to_float32(block: Block) -> npt.NDArray[np.float32]:
    """Exactly, by moving the sixteen bits up."""
    wide = block.view(np.uint16).astype(np.uint32)
    np.left_shift(wide, 16, out=wide)
    return wide.view(np.float32)


def all_finite(values: Block) -> bool:
    """Whether no value is NaN or infinite.

    A sum is finite only if every term is, and costs half of `isfinite`; a sum that overflows is looked at again.
    """
    if values.dtype.itemsize >= 4 and np.isfinite(np.add.reduce(values)):
        return True
    return bool(np.isfinite(values).all())


def round_to(values: Wide, dtype: np.dtype[Any], *, allow_nonfinite: bool = False) -> Block | None:
    """Round once to `dtype`.

    Args:
        values: float64. May be overwritten.
        allow_nonfinite: let NaN and infinity pass, also those that rounding makes.

    Returns:
        The rounded block, or None if a value is not finite or outside the dtype's range.
    """
    if dtype in INTEGERS:
        return _round_to_integer(values, dtype)
    with np.errstate(all="ignore"):  # what is not finite is found below
        rounded = _round_to_bfloat16(values) if dtype == BFLOAT16 else values.astype(dtype, copy=False)
    return rounded if allow_nonfinite or all_finite(rounded) else None


def _round_to_integer(values: Wide, dtype: np.dtype[Any]) -> Block | None:
    limits = np.iinfo(dtype)
    low, high = float(limits.min), float(limits.max)  # for 64 bits the maximum becomes 2**63 or 2**64
    np.rint(values, out=values)
    if values.size and not (values.min() >= low and values.max() <= high):  # also if there is a NaN
        return None
    if int(high) == limits.max:
        return values.astype(dtype)
    top = values == high
    values[top] = 0.0
    rounded = values.astype(dtype)
    rounded[top] = limits.max
    return rounded


def _round_to_bfloat16(values: Wide) -> Block:
    narrow = values.astype(np.float32)
    bits = narrow.view(np.uint32)
    back = narrow.astype(np.float64)
    comparable = ~np.isnan(values)
    bits -= (np.abs(back) > np.abs(values)) & comparable  # towards zero …
    bits |= (back != values) & comparable  # … and odd
    return narrow.astype(BFLOAT16)
