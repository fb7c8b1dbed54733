"""The inner loop of `growing.histograms`, compiled by numba: one pass over the rows, node by node. The same whole
numbers.

Not imported unless it pays: loading numba takes a second. Compiled for uint16 bins, when first used, and kept in
numba's cache on disk.
"""

from typing import Any

import numpy as np

from hanse.core.arrays import Array
from hanse.core.njit import njit


@njit(nogil=True)
def _add(bins: Any, rows: Any, place: Any, g: Any, h: Any, out: Any) -> None:
    for at in range(rows.shape[0]):
        row = rows[at]
        mine = out[place[row]]
        first, second = g[row], h[row]
        for feature in range(bins.shape[1]):
            cell = bins[row, feature]
            mine[feature, cell, 0] += first
            mine[feature, cell, 1] += second
            mine[feature, cell, 2] += 1


def add_rows(bins: Array, rows: Array, place: Array, g: Array, h: Array, out: Array) -> None:
    """Add Σ g, Σ h and the number of `rows` to `out`; see `growing.histograms`."""
    in_order = rows[np.argsort(place[rows].astype(np.uint16), kind="stable")]  # node by node: its cells stay in cache
    _add(np.ascontiguousarray(bins.T), in_order, place, g, h, out)
