"""The inner loops, twice: numpy in blocks here, numba in `fused`; the same bits by construction.

Both compute, in float64, `x0*w0`, then `… + x1*w1` and so on: every product rounded, then every sum rounded. No
fused multiply-add anywhere (it would skip the product's rounding), no reassociation.
"""

import importlib.util
import threading
from collections.abc import Sequence
from functools import cache
from typing import Literal, Protocol

import numpy as np

from hanse.aggregation.int8 import Coded, Int8Block
from hanse.aggregation.rounding import Block, Wide, all_finite, widen_into
from hanse.core.errors import MissingExtraError

KernelName = Literal["auto", "numpy", "numba"]

PATIENCE_BYTES = 32 << 30
"""Updates folded by a process before `auto` loads numba. Loading costs some 2 s of CPU and saves 0.05 s a GiB: from
here on it would have paid, so that waiting never costs more than twice the best choice."""
SIDE_BY_SIDE = 1 << 15
"""Elements of a block from which on `side_by_side` is worth its slack of 2 MiB."""
_LARGE_PAGE = (2 << 20) // 8
_STAGGER = 264


def side_by_side(count: int, n: int) -> list[Wide]:
    """Uninitialised blocks of `n` float64 in one piece of memory.

    A piece of several megabytes is backed by large pages where the system offers them, which numpy asks for; and
    each block begins some lines further within its page than the one before, so that a pass over several of them
    does not fight for the same cache sets. Together worth 5 to 10 % of a pass.
    """
    stride = n + _STAGGER
    piece = np.empty(count * stride + _LARGE_PAGE)
    start = -(piece.ctypes.data // piece.itemsize) % _LARGE_PAGE
    return [piece[start + i * stride : start + i * stride + n] for i in range(count)]


class Kernel(Protocol):
    """Elementwise float64 work on blocks that fit in cache. Threads may share one."""

    name: str
    block_elements: int
    """The block size at which it is fastest."""

    def fold(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float], *, fresh: bool) -> None:
        """Fold blocks into `acc`, left to right.

        Args:
            acc: float64, (n,).
            blocks: each (n,), all of one dtype, or all compressed alike.
            weights: one for each block.
            fresh: `acc` holds nothing yet and is written instead of added to.
        """
        ...

    def fold_one(self, acc: Wide, block: Block, weight: float, *, fresh: bool) -> None:
        """`fold` of one block that is not compressed."""
        ...

    def join(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float]) -> None:
        """`acc = acc + g` where g is what `fold` makes of the (at most four) blocks afresh."""
        ...

    def divide(self, acc: Wide, total: float, out: Block) -> bool:
        """`out = acc / total`, rounded to float32 or float64; whether every value is finite. May overwrite `acc`."""
        ...


class NumpyKernel:
    """Three ufunc calls a block, scratch blocks kept per thread, no temporaries."""

    name = "numpy"
    block_elements = 1 << 17

    def __init__(self) -> None:
        self._local = threading.local()

    def fold(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float], *, fresh: bool) -> None:
        """See `Kernel.fold`."""
        if len(acc) > self.block_elements:  # a whole vector at once: piece by piece, so that scratch stays small
            for start in range(0, len(acc), self.block_elements):
                piece = slice(start, start + self.block_elements)
                self.fold(acc[piece], [_cut(block, piece) for block in blocks], weights, fresh=fresh)
            return
        for block, weight in zip(blocks, weights, strict=True):
            self.fold_one(acc, block.decode() if isinstance(block, Int8Block) else block, weight, fresh=fresh)
            fresh = False

    def fold_one(self, acc: Wide, block: Block, weight: float, *, fresh: bool) -> None:
        """See `Kernel.fold_one`."""
        if len(acc) > self.block_elements:
            self.fold(acc, (block,), (weight,), fresh=fresh)
            return
        target = acc if fresh else self._scratch(len(acc))[0]
        widen_into(target, block)
        if weight != 1.0:  # by which nothing changes
            np.multiply(target, weight, out=target)
        if not fresh:
            np.add(acc, target, out=acc)

    def join(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float]) -> None:
        """See `Kernel.join`."""
        if len(acc) > self.block_elements:
            for start in range(0, len(acc), self.block_elements):
                piece = slice(start, start + self.block_elements)
                self.join(acc[piece], [_cut(block, piece) for block in blocks], weights)
            return
        group = self._scratch(len(acc))[1]
        self.fold(group, blocks, weights, fresh=True)
        np.add(acc, group, out=acc)

    def divide(self, acc: Wide, total: float, out: Block) -> bool:
        """See `Kernel.divide`."""
        np.divide(acc, total, out=acc)
        np.copyto(out, acc, casting="same_kind")
        return all_finite(out)

    def _scratch(self, n: int) -> list[Wide]:
        """A block for a product and one for a group, of this thread."""
        held: list[Wide] = getattr(self._local, "blocks", [])
        if not held or len(held[0]) < n:
            held = self._local.blocks = side_by_side(2, n) if n >= SIDE_BY_SIDE else [np.empty(n), np.empty(n)]
        return held if len(held[0]) == n else [block[:n] for block in held]


def _cut(block: Coded, piece: slice) -> Coded:
    return block.cut(piece.start, piece.stop) if isinstance(block, Int8Block) else block[piece]


class AutoKernel:
    """numpy at first, numba once it pays: loading it takes a second or more and tens of megabytes.

    Args:
        patience_bytes: bytes of updates folded by numpy before numba is loaded, if it is installed.
    """

    name = "auto"
    block_elements = 1 << 17

    def __init__(self, patience_bytes: int = PATIENCE_BYTES) -> None:
        self._left = patience_bytes  # threads may lose a count to each other; it decides nothing but speed
        self._kernel = _numpy_kernel()

    @property
    def current(self) -> str:
        """The name of the kernel at work."""
        return self._kernel.name

    def fold(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float], *, fresh: bool) -> None:
        """See `Kernel.fold`."""
        if self._left > 0:
            self._count(blocks)
        self._kernel.fold(acc, blocks, weights, fresh=fresh)

    def fold_one(self, acc: Wide, block: Block, weight: float, *, fresh: bool) -> None:
        """See `Kernel.fold_one`."""
        if self._left > 0:
            self._left -= block.nbytes
            if self._left <= 0:
                self._change()
        self._kernel.fold_one(acc, block, weight, fresh=fresh)

    def join(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float]) -> None:
        """See `Kernel.join`."""
        if self._left > 0:
            self._count(blocks)
        self._kernel.join(acc, blocks, weights)

    def divide(self, acc: Wide, total: float, out: Block) -> bool:
        """See `Kernel.divide`."""
        return self._kernel.divide(acc, total, out)

    def _count(self, blocks: Sequence[Coded]) -> None:
        self._left -= len(blocks) * blocks[0].nbytes
        if self._left <= 0:
            self._change()

    def _change(self) -> None:
        if numba_installed():
            self._kernel = _numba_kernel()


def pick_kernel(name: KernelName = "auto") -> Kernel:
    """The kernel called `name`: `numpy`, `numba`, or `auto` for numba where it is installed and pays.

    Raises:
        MissingExtraError: numba was asked for by name and is not installed.
    """
    if name == "auto":
        return _auto_kernel()
    if name == "numpy":
        return _numpy_kernel()
    if name != "numba":
        raise ValueError(f"expected kernel auto, numpy or numba, found {name!r}")
    if not numba_installed():
        raise MissingExtraError("numba", "fast")
    return _numba_kernel()


class Patience:
    """How much a process worked on until now, to say when loading a compiled loop pays."""

    def __init__(self, num_bytes: int) -> None:
        self._left = num_bytes  # threads may lose a count to each other; it decides nothing but speed

    def ends(self, num_bytes: int) -> bool:
        """Count so much more; whether it is enough now."""
        self._left -= num_bytes
        return self._left <= 0


@cache
def numba_installed() -> bool:
    """Whether the extra `fast` is there."""
    return importlib.util.find_spec("numba") is not None


@cache
def _auto_kernel() -> Kernel:
    return AutoKernel()


@cache
def _numpy_kernel() -> Kernel:
    return NumpyKernel()


@cache
def _numba_kernel() -> Kernel:
    from hanse.aggregation.fused import NumbaKernel  # heavy and optional

    return NumbaKernel()
