"""Real numbers as integers modulo 2^64: x becomes x·2^f, rounded half to even, in two's complement.

Not here: truncation after a product, which between parties takes a dealer's pairs.
"""

import numpy as np
import numpy.typing as npt

from hanse.core import scratch
from hanse.core.errors import ConfigError

Ring = npt.NDArray[np.uint64]
MAX_FRACTION_BITS = 52


def encode(values: npt.NDArray[np.float64], fraction_bits: int) -> Ring:
    """Numbers as elements of Z_2^64.

    Args:
        values: float64, any shape, finite, of absolute value below 2^(63 − fraction_bits).
        fraction_bits: 0 to 52.

    Raises:
        ConfigError: a number that is not finite or too large. It says how many, not which.
    """
    _check(fraction_bits)
    values = np.asarray(values, np.float64)
    if scratch.is_large(values):
        ring = scratch.empty(values.shape, np.uint64)
        for block in scratch.blocks(values):
            ring[block] = encode(values[block], fraction_bits)
        return ring
    scaled = np.rint(values * 2.0**fraction_bits)
    bad = int((~(np.abs(scaled) < 2.0**63)).sum())  # NaN and infinity, too
    if bad:
        raise ConfigError(f"fixed point: expected finite numbers below 2^{63 - fraction_bits}, found {bad} others")
    return scaled.astype(np.int64).view(np.uint64)


def decode(ring: Ring, fraction_bits: int) -> npt.NDArray[np.float64]:
    """The numbers, float64; exact where they need at most 53 bits."""
    _check(fraction_bits)
    return ring.view(np.int64).astype(np.float64) * 2.0**-fraction_bits


def _check(fraction_bits: int) -> None:
    if not 0 <= fraction_bits <= MAX_FRACTION_BITS:
        raise ConfigError(f"fixed point: expected 0 to {MAX_FRACTION_BITS} fraction bits, found {fraction_bits}")
