"""The inner loops compiled by numba: a group of four updates in one pass over memory. Same bits as `kernels`.

LLVM may contract a product and a sum into a fused multiply-add only under `fastmath`, which is off; the tests
compare bits. Compiled are eight loops for float32 and float64 each, when first used, and kept in numba's cache on
disk; other dtypes are widened first. Not imported unless numba is wanted: importing it takes a second.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numba import types

from hanse.aggregation.rounding import BFLOAT16, Block, Wide, bfloat16_to_float32

_SINGLE, _DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
_LARGEST = float(np.finfo(np.float64).max)


def _fold1(acc: Any, x: Any, w: Any) -> None:
    for i in range(acc.size):
        acc[i] = np.float64(x[i]) * w


def _add1(acc: Any, x: Any, w: Any) -> None:
    for i in range(acc.size):
        acc[i] = acc[i] + np.float64(x[i]) * w


def _fold4(acc: Any, a: Any, b: Any, c: Any, d: Any, wa: Any, wb: Any, wc: Any, wd: Any) -> None:
    for i in range(acc.size):
        total = np.float64(a[i]) * wa + np.float64(b[i]) * wb
        total = total + np.float64(c[i]) * wc
        acc[i] = total + np.float64(d[i]) * wd


def _join4(acc: Any, a: Any, b: Any, c: Any, d: Any, wa: Any, wb: Any, wc: Any, wd: Any) -> None:
    for i in range(acc.size):
        total = np.float64(a[i]) * wa + np.float64(b[i]) * wb
        total = total + np.float64(c[i]) * wc
        acc[i] = acc[i] + (total + np.float64(d[i]) * wd)


def _divide(acc: Any, total: Any, out: Any) -> Any:
    """Divide, round to out's dtype; True if all is finite."""
    bad = 0
    for i in range(acc.size):
        value = acc[i] / total
        bad |= not (abs(value) <= _LARGEST)
        out[i] = value
    return bad == 0


class _Loops:
    """The loops for one input dtype, compiled now or loaded from numba's cache."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        real, number = numba.from_dtype(dtype), types.float64
        block = types.Array(real, 1, "C", readonly=True)
        acc = types.Array(number, 1, "C")
        self.fold1 = _compile(_fold1, types.void(acc, block, number))
        self.add1 = _compile(_add1, types.void(acc, block, number))
        four = types.void(acc, *[block] * 4, *[number] * 4)
        self.fold4 = _compile(_fold4, four)
        self.join4 = _compile(_join4, four)
        self.divide = _compile(_divide, types.boolean(acc, number, types.Array(real, 1, "C")))


def _compile(loop: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    compiled: Callable[..., Any] = numba.njit(signature, cache=True, nogil=True, fastmath=False, error_model="numpy")(
        loop
    )
    return compiled


class NumbaKernel:
    """See `kernels.Kernel`. One for the whole process; threads may share it."""

    name = "numba"
    block_elements = 1 << 17

    def __init__(self) -> None:
        self._loops: dict[np.dtype[Any], _Loops] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def fold(self, acc: Wide, blocks: Sequence[Block], weights: Sequence[float], *, fresh: bool) -> None:
        """See `Kernel.fold`."""
        ready = [_readable(block) for block in blocks]
        loops = self._for(ready[0].dtype)
        if fresh and len(ready) == 4:
            loops.fold4(acc, *ready, *weights)
            return
        for block, weight in zip(ready, weights, strict=True):
            (loops.fold1 if fresh else loops.add1)(acc, block, weight)
            fresh = False

    def join(self, acc: Wide, blocks: Sequence[Block], weights: Sequence[float]) -> None:
        """See `Kernel.join`."""
        if len(blocks) == 4:
            ready = [_readable(block) for block in blocks]
            self._for(ready[0].dtype).join4(acc, *ready, *weights)
        elif len(blocks) == 1:
            self.fold(acc, blocks, weights, fresh=False)
        else:
            group = self._scratch(len(acc))
            self.fold(group, blocks, weights, fresh=True)
            np.add(acc, group, out=acc)

    def divide(self, acc: Wide, total: float, out: Block) -> bool:
        """See `Kernel.divide`."""
        finite: bool = self._for(out.dtype).divide(acc, total, out)
        return finite

    def _for(self, dtype: np.dtype[Any]) -> _Loops:
        loops = self._loops.get(dtype)
        if loops is None:
            with self._lock:
                loops = self._loops.get(dtype) or self._loops.setdefault(dtype, _Loops(dtype))
        return loops

    def _scratch(self, n: int) -> Wide:
        scratch: Wide | None = getattr(self._local, "scratch", None)
        if scratch is None or len(scratch) < n:
            scratch = self._local.scratch = np.empty(n)
        return scratch[:n]


def _readable(block: Block) -> Block:
    """A block as the loops take it: float32 or float64, aligned, without gaps."""
    if block.dtype == BFLOAT16:
        return bfloat16_to_float32(block)
    if block.dtype not in (_SINGLE, _DOUBLE):
        return block.astype(_SINGLE if block.dtype.kind == "f" else _DOUBLE)
    flags = block.flags
    return block if flags.c_contiguous and flags.aligned else block.copy()
