"""The doors to gmpy2, and to our own arithmetic over numba where it pays. Both are extras: importing needs neither."""

import importlib.util
import sys
from functools import cache
from typing import Any

from hanse.core.errors import MissingExtraError


@cache
def gmpy2_module() -> Any:
    """gmpy2.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gmpy2
    except ImportError:
        raise MissingExtraError("gmpy2", "vertical") from None
    return gmpy2


PATIENCE = 2_000_000
"""Products modulo one number that are left to GMP before numba is loaded, which takes seconds; then a fiftieth."""


def pays(num_products: int) -> bool:
    """Whether so many products modulo one number are worth `montgomery_of`."""
    return num_products >= (PATIENCE // 50 if "hanse.crypto.montgomery" in sys.modules else PATIENCE)


POINTS = 100_000
"""Of curve25519, under one secret, that are left to `cryptography` before numba is loaded; then `EIGHTS`."""
EIGHTS = 64


def ladder_of(num_points: int) -> Any:
    """`ladder.x25519`, or None where so many points are not worth it, or it cannot be had."""
    if num_points < (EIGHTS if "hanse.crypto.ladder" in sys.modules else POINTS):
        return None
    return _ladder()


@cache
def _ladder() -> Any:
    if importlib.util.find_spec("numba") is None:
        return None
    from hanse.crypto import montgomery

    if not montgomery.usable():
        return None
    from hanse.crypto import ladder

    return ladder.x25519


def montgomery_of(modulus: int) -> Any:
    """`montgomery.Montgomery`, or None where numba is not installed or the processor lacks the instructions."""
    if importlib.util.find_spec("numba") is None:
        return None
    from hanse.crypto import montgomery

    return montgomery.Montgomery(modulus) if montgomery.usable() else None
