"""The mean of some middle values of every column: what the median and the trimmed mean are. In numpy here, by a sorting
network in `fused_sorting`; the same bits by construction.

Sorting has one result whatever the way, once −0.0 is 0.0. What is added then is added in ascending order, in float64.
"""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np

from hanse.aggregation.kernels import KernelName, Patience, numba_installed
from hanse.aggregation.rounding import Block, Wide, all_finite
from hanse.aggregation.windows import Window, average, comparable
from hanse.core.errors import MissingExtraError

PATIENCE_BYTES = 1 << 30
"""Updates sorted by a process before `auto` loads numba. Loading costs some 4 s of CPU and saves a second a GiB."""

MAX_FUSED_ROWS = 256
"""Above it a stripe of all rows no longer fits a core's own cache, and numpy's sort is not slower."""
SORT_BYTES = 8 << 20
"""Bytes of the matrix that numpy sorts at a time, about."""


class Sorter(Protocol):
    """Sorts columns. Threads may share one."""

    name: str

    def block_elements(self, num: int) -> int:
        """Elements of one block of each of `num` updates at which it is fastest."""
        ...

    def mean_of(self, blocks: Sequence[Block], window: Window, out: Wide) -> bool:
        """Write the window's mean of every column.

        Args:
            blocks: each (n,), of floats or integers; are not changed.
            out: float64, (n,).

        Returns:
            Whether it is done; False where a value is not finite, or a sum of some is not: `out` is of no use then.
        """
        ...


class NumpySorter:
    """numpy's sort along the columns of one matrix, whose memory is kept per thread."""

    name = "numpy"

    def __init__(self) -> None:
        self._local = threading.local()

    def block_elements(self, num: int) -> int:
        """See `Sorter.block_elements`."""
        return max(256, SORT_BYTES // (8 * num))

    def mean_of(self, blocks: Sequence[Block], window: Window, out: Wide) -> bool:
        """See `Sorter.mean_of`."""
        ready = comparable(blocks)
        rows = self._matrix(len(ready), len(out), ready[0].dtype)
        for row, block in zip(rows, ready, strict=True):
            np.add(block, 0.0, out=row)  # −0.0 becomes 0.0
            if not all_finite(row):
                return False
        rows.sort(axis=0)
        average(rows, window, out)
        return True

    def _matrix(self, num: int, n: int, dtype: np.dtype[Any]) -> Any:
        held: Any = getattr(self._local, "held", None)
        size = num * n * dtype.itemsize
        if held is None or len(held) < size:
            held = self._local.held = np.empty(size, np.uint8)
        return held[:size].view(dtype).reshape(num, n)


def pick_sorter(name: KernelName, num: int, num_bytes: int) -> Sorter:
    """The sorter called `name`: `numpy`, `numba`, or `auto` for numba where it is installed and pays.

    Args:
        num: updates that are to be sorted; of very many, numpy is as fast.
        num_bytes: of all of them together.

    Raises:
        MissingExtraError: numba was asked for by name and is not installed.
    """
    if name not in ("auto", "numpy", "numba"):
        raise ValueError(f"expected kernel auto, numpy or numba, found {name!r}")
    if name == "numba" and not numba_installed():
        raise MissingExtraError("numba", "fast")
    if name == "auto":
        name = "numba" if _patience.ends(num_bytes) and numba_installed() else "numpy"
    return _sorter("numba" if name == "numba" and num <= MAX_FUSED_ROWS else "numpy")


_patience = Patience(PATIENCE_BYTES)


@cache
def _sorter(name: str) -> Sorter:
    if name == "numpy":
        return NumpySorter()
    from hanse.aggregation.fused_sorting import NumbaSorter  # heavy and optional

    return NumbaSorter()
