"""The two inner loops of the matrix OPRF over packed bits, in NumPy and, where installed, in numba.

A column is a string of 2^bits bits in uint64 words, bit i at word i // 64, place i % 64. An item's places in the
columns of one group are cut from one AES block: `per_lane` pieces of `bits` bits from each of its two 64-bit lanes,
lowest first. The NumPy functions are the oracle of the others and what runs without numba; these loops have no
branches on bits.
"""

import importlib.util
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hanse.core.njit import njit

Words = npt.NDArray[np.uint64]
Bits = npt.NDArray[np.uint8]


class Loops(Protocol):
    """Both loops; `numpy_loops` says what they do."""

    def clear(self, blocks: Words, bits: int, per_lane: int, columns: Words) -> None: ...

    def read(self, blocks: Words, bits: int, per_lane: int, columns: Words, out: Bits) -> None: ...


def _places(blocks: Words, bits: int, per_lane: int, column: int) -> npt.NDArray[np.int64]:
    lane, piece = divmod(column, per_lane)
    shifted = blocks[:, lane] >> np.uint64(piece * bits)
    return (shifted & np.uint64((1 << bits) - 1)).astype(np.int64)


class NumpyLoops:
    """In NumPy alone."""

    def clear(self, blocks: Words, bits: int, per_lane: int, columns: Words) -> None:
        """Set to 0, in every column, the bit at every item's place.

        Args:
            blocks: uint64 `(num_items, 2)`.
            bits: log2 of a column's bits, 6 to 32.
            per_lane: columns cut from one lane.
            columns: uint64 `(num_columns, 2^bits / 64)`, changed in place; num_columns ≤ 2·per_lane ≤ 8.
        """
        for column, words in enumerate(columns):
            taken = np.zeros(1 << bits, np.bool_)
            taken[_places(blocks, bits, per_lane, column)] = True
            words &= ~np.packbits(taken, bitorder="little").view("<u8")

    def read(self, blocks: Words, bits: int, per_lane: int, columns: Words, out: Bits) -> None:
        """Collect each item's bits: bit c of `out[item]`, uint8 `(num_items,)`, is that of column c."""
        out[:] = 0
        for column, words in enumerate(columns):
            unpacked = np.unpackbits(words.view(np.uint8), bitorder="little")
            out |= unpacked[_places(blocks, bits, per_lane, column)] << np.uint8(column)


def _clear(blocks: Any, bits: Any, per_lane: Any, columns: Any) -> None:
    mask, one, low = np.uint64((1 << bits) - 1), np.uint64(1), np.uint64(63)
    for column in range(columns.shape[0]):
        lane, shift = column // per_lane, np.uint64((column % per_lane) * bits)
        words = columns[column]
        for item in range(blocks.shape[0]):
            place = (blocks[item, lane] >> shift) & mask
            words[place >> np.uint64(6)] &= ~(one << (place & low))


def _read(blocks: Any, bits: Any, per_lane: Any, columns: Any, out: Any) -> None:
    mask, one, low = np.uint64((1 << bits) - 1), np.uint64(1), np.uint64(63)
    out[:] = 0
    for column in range(columns.shape[0]):
        lane, shift = column // per_lane, np.uint64((column % per_lane) * bits)
        words = columns[column]
        for item in range(blocks.shape[0]):
            place = (blocks[item, lane] >> shift) & mask
            bit = (words[place >> np.uint64(6)] >> (place & low)) & one
            out[item] |= np.uint8(bit << np.uint64(column))


@cache
def _compiled() -> tuple[Any, Any]:
    compile_ = njit(nogil=True, error_model="numpy")
    return compile_(_clear), compile_(_read)


class NumbaLoops:
    """Compiled at first use, about a second, and kept in numba's cache on disk."""

    def clear(self, blocks: Words, bits: int, per_lane: int, columns: Words) -> None:
        """See `NumpyLoops.clear`."""
        _compiled()[0](blocks, bits, per_lane, columns)

    def read(self, blocks: Words, bits: int, per_lane: int, columns: Words, out: Bits) -> None:
        """See `NumpyLoops.read`."""
        _compiled()[1](blocks, bits, per_lane, columns, out)


@cache
def pick_loops(num_items: int = 1 << 62) -> Loops:
    """numba's where it is installed and the work is worth compiling for, otherwise NumPy's."""
    if num_items >= 1 << 15 and importlib.util.find_spec("numba") is not None:
        return NumbaLoops()
    return NumpyLoops()
