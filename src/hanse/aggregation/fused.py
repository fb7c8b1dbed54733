"""The inner loops compiled by numba: a group of four updates in one pass over memory. Same bits as `kernels`.

LLVM may contract a product and a sum into a fused multiply-add only under `fastmath`, which is off; the tests
compare bits. Compiled are five loops for float32 and float64 each, and four for int8 with scales, when first used, and
kept in numba's cache on disk; other dtypes are widened first. Not imported unless numba is wanted: importing it takes a
second.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
from numba import types

from hanse.aggregation.int8 import Coded, Int8Block
from hanse.aggregation.rounding import BFLOAT16, Block, Wide, bfloat16_to_float32
from hanse.core.njit import njit

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


def _int8_fold1(acc: Any, x: Any, s: Any, first: Any, size: Any, w: Any) -> None:
    start, stop, b = 0, min(size - first, acc.size), 0
    while start < acc.size:
        out, levels, scale = acc[start:stop], x[start:stop], s[b]
        for i in range(out.size):
            out[i] = np.float64(np.float32(levels[i]) * scale) * w
        start, stop, b = stop, min(stop + size, acc.size), b + 1


def _int8_add1(acc: Any, x: Any, s: Any, first: Any, size: Any, w: Any) -> None:
    start, stop, b = 0, min(size - first, acc.size), 0
    while start < acc.size:
        out, levels, scale = acc[start:stop], x[start:stop], s[b]
        for i in range(out.size):
            out[i] = out[i] + np.float64(np.float32(levels[i]) * scale) * w
        start, stop, b = stop, min(stop + size, acc.size), b + 1


def _int8_fold4(
    acc: Any, p: Any, q: Any, r: Any, t: Any, sp: Any, sq: Any, sr: Any, st: Any, first: Any, size: Any,
    wp: Any, wq: Any, wr: Any, wt: Any,
) -> None:  # fmt: skip
    start, stop, b = 0, min(size - first, acc.size), 0
    while start < acc.size:
        out, lp, lq, lr, lt = acc[start:stop], p[start:stop], q[start:stop], r[start:stop], t[start:stop]
        a, c, d, e = sp[b], sq[b], sr[b], st[b]
        for i in range(out.size):
            total = np.float64(np.float32(lp[i]) * a) * wp + np.float64(np.float32(lq[i]) * c) * wq
            total = total + np.float64(np.float32(lr[i]) * d) * wr
            out[i] = total + np.float64(np.float32(lt[i]) * e) * wt
        start, stop, b = stop, min(stop + size, acc.size), b + 1


def _int8_join4(
    acc: Any, p: Any, q: Any, r: Any, t: Any, sp: Any, sq: Any, sr: Any, st: Any, first: Any, size: Any,
    wp: Any, wq: Any, wr: Any, wt: Any,
) -> None:  # fmt: skip
    start, stop, b = 0, min(size - first, acc.size), 0
    while start < acc.size:
        out, lp, lq, lr, lt = acc[start:stop], p[start:stop], q[start:stop], r[start:stop], t[start:stop]
        a, c, d, e = sp[b], sq[b], sr[b], st[b]
        for i in range(out.size):
            total = np.float64(np.float32(lp[i]) * a) * wp + np.float64(np.float32(lq[i]) * c) * wq
            total = total + np.float64(np.float32(lr[i]) * d) * wr
            out[i] = out[i] + (total + np.float64(np.float32(lt[i]) * e) * wt)
        start, stop, b = stop, min(stop + size, acc.size), b + 1


class _Int8Loops:
    """The loops for compressed blocks with scales of one dtype; `Int8Block.decode` says what they compute."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        number, whole = types.float64, types.int64
        acc = types.Array(number, 1, "C")
        levels = types.Array(types.int8, 1, "C", readonly=True)
        scales = types.Array(numba.from_dtype(dtype), 1, "C", readonly=True)
        one = types.void(acc, levels, scales, whole, whole, number)
        four = types.void(acc, *[levels] * 4, *[scales] * 4, whole, whole, *[number] * 4)
        self.fold1, self.add1 = _compile(_int8_fold1, one), _compile(_int8_add1, one)
        self.fold4, self.join4 = _compile(_int8_fold4, four), _compile(_int8_join4, four)


def _int8_arguments(blocks: Sequence[Any]) -> tuple[Any, ...]:
    """Levels, scales, place within a scale's block and its size; all blocks are of one range, so the last two agree."""
    levels = [_whole(block.levels) for block in blocks]
    return *levels, *(_whole(block.scales) for block in blocks), blocks[0].first, blocks[0].block


def _whole(array: Block) -> Block:
    """Aligned, without gaps."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy()


def _compile(loop: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    compiled: Callable[..., Any] = njit(signature, nogil=True, fastmath=False, error_model="numpy")(loop)
    return compiled


class NumbaKernel:
    """See `kernels.Kernel`. One for the whole process; threads may share it."""

    name = "numba"
    block_elements = 1 << 17

    def __init__(self) -> None:
        self._loops: dict[np.dtype[Any], _Loops] = {}
        self._int8_loops: dict[np.dtype[Any], _Int8Loops] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def fold(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float], *, fresh: bool) -> None:
        """See `Kernel.fold`."""
        if isinstance(blocks[0], Int8Block):
            self._fold_int8(acc, blocks, weights, fresh)
            return
        ready = [_readable(block) for block in blocks]
        loops = self._for(ready[0].dtype)
        if fresh and len(ready) == 4:
            loops.fold4(acc, *ready, *weights)
            return
        for block, weight in zip(ready, weights, strict=True):
            (loops.fold1 if fresh else loops.add1)(acc, block, weight)
            fresh = False

    def fold_one(self, acc: Wide, block: Block, weight: float, *, fresh: bool) -> None:
        """See `Kernel.fold_one`."""
        ready = _readable(block)
        loops = self._for(ready.dtype)
        (loops.fold1 if fresh else loops.add1)(acc, ready, weight)

    def join(self, acc: Wide, blocks: Sequence[Coded], weights: Sequence[float]) -> None:
        """See `Kernel.join`."""
        if len(blocks) == 4 and isinstance(blocks[0], Int8Block):
            self._int8_for(blocks).join4(acc, *_int8_arguments(blocks), *weights)
        elif len(blocks) == 4:
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

    def _fold_int8(self, acc: Wide, blocks: Sequence[Any], weights: Sequence[float], fresh: bool) -> None:
        loops = self._int8_for(blocks)
        if fresh and len(blocks) == 4:
            loops.fold4(acc, *_int8_arguments(blocks), *weights)
            return
        for block, weight in zip(blocks, weights, strict=True):
            (loops.fold1 if fresh else loops.add1)(acc, *_int8_arguments([block]), weight)
            fresh = False

    def _int8_for(self, blocks: Sequence[Any]) -> "_Int8Loops":
        dtype = blocks[0].scales.dtype
        loops = self._int8_loops.get(dtype)
        if loops is None:
            with self._lock:
                loops = self._int8_loops.get(dtype) or self._int8_loops.setdefault(dtype, _Int8Loops(dtype))
        return loops

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


def _readable(block: Any) -> Any:
    """A block as the loops take it: float32 or float64, aligned, without gaps."""
    if block.dtype == BFLOAT16:
        return bfloat16_to_float32(block)
    if block.dtype not in (_SINGLE, _DOUBLE):
        return block.astype(_SINGLE if block.dtype.kind == "f" else _DOUBLE)
    return _whole(block)
