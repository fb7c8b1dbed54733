"""Sorting the rows of a block by a network, compiled by numba. Same bits as `sorting.NumpySorter`.

A chunk of every update's block is read and sorted eight rows at a time on the way; then narrow stripes of it are sorted
while they are in a core's own cache. A comparator is a minimum and a maximum of two rows, many columns an instruction.
Updates are read where they lie, by address: numba compiles for a type, and a tuple of fifty arrays is another type than
one of fifty-one.

Not imported unless numba is wanted: importing it takes a second.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import carray, types  # type: ignore[attr-defined]  # carray is public, but not in numba's __all__
from numba.extending import intrinsic

from hanse.aggregation.networks import PAIR, SORT, steps
from hanse.aggregation.rounding import Block, Wide, is_float
from hanse.aggregation.windows import Window, comparable
from hanse.core.njit import njit

CHUNK = 2048
"""Columns read at a time."""
PAD = 16
"""Columns between rows, so that rows of one stripe do not fight for the same cache sets."""
BYTES = 4096
"""Of one row of a stripe."""


def _point(typing_context: Any, address: Any, kind: Any) -> Any:
    """An address as a pointer to values of `kind`."""
    pointer = types.CPointer(kind.dtype)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, kind), generate


at_address: Any = intrinsic(_point)


@njit(error_model="numpy")
def _ordered(x: Any, y: Any) -> Any:
    return (x if x < y else y), (y if x < y else x)


def _sort8(
    r: Any, s: Any, t: Any, u: Any, v: Any, w: Any, x: Any, y: Any,
    check: Any, zero: Any,
    to_r: Any, to_s: Any, to_t: Any, to_u: Any, to_v: Any, to_w: Any, to_x: Any, to_y: Any,
) -> None:  # fmt: skip
    for k in range(r.size):
        a, b, c, d = r[k] + zero, s[k] + zero, t[k] + zero, u[k] + zero  # −0.0 becomes 0.0
        e, f, g, h = v[k] + zero, w[k] + zero, x[k] + zero, y[k] + zero
        check[k] = check[k] + zero * (((a + b) + (c + d)) + ((e + f) + (g + h)))
        a, b = _ordered(a, b)
        c, d = _ordered(c, d)
        e, f = _ordered(e, f)
        g, h = _ordered(g, h)
        a, c = _ordered(a, c)
        b, d = _ordered(b, d)
        e, g = _ordered(e, g)
        f, h = _ordered(f, h)
        b, c = _ordered(b, c)
        f, g = _ordered(f, g)
        a, e = _ordered(a, e)
        b, f = _ordered(b, f)
        c, g = _ordered(c, g)
        d, h = _ordered(d, h)
        c, e = _ordered(c, e)
        d, f = _ordered(d, f)
        b, c = _ordered(b, c)
        d, e = _ordered(d, e)
        f, g = _ordered(f, g)
        to_r[k], to_s[k], to_t[k], to_u[k] = a, b, c, d
        to_v[k], to_w[k], to_x[k], to_y[k] = e, f, g, h


def _copy(source: Any, check: Any, zero: Any, to: Any) -> None:
    for k in range(source.size):
        value = source[k] + zero
        check[k] = check[k] + zero * value
        to[k] = value


def _merge4(a: Any, b: Any, c: Any, d: Any) -> None:
    for k in range(a.size):
        r, s, t, u = a[k], b[k], c[k], d[k]
        r, t = _ordered(r, t)
        s, u = _ordered(s, u)
        s, t = _ordered(s, t)
        a[k], b[k], c[k], d[k] = r, s, t, u


def _pair(a: Any, b: Any) -> None:
    for k in range(a.size):
        a[k], b[k] = _ordered(a[k], b[k])


_sort8, _copy, _merge4, _pair = (njit(error_model="numpy")(each) for each in (_sort8, _copy, _merge4, _pair))


def _make(real: Any) -> Any:
    """The kernel for one dtype."""
    size = np.dtype(real).itemsize
    stripe, stride, zero = BYTES // size, (CHUNK + PAD) * size, real(0)

    def mean_of(
        addresses: Any, num: Any, program: Any, scratch: Any, low: Any, high: Any, scale: Any, divisor: Any, out: Any
    ) -> Any:
        rows, eights = addresses.size, addresses.size // SORT
        check = carray(
            at_address(scratch + stride * rows, real), CHUNK
        )  # 0 · Σ x of every column: NaN if one is not finite
        check[:] = zero
        for first in range(0, num, CHUNK):
            width, at = min(CHUNK, num - first), size * first
            for eight in range(eights):
                source, to = addresses[SORT * eight :], scratch + stride * SORT * eight
                _sort8(
                    carray(at_address(source[0] + at, real), width),
                    carray(at_address(source[1] + at, real), width),
                    carray(at_address(source[2] + at, real), width),
                    carray(at_address(source[3] + at, real), width),
                    carray(at_address(source[4] + at, real), width),
                    carray(at_address(source[5] + at, real), width),
                    carray(at_address(source[6] + at, real), width),
                    carray(at_address(source[7] + at, real), width),
                    check,
                    zero,
                    carray(at_address(to, real), width),
                    carray(at_address(to + stride, real), width),
                    carray(at_address(to + stride * 2, real), width),
                    carray(at_address(to + stride * 3, real), width),
                    carray(at_address(to + stride * 4, real), width),
                    carray(at_address(to + stride * 5, real), width),
                    carray(at_address(to + stride * 6, real), width),
                    carray(at_address(to + stride * 7, real), width),
                )
            for row in range(SORT * eights, rows):
                source = carray(at_address(addresses[row] + at, real), width)
                _copy(source, check, zero, carray(at_address(scratch + stride * row, real), width))
            for start in range(0, width, stripe):
                here = scratch + size * start
                for step in range(eights, program.shape[0]):
                    a = carray(at_address(here + stride * program[step, 1], real), stripe)
                    b = carray(at_address(here + stride * program[step, 2], real), stripe)
                    if program[step, 0] == PAIR:
                        _pair(a, b)
                    else:
                        c = carray(at_address(here + stride * program[step, 3], real), stripe)
                        d = carray(at_address(here + stride * program[step, 4], real), stripe)
                        _merge4(a, b, c, d)
                total = out[first + start : first + min(start + stripe, width)]
                for row in range(low, high):
                    values = carray(at_address(here + stride * row, real), stripe)
                    for k in range(total.size):
                        value = np.float64(values[k]) * scale
                        total[k] = value if row == low else total[k] + value
                for k in range(total.size):
                    total[k] = total[k] / divisor
        found = 0
        for k in range(CHUNK):
            found += check[k] != zero
        return found == 0

    number, place = types.float64, types.int64
    signature = types.boolean(
        types.Array(place, 1, "C"), place, types.Array(place, 2, "C", readonly=True), place, place, place,
        number, number, types.Array(number, 1, "C"),
    )  # fmt: skip
    return njit(signature, nogil=True, error_model="numpy")(mean_of)


class NumbaSorter:
    """See `sorting.Sorter`. One for the whole process; threads may share it."""

    name = "numba"

    def __init__(self) -> None:
        self._kernels: dict[np.dtype[Any], Any] = {}
        self._lock = threading.Lock()
        self._local = threading.local()

    def block_elements(self, num: int) -> int:
        """See `sorting.Sorter.block_elements`: reading each update's block costs microseconds, and no memory here."""
        return 1 << 17

    def mean_of(self, blocks: Sequence[Block], window: Window, out: Wide) -> bool:
        """See `sorting.Sorter.mean_of`."""
        ready = [_whole(block) for block in comparable(blocks)]
        dtype, num = ready[0].dtype, len(ready)
        kernel, scratch = self._for(dtype), self._scratch((num + 1) * (CHUNK + PAD) * dtype.itemsize)
        addresses = np.array([block.__array_interface__["data"][0] for block in ready], np.int64)
        program = steps(num, window.low, window.high)
        finite: bool = kernel(
            addresses, len(out), program, scratch, window.low, window.high, window.scale, window.divisor, out
        )
        return finite

    def _for(self, dtype: np.dtype[Any]) -> Any:
        kernel = self._kernels.get(dtype)
        if kernel is None:
            with self._lock:
                real = np.float32 if dtype == np.float32 else np.float64
                kernel = self._kernels.get(dtype) or self._kernels.setdefault(dtype, _make(real))
        return kernel

    def _scratch(self, size: int) -> int:
        """The address of that many bytes of this thread's, at a cache line."""
        held: Any = getattr(self._local, "held", None)
        if held is None or len(held) < size + 64:
            held = self._local.held = np.zeros(size + 64, np.uint8)
        address: int = held.__array_interface__["data"][0]
        return address + -address % 64


def _whole(block: Block) -> Block:
    assert is_float(block.dtype)
    flags = block.flags
    return block if flags.c_contiguous and flags.aligned else block.copy()
