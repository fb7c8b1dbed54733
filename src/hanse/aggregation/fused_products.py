"""Inner products of all pairs of float32 rows, compiled by numba: sixteen pairs at a time, in registers.

For `nearness.py`, whose bounds hold for every order of additions: so LLVM may reorder them here, as nowhere else. Half
the work of a matrix product, since only the tiles on and below the diagonal are computed; twice as fast as BLAS for
fifty rows, which it rearranges first; and updates are read where they lie, by address. Not imported unless numba is
wanted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import carray, types  # type: ignore[attr-defined]  # carray is public, but not in numba's __all__

from hanse.aggregation.fused_sorting import at_address
from hanse.aggregation.rounding import Block
from hanse.core.njit import njit

_SINGLE = np.dtype(np.float32)


def _add_products(addresses: Any, start: Any, stop: Any, out: Any) -> None:
    zero = np.float32(0)
    n = stop - start
    skip = 4 * start
    for i in range(0, addresses.size, 4):
        a0 = carray(at_address(addresses[i] + skip, types.float32), n)
        a1 = carray(at_address(addresses[i + 1] + skip, types.float32), n)
        a2 = carray(at_address(addresses[i + 2] + skip, types.float32), n)
        a3 = carray(at_address(addresses[i + 3] + skip, types.float32), n)
        for j in range(0, i + 1, 4):
            b0 = carray(at_address(addresses[j] + skip, types.float32), n)
            b1 = carray(at_address(addresses[j + 1] + skip, types.float32), n)
            b2 = carray(at_address(addresses[j + 2] + skip, types.float32), n)
            b3 = carray(at_address(addresses[j + 3] + skip, types.float32), n)
            c00 = c01 = c02 = c03 = c10 = c11 = c12 = c13 = zero
            c20 = c21 = c22 = c23 = c30 = c31 = c32 = c33 = zero
            for k in range(n):
                p0, p1, p2, p3 = a0[k], a1[k], a2[k], a3[k]
                q0, q1, q2, q3 = b0[k], b1[k], b2[k], b3[k]
                c00, c01, c02, c03 = c00 + p0 * q0, c01 + p0 * q1, c02 + p0 * q2, c03 + p0 * q3
                c10, c11, c12, c13 = c10 + p1 * q0, c11 + p1 * q1, c12 + p1 * q2, c13 + p1 * q3
                c20, c21, c22, c23 = c20 + p2 * q0, c21 + p2 * q1, c22 + p2 * q2, c23 + p2 * q3
                c30, c31, c32, c33 = c30 + p3 * q0, c31 + p3 * q1, c32 + p3 * q2, c33 + p3 * q3
            rows = (c00, c01, c02, c03), (c10, c11, c12, c13), (c20, c21, c22, c23), (c30, c31, c32, c33)
            for r in range(4):
                for s in range(4):
                    out[i + r, j + s] += np.float64(rows[r][s])


_compiled = njit(
    types.void(types.Array(types.int64, 1, "C"), types.int64, types.int64, types.Array(types.float64, 2, "C")),
    nogil=True,
    fastmath={"reassoc", "contract", "nsz"},
    error_model="numpy",
)(_add_products)


def add_products(blocks: Sequence[Block], length: int, out: npt.NDArray[np.float64]) -> None:
    """`out[i, j] += x_i · x_j` for i ≥ j.

    Args:
        blocks: each (n,), rounded to float32 here where it is something else.
        length: elements that are added up in float32, at most; sums of them are added in float64.
        out: float64, (rows, rows), rows ≥ len(blocks) a multiple of four. Some pairs above the diagonal are added, too.
    """
    n = len(blocks[0])
    ready = [_readable(block) for block in blocks]
    ready += [np.zeros(n, _SINGLE)] * (len(out) - len(ready))
    addresses = np.array([block.__array_interface__["data"][0] for block in ready], np.int64)
    for start in range(0, n, length):
        _compiled(addresses, start, min(start + length, n), out)


def _readable(block: Block) -> Block:
    flags = block.flags
    return block if block.dtype == _SINGLE and flags.c_contiguous and flags.aligned else block.astype(_SINGLE)
