"""Products modulo one odd number, eight at a time: Montgomery's multiplication on AVX-512 IFMA, through numba.

P. Montgomery, "Modular multiplication without trial division", Mathematics of Computation 44, 1985; S. Gueron, V.
Krasnov, "Accelerating big integer arithmetic using Intel IFMA extensions", IEEE ARITH 2016. Numbers are limbs of 52
bits; the instruction adds the low or the high half of eight products of limbs to eight sums of 64 bits, so that carries
wait until the end. A product of two numbers below 2m stays below 2m where R > 4m, and no subtraction is needed.

The eight lanes are eight tables that take the same number, each at a cell of its own: what histograms of many columns
are. Or they are eight powers of one base, which are products of entries of a table (`fixed_base`). Some three times as
fast as GMP one by one. Not for anything secret that is used twice: which cells are touched is seen in the time.

Not imported unless it pays: loading numba and compiling takes seconds, once for each version of this file.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

from hanse.core.arrays import Array
from hanse.core.njit import njit
from hanse.crypto.gmp import gmpy2_module

LIMB_BITS = 52
LANES = 8
_MASK = np.uint64((1 << LIMB_BITS) - 1)
_DEPTH = 4
"""Limbs of one factor that are taken at a time; so many zeros lie around the other."""
intrinsic: Any = _intrinsic
_WORD = ir.IntType(64)
_VECTOR = ir.VectorType(_WORD, LANES)
_VECTOR_BYTES, _WORD_BYTES = 64, 8


def _call(builder: Any, half: str, *operands: Any) -> Any:
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), operands)


def _at(builder: Any, address: Any, offset: int, kind: Any) -> Any:
    return builder.inttoptr(builder.add(address, ir.Constant(address.type, offset)), kind.as_pointer())


def _load(builder: Any, address: Any, place: int = 0) -> Any:
    return builder.load(_at(builder, address, place * _VECTOR_BYTES, _VECTOR), align=_WORD_BYTES)


def _store(builder: Any, value: Any, address: Any, place: int = 0) -> None:
    builder.store(value, _at(builder, address, place * _VECTOR_BYTES, _VECTOR), align=_WORD_BYTES)


def _in_all_lanes(builder: Any, word: Any) -> Any:
    blank = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(blank, word, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, blank, ir.Constant(ir.VectorType(ir.IntType(32), LANES), None))


def _adding(depth: int, *, lanes: bool = False) -> Any:
    """sums[k] += Σ_d low(a[d] · b[k − d]) + high(a[d] · b[k − d − 1]), d below `depth`; `b` points to b[k].

    b is one number for all lanes, or one for each.
    """

    @intrinsic
    def add(typing: Any, sums: Any, a: Any, b: Any) -> Any:
        def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            sums, a, b = arguments
            words = [
                _load(builder, b, -d)
                if lanes
                else _in_all_lanes(builder, builder.load(_at(builder, b, -d * _WORD_BYTES, _WORD), align=_WORD_BYTES))
                for d in range(depth + 1)
            ]
            low, high = _load(builder, sums), ir.Constant(_VECTOR, None)
            for d in range(depth):
                limb = _load(builder, a, d)
                low = _call(builder, "l", low, limb, words[d])
                high = _call(builder, "h", high, limb, words[d + 1])
            _store(builder, builder.add(low, high), sums)
            return context.get_dummy_value()

        return types.void(types.uintp, types.uintp, types.uintp), generate

    return add


_add_four, _add_one, _add_four_lanes = _adding(_DEPTH), _adding(1), _adding(_DEPTH, lanes=True)


@intrinsic
def _quotient(typing: Any, made: Any, sums: Any, inverse: Any) -> Any:
    """made = sums · inverse modulo 2^52."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        made, sums, inverse = arguments
        word = _in_all_lanes(builder, inverse)
        _store(builder, _call(builder, "l", ir.Constant(_VECTOR, None), _load(builder, sums), word), made)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uint64), generate


@intrinsic
def _carry(typing: Any, sums: Any) -> Any:
    """sums[1] += sums[0] / 2^52."""

    def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
        (sums,) = arguments
        carried = builder.lshr(_load(builder, sums), ir.Constant(_VECTOR, [LIMB_BITS] * LANES))
        _store(builder, builder.add(_load(builder, sums, 1), carried), sums, 1)
        return context.get_dummy_value()

    return types.void(types.uintp), generate


@njit(nogil=True, error_model="numpy")
def _reduce(sums: Any, quotients: Any, modulus: Any, inverse: Any, limbs: int) -> None:
    """Make the lower half of the sums 0 by adding multiples of the modulus; what is left is the upper half."""
    at_quotients, at_modulus = quotients.ctypes.data, modulus.ctypes.data + _WORD_BYTES * _DEPTH
    for i in range(0, limbs, _DEPTH):
        at_sums = sums.ctypes.data + _VECTOR_BYTES * i
        for d in range(_DEPTH):  # the quotients of four limbs, each of which needs the ones before
            at = at_sums + _VECTOR_BYTES * d
            _quotient(at_quotients + _VECTOR_BYTES * d, at, inverse)
            for j in range(_DEPTH - d):
                _add_one(at + _VECTOR_BYTES * j, at_quotients + _VECTOR_BYTES * d, at_modulus + _WORD_BYTES * j)
            _carry(at)
        for j in range(_DEPTH, limbs + _DEPTH):
            _add_four(at_sums + _VECTOR_BYTES * j, at_quotients, at_modulus + _WORD_BYTES * j)


@njit(nogil=True, error_model="numpy")
def _multiply_lanes(factor: Any, other: Any, sums: Any, quotients: Any, modulus: Any, inverse: Any, limbs: int) -> None:
    """factor *= other, in each of eight lanes; `other` has four limbs of zeros before and behind."""
    at_sums, at_factor = sums.ctypes.data, factor.ctypes.data
    at_other = other.ctypes.data + _VECTOR_BYTES * _DEPTH
    sums[:] = 0
    for i in range(0, limbs, _DEPTH):
        for j in range(limbs + _DEPTH):
            at = at_sums + _VECTOR_BYTES * (i + j)
            _add_four_lanes(at, at_factor + _VECTOR_BYTES * i, at_other + _VECTOR_BYTES * j)
    _reduce(sums, quotients, modulus, inverse, limbs)
    for lane in range(LANES):
        carried = np.uint64(0)
        for limb in range(limbs):
            carried += sums[limbs + limb, lane]
            factor[limb, lane] = carried & _MASK
            carried >>= np.uint64(LIMB_BITS)


@njit(nogil=True, error_model="numpy")
def multiply_shifted(fields: Any, bits: int, made: Any, modulus: Any, inverse: Any) -> None:
    """made[n] = ∏_i fields[n, i]^(2^(i · bits)), in Montgomery's form, by Horner's rule.

    Args:
        fields: uint64, `(n, any, num_limbs)`; n is a multiple of 8.
        made: uint64, `(n, num_limbs)`.
        modulus, inverse: see `multiply_into`.
    """
    limbs = fields.shape[2]
    sums = np.empty((2 * limbs + _DEPTH, LANES), np.uint64)
    factor = np.empty((limbs, LANES), np.uint64)
    quotients = np.empty((_DEPTH, LANES), np.uint64)
    other = np.zeros((limbs + 2 * _DEPTH, LANES), np.uint64)
    last = fields.shape[1] - 1
    for start in range(0, len(fields), LANES):
        for lane in range(LANES):
            for limb in range(limbs):
                factor[limb, lane] = fields[start + lane, last, limb]
        for field in range(last - 1, -1, -1):
            for _ in range(bits):
                for limb in range(limbs):
                    for lane in range(LANES):
                        other[_DEPTH + limb, lane] = factor[limb, lane]
                _multiply_lanes(factor, other, sums, quotients, modulus, inverse, limbs)
            for lane in range(LANES):
                for limb in range(limbs):
                    other[_DEPTH + limb, lane] = fields[start + lane, field, limb]
            _multiply_lanes(factor, other, sums, quotients, modulus, inverse, limbs)
        for lane in range(LANES):
            for limb in range(limbs):
                made[start + lane, limb] = factor[limb, lane]


@njit(nogil=True, error_model="numpy")
def multiply_chosen(tables: Any, digits: Any, made: Any, modulus: Any, inverse: Any) -> None:
    """made[n] = ∏_w tables[w, digits[n, w]], in Montgomery's form.

    Args:
        tables: uint64, `(num_windows, any, num_limbs)`.
        digits: int32, `(n, num_windows)`; n is a multiple of 8.
        made: uint64, `(n, num_limbs)`.
        modulus, inverse: see `multiply_into`.
    """
    limbs = tables.shape[2]
    sums = np.empty((2 * limbs + _DEPTH, LANES), np.uint64)
    factor = np.empty((limbs, LANES), np.uint64)
    quotients = np.empty((_DEPTH, LANES), np.uint64)
    other = np.zeros((limbs + 2 * _DEPTH, LANES), np.uint64)
    for start in range(0, len(digits), LANES):
        for lane in range(LANES):
            entry = tables[0, digits[start + lane, 0]]
            for limb in range(limbs):
                factor[limb, lane] = entry[limb]
        for window in range(1, len(tables)):
            for lane in range(LANES):
                entry = tables[window, digits[start + lane, window]]
                for limb in range(limbs):
                    other[_DEPTH + limb, lane] = entry[limb]
            _multiply_lanes(factor, other, sums, quotients, modulus, inverse, limbs)
        for lane in range(LANES):
            for limb in range(limbs):
                made[start + lane, limb] = factor[limb, lane]


@njit(nogil=True, error_model="numpy")
def multiply_into(tables: Any, cells: Any, numbers: Any, places: Any, modulus: Any, inverse: Any) -> None:
    """tables[lane, cells[lane, r]] *= numbers[places[r]], for every r in order, in Montgomery's form.

    Args:
        tables: uint64, `(8, num_cells, num_limbs)`; num_limbs is a multiple of 4.
        cells: int32, `(8, n)`.
        numbers: uint64, `(any, num_limbs)`.
        places: int64, `(n,)`.
        modulus: uint64, `(num_limbs + 8,)`: its limbs between four zeros and four zeros.
        inverse: uint64: −1 / modulus modulo 2^52.
    """
    limbs = tables.shape[2]
    sums = np.empty((2 * limbs + _DEPTH, LANES), np.uint64)
    factor = np.empty((limbs, LANES), np.uint64)
    quotients = np.empty((_DEPTH, LANES), np.uint64)
    other = np.zeros(limbs + 2 * _DEPTH, np.uint64)
    at_sums, at_factor = sums.ctypes.data, factor.ctypes.data
    at_other = other.ctypes.data + _WORD_BYTES * _DEPTH
    for row in range(len(places)):
        number = numbers[places[row]]
        for limb in range(limbs):
            other[_DEPTH + limb] = number[limb]
        for lane in range(LANES):
            mine = tables[lane, cells[lane, row]]
            for limb in range(limbs):
                factor[limb, lane] = mine[limb]
        sums[:] = 0
        for i in range(0, limbs, _DEPTH):
            for j in range(limbs + _DEPTH):
                _add_four(at_sums + _VECTOR_BYTES * (i + j), at_factor + _VECTOR_BYTES * i, at_other + _WORD_BYTES * j)
        _reduce(sums, quotients, modulus, inverse, limbs)
        for lane in range(LANES):
            mine = tables[lane, cells[lane, row]]
            carried = np.uint64(0)
            for limb in range(limbs):
                carried += sums[limbs + limb, lane]
                mine[limb] = carried & _MASK
                carried >>= np.uint64(LIMB_BITS)


class Montgomery:
    """Numbers modulo one in Montgomery's form, as limbs.

    Args:
        modulus: odd.
    """

    def __init__(self, modulus: int) -> None:
        self.num_limbs = -(-(modulus.bit_length() + 2) // (LIMB_BITS * _DEPTH)) * _DEPTH
        self._width = self.num_limbs * LIMB_BITS // 8
        r = 1 << self.num_limbs * LIMB_BITS
        mpz = gmpy2_module().mpz
        self._into, self._out, self._mpz = mpz(r % modulus), mpz(pow(r, -1, modulus)), mpz
        self._modulus = mpz(modulus)
        self._limbs = np.pad(self._split([modulus]).reshape(-1), _DEPTH)
        self._inverse = np.uint64(-pow(modulus, -1, 1 << LIMB_BITS) % (1 << LIMB_BITS))

    def read(self, numbers: list[Any]) -> Array:
        """Into Montgomery's form: uint64, `(n, num_limbs)`."""
        return self._split([each * self._into % self._modulus for each in numbers])

    def write(self, limbs: Array) -> list[Any]:
        """Back: `(n, num_limbs)` to mpz from 0 to modulus − 1."""
        pairs = limbs.reshape(len(limbs), -1, 2)
        content = np.empty((*pairs.shape[:2], 13), np.uint8)
        content[..., :8] = _bytes(pairs[..., 0] | pairs[..., 1] << np.uint64(LIMB_BITS))
        content[..., 8:] = _bytes(pairs[..., 1] >> np.uint64(64 - LIMB_BITS))[..., :5]
        raw = content.tobytes()
        return [
            self._mpz(int.from_bytes(raw[at : at + self._width], "little")) * self._out % self._modulus
            for at in range(0, len(raw), self._width)
        ]

    def tables(self, num_cells: int) -> Array:
        """Eight tables of ones: uint64, `(8, num_cells, num_limbs)`."""
        return np.tile(self.read([1]), (LANES, num_cells, 1))

    def multiply_into(self, tables: Array, cells: Array, numbers: Array, places: Array) -> None:
        """See the function of that name."""
        multiply_into(tables, cells, numbers, places, self._limbs, self._inverse)

    def multiply_chosen(self, tables: Array, digits: Array) -> Array:
        """See the function of that name; `digits` of any number of rows. uint64, `(n, num_limbs)`."""
        padded = np.pad(digits.astype(np.int32), ((0, -len(digits) % LANES), (0, 0)))
        made = np.empty((len(padded), self.num_limbs), np.uint64)
        in_threads(
            lambda part: multiply_chosen(tables, padded[part], made[part], self._limbs, self._inverse), len(padded)
        )
        return made[: len(digits)]

    def multiply_shifted(self, fields: Array, bits: int) -> Array:
        """See the function of that name; `fields` of any number of rows. uint64, `(n, num_limbs)`."""
        padded = np.pad(fields, ((0, -len(fields) % LANES), (0, 0), (0, 0)))
        made = np.empty((len(padded), self.num_limbs), np.uint64)
        in_threads(
            lambda part: multiply_shifted(padded[part], bits, made[part], self._limbs, self._inverse), len(padded)
        )
        return made[: len(fields)]

    def _split(self, numbers: list[Any]) -> Array:
        raw = b"".join(int(each).to_bytes(self._width, "little") for each in numbers)
        content = np.frombuffer(raw, np.uint8).reshape(len(numbers), -1, 13)
        low = np.ascontiguousarray(content[..., :8]).view("<u8")[..., 0]
        high = np.ascontiguousarray(np.pad(content[..., 8:], ((0, 0), (0, 0), (0, 3)))).view("<u8")[..., 0]
        pairs = np.stack([low & _MASK, low >> np.uint64(LIMB_BITS) | high << np.uint64(64 - LIMB_BITS)], axis=-1)
        return pairs.reshape(len(numbers), self.num_limbs)


def _bytes(words: Array) -> Array:
    return np.ascontiguousarray(words[..., None]).view(np.uint8)


def in_threads(work: Callable[[slice], None], count: int) -> None:
    """Do work that lets go of Python's lock for eights of rows, on as many threads as numba has."""
    num_threads = min(numba.get_num_threads(), count // LANES)
    cuts = [count // LANES * at // max(1, num_threads) * LANES for at in range(num_threads + 1)]
    with ThreadPoolExecutor(max(1, num_threads)) as threads:
        for _ in threads.map(work, (slice(*each) for each in pairwise(cuts))):
            pass


@cache
def usable() -> bool:
    """Whether this processor has the instructions, and numba compiles for it.

    For another one, such as `NUMBA_CPU_NAME=generic`, LLVM has no way to write them, and would end the process.
    """
    set_by_hand: Any = numba.config
    if set_by_hand.CPU_NAME is not None or set_by_hand.CPU_FEATURES is not None:
        return False
    features = binding.get_host_cpu_features()
    return bool(features.get("avx512ifma") and features.get("avx512f"))
