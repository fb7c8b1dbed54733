"""Truncation of shared fixed-point numbers with a dealer's pairs: from x to x / 2^f, off by less than one unit.

D. Escudero, S. Ghosh, M. Keller, R. Rachuri, P. Scholl, "Improved Primitives for MPC over Mixed Arithmetic-Binary
Circuits", CRYPTO 2020, section 5: the dealer draws r uniformly modulo 2^64 and shares r, ⌊(r mod 2^63) / 2^f⌋ and the
top bit of r. The parties open c = x + 2^62 + r. Whether the sum of the lower 63 bits carried is the top bit of c xor
that of r, linear in the share of the latter. So, unlike truncation of each share by itself, nothing wraps, for every
|x| < 2^62.

The result is ⌊x / 2^f⌋ or that plus 1; over r its mean is x / 2^f exactly: no bias adds up over many steps.

Any number of parties with additive shares; one of them, the first, adds what is public. Pure functions.

Guarantee: c is uniform whatever x is, if r is used once. For |x| > 2^62
the result is wrong with probability (|x| − 2^62) / 2^63, and then by far: callers bound x.
Reveals: nothing.
"""

import numpy as np

from hanse.core.errors import ConfigError
from hanse.crypto.sharing import Ring

MAX_BITS = 62
"""x must be from −2^62 to 2^62 − 1."""
_LOW = np.uint64((1 << 63) - 1)
_TOP = np.uint64(63)


def deal(mask: Ring, shift: int) -> tuple[Ring, Ring]:
    """The dealer's part: ⌊(r mod 2^63) / 2^shift⌋ and the top bit of r, both to be shared.

    Raises:
        ConfigError: a shift that is not from 1 to 62.
    """
    _check(shift)
    return (mask & _LOW) >> np.uint64(shift), mask >> _TOP


def masked(x: Ring, mask: Ring, *, is_first: bool) -> Ring:
    """This party's share of c, to be opened."""
    c = x + mask
    return c + np.uint64(1 << MAX_BITS) if is_first else c


def truncate(opened: Ring, quotient: Ring, top: Ring, shift: int, *, is_first: bool) -> Ring:
    """This party's share of x / 2^shift.

    Args:
        opened: c, the sum of all parties' shares of it.
        quotient, top: this party's shares of what `deal` returned.
        shift: 1 to 62.
        is_first: True at exactly one party.
    """
    _check(shift)
    weight, carries = np.uint64(1 << 63 - shift), opened >> _TOP
    # xor with a public bit: the share itself, or 1 − it
    share = np.where(carries == 0, top, np.uint64(0) - top) * weight - quotient
    if is_first:
        share += ((opened & _LOW) >> np.uint64(shift)) + carries * weight - np.uint64(1 << MAX_BITS - shift)
    return share


def _check(shift: int) -> None:
    if not 1 <= shift <= MAX_BITS:
        raise ConfigError(f"truncation: expected to drop 1 to {MAX_BITS} bits, found {shift}")
