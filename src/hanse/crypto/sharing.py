"""Additive secret sharing modulo 2^64 between two parties, and products with triples from a dealer.

D. Beaver, "Efficient Multiparty Protocols Using Circuit Randomization", CRYPTO 1991; matrix triples as in P. Mohassel,
Y. Zhang, "SecureML", IEEE S&P 2017. x is held as x₀ + x₁. For z = x·y the parties open e = x − a and f = y − b, where
(a, b, c = a·b) comes from the dealer, and hold z = c + e·b + a·f + e·f.

The dealer sends seeds, and to the second party a correction: it hears nothing. A triple hides one product and is used
once. Pure functions: who sends what is the business of a protocol; so is truncation after a product of fixed-point
numbers.

Guarantee: semi-honest; one share, and all that is opened, are uniform whatever x and y are, as long as AES-128 is a
pseudorandom permutation and the dealer colludes with neither party.
Reveals: shapes.
"""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.crypto.aes import KEY_BYTES, BlockFunction, prg

Ring = npt.NDArray[np.uint64]

_LIMB_BITS = 16
_NUM_LIMBS = 4
_MAX_INNER = 1 << 21  # sums of products of two limbs stay exact in float64: 2^21 · (2^16 − 1)² < 2^53


def new_seed() -> bytes:
    """16 bytes from the operating system's random source."""
    return os.urandom(KEY_BYTES)


def expand(seed: bytes, *shapes: tuple[int, ...]) -> list[Ring]:
    """Uniform elements from a seed that is used for nothing else: one array for each shape."""
    sizes = [int(np.prod(shape)) for shape in shapes]
    values = prg(seed, 8 * sum(sizes)).view(np.uint64)
    places = np.cumsum([0, *sizes])
    return [values[at : at + size].reshape(shape) for at, size, shape in zip(places, sizes, shapes, strict=False)]


def share(secret: Ring) -> tuple[Ring, Ring]:
    """Two arrays, each uniform by itself, whose sum is `secret`."""
    (mask,) = expand(new_seed(), secret.shape)
    return mask, secret - mask


def reveal(first: Ring, second: Ring) -> Ring:
    """The secret of two shares."""
    return first + second


def matmul(a: Ring, b: Ring) -> Ring:
    """a @ b modulo 2^64 by float64 BLAS over limbs of 16 bits: exact, and faster than NumPy's own integer product.

    Args:
        a: uint64, `(n, k)` with k ≤ 2^21.
        b: uint64, `(k, m)`.

    Raises:
        ConfigError: shapes that do not fit.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or a.shape[1] > _MAX_INNER:
        raise ConfigError(f"matmul: expected (n, k) and (k, m) with k ≤ {_MAX_INNER}, found {a.shape} and {b.shape}")
    left, right = _limbs(a), _limbs(b)
    result = np.zeros((a.shape[0], b.shape[1]), np.uint64)
    for i in range(_NUM_LIMBS):
        for j in range(_NUM_LIMBS - i):
            result += (left[i] @ right[j]).astype(np.uint64) << np.uint64(_LIMB_BITS * (i + j))
    return result


def thin(a: Ring, b: Ring) -> Ring:
    """a @ b modulo 2^64 for a few columns b `(k, m)`: bound by reading a once for each of them."""
    return np.stack([np.einsum("ij,j->i", a, column) for column in b.T], axis=1)


def thin_transposed(a: Ring, b: Ring) -> Ring:
    """a.T @ b modulo 2^64 for a few columns b `(n, m)`; a is read as it lies."""
    return np.stack([np.einsum("ij,i->j", a, column) for column in b.T], axis=1)


def derive(seed: bytes, index: int) -> bytes:
    """The seed of number `index` under a seed that is used for nothing else: one block of AES.

    Args:
        index: 0 to 2^63 − 1.
    """
    return BlockFunction(seed)(np.array([[index, 0]], np.uint64)).tobytes()


def _limbs(a: Ring) -> list[npt.NDArray[np.float64]]:
    mask = np.uint64((1 << _LIMB_BITS) - 1)
    return [((a >> np.uint64(_LIMB_BITS * i)) & mask).astype(np.float64) for i in range(_NUM_LIMBS)]


@dataclass(frozen=True, slots=True)
class TripleShare:
    """One party's share of a matrix triple: a `(n, k)`, b `(k, m)`, c = a @ b `(n, m)`."""

    a: Ring
    b: Ring
    c: Ring


Sizes = tuple[int, int, int]
"""n, k, m of a product (n, k) @ (k, m)."""


def deal(sizes: Sizes, first_seed: bytes, second_seed: bytes) -> Ring:
    """The dealer's correction for the second party, once each party has its seed.

    Returns:
        uint64, `(n, m)`: the second party's share of c.
    """
    n, k, m = sizes
    first = first_share(sizes, first_seed)
    a, b = expand(second_seed, (n, k), (k, m))
    return matmul(first.a + a, first.b + b) - first.c


def first_share(sizes: Sizes, seed: bytes) -> TripleShare:
    """The first party's share, all from its seed."""
    n, k, m = sizes
    return TripleShare(*expand(seed, (n, k), (k, m), (n, m)))


def second_share(sizes: Sizes, seed: bytes, correction: Ring) -> TripleShare:
    """The second party's share, from its seed and the dealer's correction."""
    n, k, m = sizes
    a, b = expand(seed, (n, k), (k, m))
    return TripleShare(a, b, correction)


def deal_split(sizes: Sizes, first_seed: bytes, second_seed: bytes) -> Ring:
    """The dealer's correction where the first party holds all of x and the second all of y.

    The first party then knows all of a, and the second all of b: each opens its own input masked, once.

    Returns:
        uint64, `(n, m)`: the second party's share of c.
    """
    a, first_c = split_first(sizes, first_seed)
    return matmul(a, split_second(sizes, second_seed)) - first_c


def split_first(sizes: Sizes, seed: bytes) -> tuple[Ring, Ring]:
    """a and the first party's share of c, for `deal_split`."""
    n, k, m = sizes
    a, c = expand(seed, (n, k), (n, m))
    return a, c


def split_second(sizes: Sizes, seed: bytes) -> Ring:
    """b, for `deal_split`."""
    _, k, m = sizes
    (b,) = expand(seed, (k, m))
    return b


def mask(x: Ring, y: Ring, triple: TripleShare) -> tuple[Ring, Ring]:
    """This party's shares of e = x − a and f = y − b, to be opened to both."""
    return x - triple.a, y - triple.b


def multiply(e: Ring, f: Ring, triple: TripleShare, *, is_first: bool) -> Ring:
    """This party's share of x @ y.

    Args:
        e, f: what was opened.
        triple: this party's share, used for this product only.
        is_first: exactly one of the two parties adds e @ f.
    """
    z = triple.c + matmul(e, triple.b) + matmul(triple.a, f)
    return z + matmul(e, f) if is_first else z
