"""Squared distances between updates, quickly, each between two bounds that hold the exact one.

Krum and Bulyan compare sums of distances and need no digit more than the comparison does. Here products come from a
plain matrix product, in float32 or float64; `gram.py`'s exact ones, which take several times as long, are asked only
where the bounds leave a choice open. What is chosen is what they would choose.

**Why the bounds hold.** u is the precision's unit roundoff, γ_k = ku / (1 − ku), A_i = ‖x_i‖², β as in `_beta`.

1. Whatever the order of the additions, fused with the products or not, a product of two rows of k elements is off by
   at most γ_k Σ|x||y| ≤ γ_k ‖x‖‖y‖ (N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd edition, SIAM
   2002, section 3.1); with elements that were rounded to the precision before, by at most γ_(k+2) ‖x‖‖y‖.
2. m such products are added up in float64: another (m − 1) 2^-53 of it, to first order.
3. `gram.py` itself cuts elements to 40 bits. In its integers an element's product is off by less than 1.26, and a row's
   scale 2^e is at most twice its largest element, which is at most ‖x‖: over pieces of 4096 elements that makes
   4096 · 1.26 · 4 · 2^-40 ‖x‖‖y‖ < 2^-25.6 ‖x‖‖y‖; with the additions of fewer than 2^24 pieces, less than 2^-25.
4. All three together are β ‖x_i‖‖x_j‖. A distance is A_i + A_j − 2 x_i·x_j, and ‖x_i‖‖x_j‖ ≤ (A_i + A_j) / 2, so it is
   off by at most 2β (A_i + A_j). Known of A is only what was computed, which is at least (1 − β) A: as β < 0.001,
   2.01 β (A_i + A_j) of what was computed is enough, the roundings of this sum included.
5. Elements and products may underflow, to zero at worst: 2^-126 each in float32, `tiny` an element for a distance.

Not here: who is chosen (`gathers.py`).
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.aggregation.gram import Stats
from hanse.aggregation.kernels import KernelName, Patience, numba_installed
from hanse.aggregation.rounding import BFLOAT16, Block, bfloat16_to_float32
from hanse.core.errors import MissingExtraError

BLOCK_ELEMENTS = 1 << 14
"""Elements of each update that are looked at together."""
LEAST_ELEMENTS = 1 << 16
"""Of a model: for smaller ones the exact products cost nothing worth saving."""
MOST_PRODUCTS = 1 << 24
LARGEST = 2.0**200
"""Of a squared norm, so that nothing overflows and no digit of the exact products is lost to their least exponent."""
TILE = 4
"""Rows that the compiled loop takes at a time."""
PATIENCE_BYTES = 8 << 30
"""Updates compared by a process before `auto` loads numba, which costs some 2 s of CPU and saves 0.25 s a GiB."""
_EXACT = 2.0**-25

Matrix = npt.NDArray[Any]
Products = Callable[[Sequence[Block], int, Stats], None]
"""`add(blocks, length, out)`: add inner products of blocks in sums of `length`; the lower triangle of `out` counts."""


@dataclass(frozen=True, slots=True)
class Precision:
    """In which numbers products are taken.

    Args:
        dtype: float32 or float64. length: elements of a row that are multiplied and added in it, at most.
        unit: the unit roundoff. tiny: what underflow may do to a distance, for each element.
    """

    dtype: type[np.float32] | type[np.float64]
    length: int
    unit: float
    tiny: float


SINGLE = Precision(np.float32, 1024, 2.0**-24, 2.0**-120)
DOUBLE = Precision(np.float64, 4096, 2.0**-53, 2.0**-900)
PRECISIONS = (SINGLE, DOUBLE)
"""From the quickest on."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Squared distances lie between these.

    Args:
        low, high: float64, (num_updates, num_updates).
    """

    low: Stats
    high: Stats


class Nearness:
    """Adds up inner products of `num` updates, block by block. Threads may share one.

    Args:
        kernel: `numpy`, `numba`, or `auto` for numba where it is installed and pays; of float32 only.
    """

    def __init__(self, num: int, precision: Precision, kernel: KernelName = "numpy") -> None:
        self._num = num
        self._precision = precision
        self._lock = threading.Lock()
        rows = -(-num // TILE) * TILE
        self._total = np.zeros((rows, rows))
        self._elements = 0
        self._products = 0
        self._add = _products(kernel) if precision is SINGLE else _Multiplied(precision)

    def add(self, blocks: Sequence[Block]) -> None:
        """Add one range.

        Args:
            blocks: one for each update, (n,), n ≤ `BLOCK_ELEMENTS`, of floats; are not changed.
        """
        n, length = len(blocks[0]), self._precision.length
        found = np.zeros_like(self._total)
        self._add([bfloat16_to_float32(x) if x.dtype == BFLOAT16 else x for x in blocks], length, found)
        with self._lock:
            self._total += found
            self._elements += n
            self._products += -(-n // length) + 1

    def bounds(self) -> Bounds | None:
        """Where the distances are; None where a norm is not finite or too large to say."""
        lower = np.tril(self._total[: self._num, : self._num])
        products = lower + np.tril(lower, -1).T
        norms = np.diag(products)
        if not bool((norms <= LARGEST).all()) or self._products > MOST_PRODUCTS:  # of NaN nothing is true
            return None
        sums = norms[:, None] + norms[None, :]
        distances = sums - 2 * products
        error = 2.01 * self._beta() * sums + self._elements * self._precision.tiny
        return Bounds(np.maximum(distances - error, 0.0), np.maximum(distances + error, 0.0))

    def _beta(self) -> float:
        k = (self._precision.length + 2) * self._precision.unit
        return k / (1 - k) + self._products * 2.0**-52 + _EXACT


class _Multiplied:
    """`Products` by numpy, in a matrix that is kept per thread."""

    def __init__(self, precision: Precision) -> None:
        self._dtype = precision.dtype
        self._local = threading.local()

    def __call__(self, blocks: Sequence[Block], length: int, out: Stats) -> None:
        matrix: Matrix | None = getattr(self._local, "matrix", None)
        if matrix is None:
            matrix = self._local.matrix = np.empty((len(blocks), BLOCK_ELEMENTS), self._dtype)
        n = len(blocks[0])
        for row, block in zip(matrix, blocks, strict=True):
            np.copyto(row[:n], block, casting="same_kind")
        for start in range(0, n, length):
            rows = matrix[:, start : min(start + length, n)]
            out[: len(rows), : len(rows)] += rows @ rows.T


_patience = Patience(PATIENCE_BYTES)


def pick_kernel(name: KernelName, num_bytes: int) -> KernelName:
    """`numpy` or `numba`, for `Nearness`.

    Args:
        num_bytes: of all updates that are to be compared.

    Raises:
        MissingExtraError: numba was asked for by name and is not installed.
    """
    if name == "numba" and not numba_installed():
        raise MissingExtraError("numba", "fast")
    if name == "auto":
        return "numba" if _patience.ends(num_bytes) and numba_installed() else "numpy"
    return name


@cache
def _compiled() -> Products:
    from hanse.aggregation.fused_products import add_products  # heavy and optional

    return add_products


def _products(kernel: KernelName) -> Products:
    return _compiled() if kernel == "numba" else _Multiplied(SINGLE)
