"""The number-theoretic transform for Z_p[X] / (X^N + 1): products of polynomials become products of numbers.

P. Longa, M. Naehrig, "Speeding up the Number Theoretic Transform for Faster Ideal Lattice-Based Cryptography", CANS
2016, algorithms 1 and 2: the negacyclic twist is merged into the roots. Primes are below 2^30 and p ≡ 1 (mod 2N), so
that a product fits a uint64; the division is by multiplication with a precomputed ⌊w·2^32 / p⌋ (V. Shoup). The order
of the transformed numbers is bit-reversed and of no matter to products.

With numba where installed (the extra `fast`), otherwise NumPy, which is the other's oracle and about ten times as slow.
No branches on values.
"""

import importlib.util
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.njit import njit

Polynomials = npt.NDArray[np.uint64]
"""uint64 `(…, num_primes, N)`, each row below its prime."""


def find_primes(count: int, size: int, below: int = 1 << 30, skip: Sequence[int] = ()) -> tuple[int, ...]:
    """The largest primes below a bound with p ≡ 1 (mod 2·size) that are not to be skipped."""
    found: list[int] = []
    candidate = below - (below - 1) % (2 * size)
    while len(found) < count:
        if candidate not in skip and _is_prime(candidate):
            found.append(candidate)
        candidate -= 2 * size
    return tuple(found)


def _is_prime(n: int) -> bool:
    """Miller-Rabin; these bases decide for certain below 3.4e14."""
    if n < 2 or any(n % p == 0 for p in (2, 3, 5, 7, 11, 13, 17)):
        return n in (2, 3, 5, 7, 11, 13, 17)
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17):
        power = pow(base, odd, n)
        if power not in (1, n - 1) and all((power := power * power % n) != n - 1 for _ in range(twos - 1)):
            return False
    return True


class Transform:
    """Both directions for several primes at a time.

    Args:
        primes: of `find_primes`.
        size: N, a power of two.
    """

    def __init__(self, primes: Sequence[int], size: int) -> None:
        self.primes = np.array(primes, np.uint64)
        self.size = size
        tables = [_roots(int(p), size) for p in primes]
        self._roots, self._inverses = (np.array([table[at] for table in tables], np.uint64) for at in (0, 1))
        self._scale = np.array([pow(size, -1, int(p)) for p in primes], np.uint64)
        self._shoup, self._inverse_shoup = (
            (each << np.uint64(32)) // self.primes[:, None] for each in (self._roots, self._inverses)
        )

    def forward(self, values: Polynomials) -> Polynomials:
        """Transformed coefficients; `(…, num_primes, N)` in and out."""
        return self._run(values, self._roots, self._shoup, inverse=False)

    def inverse(self, values: Polynomials) -> Polynomials:
        """Coefficients again."""
        return self.multiply(self._run(values, self._inverses, self._inverse_shoup, inverse=True), self._scale[:, None])

    def multiply(self, a: Polynomials, b: Polynomials) -> Polynomials:
        """Products of transformed polynomials, of shapes that broadcast to `(…, num_primes, N)`."""
        product = a * b
        loops = _loops()
        if loops is None:
            return product % self._column
        loops[2](product.reshape(-1, len(self.primes), self.size), self.primes)
        return product

    @property
    def _column(self) -> npt.NDArray[np.uint64]:
        return self.primes[:, None]

    def reduce(self, values: npt.NDArray[np.int64]) -> Polynomials:
        """Integers `(…, N)`, of either sign, modulo every prime: `(…, num_primes, N)`."""
        p = self.primes.astype(np.int64)[:, None]
        if values.size and max(int(values.max()), -int(values.min())) < int(self.primes.min()):
            one = values[..., None, :]
            return (one + ((one >> 63) & p)).view(np.uint64)  # p is added where the sign bit is set
        return (values[..., None, :] % p).astype(np.uint64)

    def _run(self, values: Polynomials, roots: Polynomials, shoup: Polynomials, *, inverse: bool) -> Polynomials:
        result = np.ascontiguousarray(values, np.uint64).copy()
        flat = result.reshape(-1, len(self.primes), self.size)
        loops = _loops()
        if loops is None:
            _stages(flat, roots, self.primes, inverse=inverse)
        else:
            (loops[1] if inverse else loops[0])(flat, roots, shoup, self.primes)
        return result


def _roots(p: int, size: int) -> tuple[list[int], list[int]]:
    """Powers of a primitive 2N-th root and of its inverse, in bit-reversed order."""
    psi = next(root for base in range(2, p) if pow(root := pow(base, (p - 1) // (2 * size), p), size, p) == p - 1)
    bits = size.bit_length() - 1
    order = [int(f"{at:0{bits}b}"[::-1], 2) for at in range(size)]
    powers = []
    for root in (psi, pow(psi, -1, p)):
        row = [1]
        for _ in range(size - 1):
            row.append(row[-1] * root % p)
        powers.append([row[at] for at in order])
    return powers[0], powers[1]


def _stages(values: Polynomials, roots: Polynomials, primes: npt.NDArray[np.uint64], *, inverse: bool) -> None:
    """In NumPy, in place, without the last factor 1/N of the inverse."""
    size = values.shape[2]
    p = primes[:, None, None]
    groups = [1 << at for at in range(size.bit_length() - 1)]
    for m in reversed(groups) if inverse else groups:
        view = values.reshape(len(values), len(primes), m, 2, size // (2 * m))
        s = roots[:, m : 2 * m, None]
        low, high = view[:, :, :, 0].copy(), view[:, :, :, 1]
        if inverse:
            view[:, :, :, 0], view[:, :, :, 1] = (low + high) % p, (low + p - high) * s % p
        else:
            product = high * s % p
            view[:, :, :, 0], view[:, :, :, 1] = (low + product) % p, (low + p - product) % p


def _forward(values: Any, roots: Any, shoup: Any, primes: Any) -> None:
    half = np.uint64(32)
    for row in range(values.shape[0]):
        for at in range(values.shape[1]):
            a, p = values[row, at], primes[at]
            m, t = 1, a.shape[0] // 2
            while m < a.shape[0]:
                for i in range(m):
                    s, approximate = roots[at, m + i], shoup[at, m + i]
                    low, high = a[2 * i * t : 2 * i * t + t], a[2 * i * t + t : 2 * i * t + 2 * t]
                    for j in range(t):
                        product = s * high[j] - ((approximate * high[j]) >> half) * p
                        product = min(product, product - p)  # below 2p; wraps to above where it was below p
                        u = low[j]
                        up, down = u + product, u + p - product
                        low[j], high[j] = min(up, up - p), min(down, down - p)
                m, t = 2 * m, t // 2


def _inverse(values: Any, roots: Any, shoup: Any, primes: Any) -> None:
    half = np.uint64(32)
    for row in range(values.shape[0]):
        for at in range(values.shape[1]):
            a, p = values[row, at], primes[at]
            m, t = a.shape[0] // 2, 1
            while m >= 1:
                for i in range(m):
                    s, approximate = roots[at, m + i], shoup[at, m + i]
                    low, high = a[2 * i * t : 2 * i * t + t], a[2 * i * t + t : 2 * i * t + 2 * t]
                    for j in range(t):
                        up, down = low[j] + high[j], low[j] + p - high[j]
                        product = s * down - ((approximate * down) >> half) * p
                        low[j], high[j] = min(up, up - p), min(product, product - p)
                m, t = m // 2, 2 * t


def _remainders(values: Any, primes: Any) -> None:
    """Numbers below 2^60 modulo primes between 2^29 and 2^30, in place (P. Barrett, CRYPTO 1986)."""
    for row in range(values.shape[0]):
        for at in range(values.shape[1]):
            a, p = values[row, at], primes[at]
            factor = np.uint64((1 << 61) // p)
            for j in range(a.shape[0]):
                x = a[j]
                x -= (((x >> np.uint64(29)) * factor) >> np.uint64(32)) * p
                x = min(x, x - p - p)
                a[j] = min(x, x - p)


@cache
def _loops() -> tuple[Any, Any, Any] | None:
    """Forward, inverse and remainders, compiled, and kept in numba's cache on disk; None without numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    forward, inverse, remainders = (njit(nogil=True)(each) for each in (_forward, _inverse, _remainders))
    return forward, inverse, remainders
