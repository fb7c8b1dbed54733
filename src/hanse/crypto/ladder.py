"""X25519 of many points under one secret, eight at a time: the ladder of RFC 7748 on AVX-512 IFMA, through numba.

A. Langley, M. Hamburg, S. Turner, RFC 7748 (2016), section 5; P. Montgomery, Mathematics of Computation 48, 1987.
Numbers modulo p = 2^255 − 19 are five limbs of 51 bits (D. Bernstein, "Curve25519", PKC 2006), each limb of eight
points one vector. The instruction adds the low or the high 52 bits of eight products of limbs to eight sums; a high
half counts twice, as 2^52 = 2 · 2^51.

**Bounds.** What is multiplied has limbs below 2^52, which is what the instruction reads. A product's columns are at
most 5 · 2^52 + 2 · 5 · 2^50.1, folded (· 19) below 2^60, and one pass of carries leaves limbs below 2^51 + 2^14. Of
such numbers, sums and differences (plus 4p, so that no limb is negative) are below 2^54, and a pass of carries leaves
them below 2^51 + 2^8.

**Constant time** in the secret: no branch and no address depends on it; swaps are masks. Compiled for each version of
this file once; not imported unless it pays. Some three times as fast as `cryptography` point by point.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic

from hanse.core.njit import njit
from hanse.crypto.montgomery import LANES, in_threads

LIMBS, LIMB_BITS = 5, 51
_A24 = 121665
_MASK = (1 << LIMB_BITS) - 1
_FOUR_P = (4 * (_MASK - 18), *(4 * _MASK,) * 4)
_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, LANES)
_BYTES = 64
_NUMBER = LIMBS * _BYTES
intrinsic: Any = _intrinsic


class _Field:
    """Writes code for numbers in five vectors."""

    def __init__(self, builder: Any) -> None:
        self.b = builder

    def constant(self, value: int) -> Any:
        return ir.Constant(_VECTOR, [value] * LANES)

    def address(self, start: Any, offset: int) -> Any:
        moved = self.b.add(start, ir.Constant(start.type, offset))
        return self.b.inttoptr(moved, _VECTOR.as_pointer())

    def load(self, start: Any, place: int = 0) -> list[Any]:
        at = place * _NUMBER
        return [self.b.load(self.address(start, at + limb * _BYTES), align=8) for limb in range(LIMBS)]

    def store(self, number: list[Any], start: Any, place: int = 0) -> None:
        for limb, value in enumerate(number):
            self.b.store(value, self.address(start, place * _NUMBER + limb * _BYTES), align=8)

    def multiply_add(self, half: str, total: Any, a: Any, c: Any) -> Any:
        kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
        name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
        module = self.b.module
        function = module.globals.get(name) or ir.Function(module, kind, name)
        return self.b.call(function, [total, a, c])

    def nineteen(self, value: Any) -> Any:
        b = self.b
        return b.add(b.add(value, b.shl(value, self.constant(1))), b.shl(value, self.constant(4)))

    def carried(self, limbs: list[Any]) -> list[Any]:
        """One pass of carries, all at once; the last goes round, times 19."""
        b, mask = self.b, self.constant(_MASK)
        over = [b.lshr(limb, self.constant(LIMB_BITS)) for limb in limbs]
        low = [b.and_(limb, mask) for limb in limbs]
        return [b.add(low[at], over[at - 1] if at else self.nineteen(over[-1])) for at in range(LIMBS)]

    def plus(self, x: list[Any], y: list[Any]) -> list[Any]:
        return self.carried([self.b.add(one, other) for one, other in zip(x, y, strict=True)])

    def minus(self, x: list[Any], y: list[Any]) -> list[Any]:
        b = self.b
        raised = (b.add(one, self.constant(each)) for one, each in zip(x, _FOUR_P, strict=True))
        return self.carried([b.sub(one, other) for one, other in zip(raised, y, strict=True)])

    def _folded(self, low: list[Any], high: list[Any]) -> list[Any]:
        """Columns k of low halves and of high ones, which belong to column k + 1 and count twice."""
        b = self.b
        columns = [*low, self.constant(0)]
        for at, each in enumerate(high):
            columns[at + 1] = b.add(columns[at + 1], b.shl(each, self.constant(1)))
        return self.carried([b.add(columns[at], self.nineteen(columns[at + LIMBS])) for at in range(LIMBS)])

    def times(self, x: list[Any], y: list[Any]) -> list[Any]:
        low, high = ([self.constant(0)] * (2 * LIMBS - 1) for _ in range(2))
        for i in range(LIMBS):
            for j in range(LIMBS):
                low[i + j] = self.multiply_add("l", low[i + j], x[i], y[j])
                high[i + j] = self.multiply_add("h", high[i + j], x[i], y[j])
        return self._folded(low, high)

    def square(self, x: list[Any]) -> list[Any]:
        b, sums = self.b, []
        for half in ("l", "h"):
            columns = [self.constant(0)] * (2 * LIMBS - 1)
            for i in range(LIMBS):
                for j in range(i + 1, LIMBS):
                    columns[i + j] = self.multiply_add(half, columns[i + j], x[i], x[j])
            columns = [b.shl(each, self.constant(1)) for each in columns]
            for i in range(LIMBS):
                columns[2 * i] = self.multiply_add(half, columns[2 * i], x[i], x[i])
            sums.append(columns)
        return self._folded(*sums)

    def times_a24(self, x: list[Any]) -> list[Any]:
        low, high = ([self.constant(0)] * (2 * LIMBS - 1) for _ in range(2))
        for i in range(LIMBS):
            low[i] = self.multiply_add("l", low[i], x[i], self.constant(_A24))
            high[i] = self.multiply_add("h", high[i], x[i], self.constant(_A24))
        return self._folded(low, high)

    def swapped(self, x: list[Any], y: list[Any], mask: Any) -> tuple[list[Any], list[Any]]:
        b = self.b
        changes = [b.and_(mask, b.xor(one, other)) for one, other in zip(x, y, strict=True)]
        first = [b.xor(one, change) for one, change in zip(x, changes, strict=True)]
        return first, [b.xor(other, change) for other, change in zip(y, changes, strict=True)]


def _in_all_lanes(builder: Any, word: Any) -> Any:
    blank = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(blank, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


@intrinsic
def _step(typing: Any, state: Any, point: Any, mask: Any) -> Any:
    """One bit of the ladder on (x2, z2, x3, z3), swapped before where the mask is ones."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        state, point, mask = arguments
        f, swap = _Field(builder), _in_all_lanes(builder, mask)
        x2, z2, x3, z3 = (f.load(state, place) for place in range(4))
        x2, x3 = f.swapped(x2, x3, swap)
        z2, z3 = f.swapped(z2, z3, swap)
        a, b = f.plus(x2, z2), f.minus(x2, z2)
        aa, bb = f.square(a), f.square(b)
        e = f.minus(aa, bb)
        da, cb = f.times(f.minus(x3, z3), a), f.times(f.plus(x3, z3), b)
        f.store(f.times(aa, bb), state, 0)
        f.store(f.times(e, f.plus(aa, f.times_a24(e))), state, 1)
        f.store(f.square(f.plus(da, cb)), state, 2)
        f.store(f.times(f.load(point), f.square(f.minus(da, cb))), state, 3)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uint64), generate


@intrinsic
def _swap(typing: Any, state: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        state, mask = arguments
        f, swap = _Field(builder), _in_all_lanes(builder, mask)
        for one, other in ((0, 2), (1, 3)):
            x, y = f.swapped(f.load(state, one), f.load(state, other), swap)
            f.store(x, state, one)
            f.store(y, state, other)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uint64), generate


@intrinsic
def _multiply(typing: Any, made: Any, x: Any, y: Any) -> Any:
    """made = x · y."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        f = _Field(builder)
        f.store(f.times(f.load(arguments[1]), f.load(arguments[2])), arguments[0])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), generate


@intrinsic
def _square(typing: Any, made: Any, x: Any) -> Any:
    """made = x²."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        f = _Field(builder)
        f.store(f.square(f.load(arguments[1])), arguments[0])
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp), generate


@njit(nogil=True, error_model="numpy")
def _invert(at_made: Any, at_x: Any, room: Any) -> None:
    """made = x^(p − 2), by 254 squares and eleven products (Bernstein 2006); 0 of 0. `room`: three numbers."""
    at_a, at_b, at_c = room.ctypes.data, room.ctypes.data + _NUMBER, room.ctypes.data + 2 * _NUMBER
    _square(at_a, at_x)  # 2
    _square(at_b, at_a)
    _square(at_b, at_b)  # 8
    _multiply(at_b, at_b, at_x)  # 9
    _multiply(at_a, at_b, at_a)  # 11
    _square(at_c, at_a)  # 22
    _multiply(at_b, at_c, at_b)  # 2^5 − 1
    _square(at_c, at_b)
    for _ in range(4):
        _square(at_c, at_c)
    _multiply(at_b, at_c, at_b)  # 2^10 − 1
    _square(at_c, at_b)
    for _ in range(9):
        _square(at_c, at_c)
    _multiply(at_c, at_c, at_b)  # 2^20 − 1
    _square(at_made, at_c)
    for _ in range(19):
        _square(at_made, at_made)
    _multiply(at_c, at_made, at_c)  # 2^40 − 1
    for _ in range(10):
        _square(at_c, at_c)
    _multiply(at_b, at_c, at_b)  # 2^50 − 1
    _square(at_c, at_b)
    for _ in range(49):
        _square(at_c, at_c)
    _multiply(at_c, at_c, at_b)  # 2^100 − 1
    _square(at_made, at_c)
    for _ in range(99):
        _square(at_made, at_made)
    _multiply(at_c, at_made, at_c)  # 2^200 − 1
    for _ in range(50):
        _square(at_c, at_c)
    _multiply(at_c, at_c, at_b)  # 2^250 − 1
    for _ in range(5):
        _square(at_c, at_c)
    _multiply(at_made, at_c, at_a)  # 2^255 − 21


@njit(nogil=True, error_model="numpy")
def _ladders(points: Any, bits: Any, made: Any) -> None:
    """made[n] = the u-coordinate of the scalar of `bits`, the highest first, times points[n].

    Args:
        points, made: uint64, `(n, 5)`; n is a multiple of 8.
        bits: uint64, of 0 and 1.
    """
    point = np.empty((LIMBS, LANES), np.uint64)
    state = np.empty((4, LIMBS, LANES), np.uint64)
    inverse = np.empty((LIMBS, LANES), np.uint64)
    room = np.empty((3, LIMBS, LANES), np.uint64)
    at_point, at_state = point.ctypes.data, state.ctypes.data
    for start in range(0, len(points), LANES):
        state[:] = 0
        for lane in range(LANES):
            for limb in range(LIMBS):
                point[limb, lane] = points[start + lane, limb]
                state[2, limb, lane] = points[start + lane, limb]
            state[0, 0, lane] = 1
            state[3, 0, lane] = 1
        before = np.uint64(0)
        for bit in bits:
            _step(at_state, at_point, np.uint64(0) - (before ^ bit))
            before = bit
        _swap(at_state, np.uint64(0) - before)
        _invert(inverse.ctypes.data, at_state + _NUMBER, room)
        _multiply(at_point, at_state, inverse.ctypes.data)
        for lane in range(LANES):
            for limb in range(LIMBS):
                made[start + lane, limb] = point[limb, lane]
    state[:] = 0
    room[:] = 0


def x25519(scalar: bytes, points: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """X25519 of every point, on as many threads as numba has.

    Args:
        scalar: 32 bytes, clamped here as RFC 7748 wants.
        points: `(n, 32)`, u-coordinates.

    Returns:
        uint8 `(n, 32)`; zeros of a point of low order.
    """
    bits = np.unpackbits(np.frombuffer(scalar, np.uint8), bitorder="little")
    bits[:3], bits[254], bits[255] = 0, 1, 0
    order = bits[254::-1].astype(np.uint64)
    limbs = _limbs(np.pad(points, ((0, -len(points) % LANES), (0, 0))))
    made = np.empty_like(limbs)
    in_threads(lambda part: _ladders(limbs[part], order, made[part]), len(limbs))
    bits[:], order[:] = 0, 0
    return _bytes(made)[: len(points)]


def _limbs(points: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """The highest bit of the 256 is not looked at."""
    words = np.ascontiguousarray(points).view("<u8")
    mask = np.uint64(_MASK)
    limbs = np.empty((len(points), LIMBS), np.uint64)
    for limb in range(LIMBS):
        word, shift = divmod(LIMB_BITS * limb, 64)
        limbs[:, limb] = words[:, word] >> np.uint64(shift)
        if shift + LIMB_BITS > 64 and word < 3:
            limbs[:, limb] |= words[:, word + 1] << np.uint64(64 - shift)
    limbs &= mask
    return limbs


def _bytes(limbs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """Numbers from 0 to p − 1, of limbs below 2^52."""
    bits, mask = np.uint64(LIMB_BITS), np.uint64(_MASK)
    limbs = limbs.copy()

    def carry() -> Any:
        for at in range(LIMBS - 1):
            limbs[:, at + 1] += limbs[:, at] >> bits
            limbs[:, at] &= mask
        over = limbs[:, -1] >> bits
        limbs[:, -1] &= mask
        return over

    limbs[:, 0] += np.uint64(19) * carry()
    limbs[:, 0] += np.uint64(19) * carry()
    beyond = (limbs[:, 0] + np.uint64(19)) >> bits  # whether 19 more reach 2^255, which is whether it is p or more
    for at in range(1, LIMBS):
        beyond = (limbs[:, at] + beyond) >> bits
    limbs[:, 0] += np.uint64(19) * beyond
    carry()
    words = np.empty((len(limbs), 4), "<u8")
    for word in range(4):
        first, shift = divmod(64 * word, LIMB_BITS)
        words[:, word] = limbs[:, first] >> np.uint64(shift) | limbs[:, first + 1] << np.uint64(LIMB_BITS - shift)
    return words.view(np.uint8)
