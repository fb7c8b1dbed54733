"""`Arrays`, an ordered name → ndarray mapping, and its `Layout`: names, dtypes and shapes without values.

bfloat16 and the 8-bit floats come through ml-dtypes. Strings and objects are not arrays here.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from hanse.core.errors import UpdateError

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "I16": np.dtype("<i2"),
    "U16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("<i4"),
    "U32": np.dtype("<u4"),
    "F32": np.dtype("<f4"),
    "C64": np.dtype("<c8"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U64": np.dtype("<u8"),
}
"""safetensors' name of every dtype that may travel."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """Name, dtype and shape of one array."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the content."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """Names, dtypes and shapes in order: what two sets of arrays must share to be averaged."""

    specs: tuple[ArraySpec, ...]

    @cached_property
    def size(self) -> int:
        """Elements of all arrays together."""
        return sum(spec.size for spec in self.specs)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(spec.nbytes for spec in self.specs)

    def difference(self, other: "Layout") -> str | None:
        """The first difference in words, or None if both are equal. Names no values."""
        if self == other:
            return None
        if len(self.specs) != len(other.specs):
            return f"expected {len(self.specs)} arrays, found {len(other.specs)}"
        for mine, theirs in zip(self.specs, other.specs, strict=True):
            if mine != theirs:
                return f"expected {describe(mine)}, found {describe(theirs)}"
        return None  # pragma: no cover - equal specs make equal layouts


def describe(spec: ArraySpec) -> str:
    """`name float32 (3, 4)`."""
    return f"{spec.name[:60]} {spec.dtype} {spec.shape}"


class Arrays(Mapping[str, Array]):
    """Ordered, named arrays. Every array is C-contiguous, little-endian and of a dtype that may travel.

    Args:
        items: a mapping or pairs of name → array-like.

    Raises:
        UpdateError: an array of objects or strings, or of a dtype outside `DTYPES`; a repeated name.

    Example:
        >>> Arrays({"w": [[1.0, 2.0]], "b": [0]}).layout.size
        3
    """

    __slots__ = ("_arrays", "_layout", "_vector")

    def __init__(self, items: Mapping[str, npt.ArrayLike] | Iterable[tuple[str, npt.ArrayLike]] = ()) -> None:
        pairs = items.items() if isinstance(items, Mapping) else items
        self._arrays: dict[str, Array] = {}
        for name, value in pairs:
            if name in self._arrays or not isinstance(name, str):
                raise UpdateError(f"arrays: expected distinct names, found {name!r} again")
            self._arrays[name] = _travelling(name, value)
        self._layout: Layout | None = None
        self._vector: Array | None = None

    @classmethod
    def end_to_end(cls, layout: Layout, vector: Array) -> "Arrays":
        """Arrays as views of the one vector in which they lie without gaps, so that it can be read in one pass.

        Args:
            layout: of one dtype, the vector's.
            vector: `(layout.size,)`, contiguous.

        Raises:
            UpdateError: a vector of another dtype, shape or stride.
        """
        if (
            vector.shape != (layout.size,)
            or not vector.flags.c_contiguous
            or any(spec.dtype != vector.dtype for spec in layout.specs)
        ):
            raise UpdateError(
                f"arrays: expected a contiguous vector of {layout.size} elements, of the one dtype that all arrays "
                f"have; found {vector.dtype} {vector.shape}"
            )
        pieces, start = [], 0
        for spec in layout.specs:
            pieces.append(vector[start : start + spec.size].reshape(spec.shape))
            start += spec.size
        made = cls.viewed(layout, pieces)
        made._vector = vector
        return made

    @classmethod
    def viewed(cls, layout: Layout, arrays: Iterable[Array]) -> "Arrays":
        """Arrays that were made to a layout, such as views of a blob; nothing is looked at again."""
        made = cls()
        made._arrays = dict(zip((spec.name for spec in layout.specs), arrays, strict=True))
        made._layout = layout
        return made

    @classmethod
    def from_list(cls, arrays: Sequence[npt.ArrayLike]) -> "Arrays":
        """Arrays without names of their own are called '0', '1', … in order."""
        return cls((str(index), array) for index, array in enumerate(arrays))

    def copy(self) -> "Arrays":
        """The same in memory of its own."""
        if self._vector is not None:
            return Arrays.end_to_end(self.layout, self._vector.copy())
        made = Arrays.__new__(Arrays)
        made._vector = None
        made._arrays = {name: array.copy() for name, array in self._arrays.items()}
        made._layout = self._layout
        return made

    def fits(self, layout: Layout) -> bool:
        """Whether this has that layout; `layout` is the very same object afterwards, which makes comparing cheap."""
        if self._layout is None and len(self._arrays) == len(layout.specs):
            found = zip(self._arrays.items(), layout.specs, strict=True)
            if all(spec.name == name and spec.dtype == a.dtype and spec.shape == a.shape for (name, a), spec in found):
                self._layout = layout
        return self._layout is layout or self.layout == layout

    def flat(self) -> list[Array]:
        """The arrays in order, each in one dimension, or one vector where they were made of it end to end: views."""
        if self._vector is not None:
            return [self._vector]
        return [array.reshape(-1) for array in self._arrays.values()]

    def to_list(self) -> list[Array]:
        """The arrays in order, without names."""
        return list(self._arrays.values())

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes in order."""
        if self._layout is None:
            self._layout = Layout(
                tuple(ArraySpec(name, array.dtype, array.shape) for name, array in self._arrays.items())
            )
        return self._layout

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self._arrays.values())

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        """Equal names, order, dtypes, shapes and bits (so a NaN equals the same NaN)."""
        if not isinstance(other, Arrays):
            return NotImplemented
        return self.layout == other.layout and all(
            a.tobytes() == b.tobytes() for a, b in zip(self.to_list(), other.to_list(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]  # mutable content

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies by `copy` and `pickle` hold no vector: it would not be what their arrays are views of."""
        return Arrays.viewed, (self.layout, self.to_list())

    def __repr__(self) -> str:
        return f"Arrays({', '.join(describe(spec) for spec in self.layout.specs[:8])})"


def _travelling(name: str, value: npt.ArrayLike) -> Array:
    array = np.asarray(value)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    if array.dtype not in DTYPE_NAMES:
        raise UpdateError(
            f"array {name[:60]!r}: expected a dtype of {', '.join(str(d) for d in DTYPE_NAMES)}; found {array.dtype}"
        )
    return array if array.flags.c_contiguous else np.ascontiguousarray(array).reshape(array.shape)
