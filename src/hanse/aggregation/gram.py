"""Inner products of updates with the same bits on every machine: a matrix product whose every sum is exact.

Error-free splitting: K. Ozaki, T. Ogita, S. Oishi, S. M. Rump, "Error-free transformations of matrix multiplication by
using fast routines of matrix multiplication and its applications", Numerical Algorithms 59, 2012, section 3. Each row
is scaled by a power of two and cut into two integers of about 20 bits. Products of such integers, and sums of 4096 of
them, fit into the 53 bits of a float64, so no addition rounds: neither the order in which a BLAS adds, nor its
threads, nor fused operations can change a bit. What is lost is the product of the two low parts, about 2^-40 of the
rows' largest elements.

Not here: what is done with inner products (`gathers.py`).
"""

import numpy as np
import numpy.typing as npt

from hanse.aggregation.selects import Rows

BITS = 20
LONGEST = 1 << (52 - 2 * BITS)
"""Elements of a row, at most: BITS + BITS + log2(LONGEST) ≤ 53."""
LEAST_EXPONENT = -1000
"""Of a row's largest element; below it digits are lost, so that the scale stays a float64."""

Stats = npt.NDArray[np.float64]
"""Statistics over all updates, of any shape; those of two pieces are added elementwise."""


def gram(blocks: Rows) -> Stats:
    """x_i · x_j for all pairs of rows.

    Args:
        blocks: float64, (num_updates, n), n ≤ `LONGEST`. Overwritten.

    Returns:
        float64, (num_updates, num_updates), symmetric; NaN in the rows and columns of what is not finite.

    Raises:
        ValueError: rows that are too long to be exact.
    """
    if blocks.shape[1] > LONGEST:
        raise ValueError(f"gram: expected rows of at most {LONGEST} elements, found {blocks.shape[1]}")
    largest = np.maximum(blocks.max(axis=1), -blocks.min(axis=1))
    exponents = np.maximum(np.frexp(largest)[1], LEAST_EXPONENT)
    blocks *= np.ldexp(1.0, BITS - exponents)[:, None]  # |x| < 2^BITS; exact, as a power of two
    high = np.rint(blocks)
    blocks -= high
    blocks *= float(1 << BITS)
    low = np.rint(blocks, out=blocks)  # |x| ≤ 2^(BITS − 1)
    mixed = high @ low.T
    products = high @ high.T + (mixed + mixed.T) / (1 << BITS)
    return np.asarray(np.ldexp(products, exponents[:, None] + exponents[None, :] - 2 * BITS))


def squared_distances(products: Stats) -> Stats:
    """‖x_i − x_j‖² from inner products; infinite where it is not a number."""
    norms = np.diag(products)
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        distances = norms[:, None] + norms[None, :] - 2 * products
    return np.where(np.isnan(distances), np.inf, np.maximum(distances, 0.0))


def row_sums(blocks: Rows) -> Stats:
    """Sum of each row by halving: only elementwise additions, so the same bits on every machine. Overwrites."""
    n = blocks.shape[1]
    while n > 1:
        half = (n + 1) // 2
        blocks[:, : n - half] += blocks[:, half:n]
        n = half
    return blocks[:, 0].copy()
