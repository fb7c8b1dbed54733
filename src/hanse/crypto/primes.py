"""Random primes from the operating system's random source; what both cryptosystems here need of number theory."""

import secrets
from collections.abc import Callable

from hanse.crypto.gmp import gmpy2_module

_ROUNDS = 40
"""Miller–Rabin rounds: a composite passes with probability at most 4^-40."""


def random_prime(bits: int, accept: Callable[[int], bool] = lambda p: True) -> int:
    """A random prime of exactly `bits` bits whose two highest bits are 1.

    Args:
        bits: at least 16.
        accept: a further condition, cheap, asked before primality is.
    """
    is_prime = gmpy2_module().is_prime
    while True:
        candidate = secrets.randbits(bits) | 3 << (bits - 2) | 1
        if accept(candidate) and is_prime(candidate, _ROUNDS):
            return candidate
