"""Compression of updates: what a site sends instead of its delta, and the source that decodes it block by block.

What is compressed is always the delta against the model that the site was given, array by array; arrays of integers,
and arrays that a codec would not make smaller, go as they are. The names, dtypes and shapes of what is sent follow from
the model's layout and the codec's parameters alone, so they are compared before a value is looked at and nothing is
allocated by a sender's word:

    plain/NAME      the array itself
    WORD/NAME       one for each part of the codec, such as `int8/NAME` and `scale/NAME`

Not here: the codecs themselves (`codecs`: `Int8`, `BFloat16`, `TopK`, `RandomK`), which streams of random numbers they
draw from, and where what was left out is remembered (`hanse.clients.compressing`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np

from hanse.aggregation.rounding import Block, is_float
from hanse.aggregation.sources import Source
from hanse.core.arrays import Array, Arrays, ArraySpec, Layout
from hanse.core.errors import CodecError, UpdateError

PLAIN = "plain"
CHECK_ELEMENTS = 1 << 16
"""Elements that are looked at in one go when an update is opened."""


class Part(Protocol):
    """One array of an update, decoded where it is read; called from several threads at once."""

    def block(self, start: int, stop: int) -> Block:
        """Elements start … stop, flat; of the array's dtype, or float32 where that is narrower."""
        ...


class Codec(Protocol):
    """How one array of floats travels.

    Every method is a pure function of its arguments, the same on every machine.
    """

    name: ClassVar[str]
    remembers: ClassVar[bool]
    """Whether what was left out is added to the next update of the same site (error feedback)."""

    def params(self) -> dict[str, Any]:
        """The parameters as JSON values."""
        ...

    def parts(self, spec: ArraySpec) -> tuple[ArraySpec, ...]:
        """What is sent for one array of floats: a word as name, dtype, shape. Empty: this array goes as it is."""
        ...

    def encode(self, values: Array, rng: np.random.Generator) -> tuple[Array, ...]:
        """The parts of one array, finite, of the shapes that `parts` says.

        Raises:
            UpdateError: values that cannot be sent so, in words that stand behind "array NAME".
        """
        ...

    def open(self, spec: ArraySpec, source: Source, places: Sequence[int]) -> Part:
        """Check what was received and say how it is read.

        Args:
            spec: of the array in the model.
            source: what was received, in the layout of `encoded_layout`.
            places: where the parts are in it.

        Raises:
            CodecError: what no honest site sends, in words that stand behind "array NAME".
        """
        ...


def encoded_layout(layout: Layout, codec: Codec) -> Layout:
    """What a model's update looks like when it travels."""
    return Layout(tuple(spec for _, specs in _plan(layout, codec) for spec in specs))


def encode_update(delta: Arrays, codec: Codec, rng: np.random.Generator) -> Arrays:
    """A delta as it travels.

    Args:
        delta: finite; is not changed.

    Raises:
        UpdateError: values that the codec cannot send, by array.
    """
    made: list[tuple[str, Array]] = []
    for spec, specs in _plan(delta.layout, codec):
        array = delta[spec.name]
        if _is_plain(specs):
            made.append((specs[0].name, array))
            continue
        try:
            parts = codec.encode(array, rng)
        except UpdateError as error:
            raise UpdateError(f"array {spec.name[:60]!r} {error}") from None
        made.extend((part.name, content) for part, content in zip(specs, parts, strict=True))
    return Arrays(made)


def decoded(update: Source, layout: Layout, codec: Codec) -> "Decoded":
    """An update as it was received, to be read as a delta.

    Raises:
        CodecError: not what `encode_update` makes of a delta with this layout, by array.
    """
    plan = list(_plan(layout, codec))
    difference = Layout(tuple(spec for _, specs in plan for spec in specs)).difference(update.layout)
    if difference:
        raise CodecError(f"update compressed with {codec.name}: {difference}")
    parts: list[Part] = []
    place = 0
    for spec, specs in plan:
        places = range(place, place + len(specs))
        place += len(specs)
        try:
            parts.append(_AsItIs(update, places[0]) if _is_plain(specs) else codec.open(spec, update, places))
        except CodecError as error:
            raise CodecError(f"array {spec.name[:60]!r} {error}") from None
    return Decoded(layout, parts)


class Decoded:
    """A compressed update as a `Source` of deltas; see `decoded`."""

    def __init__(self, layout: Layout, parts: Sequence[Part]) -> None:
        self._layout = layout
        self._parts = parts

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes of the model, in order."""
        return self._layout

    def block(self, index: int, start: int, stop: int) -> Block:
        """See `Source.block`; float32 where the layout's dtype is narrower."""
        return self._parts[index].block(start, stop)

    def coded(self, index: int, start: int, stop: int) -> Any:
        """As `block`, or what a fused kernel decodes itself: see `Int8Block`."""
        part = self._parts[index]
        return part.coded(start, stop) if hasattr(part, "coded") else part.block(start, stop)


def _plan(layout: Layout, codec: Codec) -> Iterator[tuple[ArraySpec, tuple[ArraySpec, ...]]]:
    """Each array of the model and what is sent for it."""
    for spec in layout.specs:
        parts = codec.parts(spec) if is_float(spec.dtype) else ()
        if sum(part.nbytes for part in parts) >= spec.nbytes:
            parts = ()
        named = tuple(ArraySpec(f"{part.name}/{spec.name}", part.dtype, part.shape) for part in parts)
        yield spec, named or (ArraySpec(f"{PLAIN}/{spec.name}", spec.dtype, spec.shape),)


def _is_plain(specs: Sequence[ArraySpec]) -> bool:
    return specs[0].name.startswith(f"{PLAIN}/")


@dataclass(frozen=True, slots=True)
class _AsItIs:
    """An array that was not compressed."""

    source: Source
    place: int

    def block(self, start: int, stop: int) -> Block:
        """See `Part`."""
        return self.source.block(self.place, start, stop)


def pieces(count: int) -> Iterator[slice]:
    """0 … count in pieces of `CHECK_ELEMENTS`."""
    for start in range(0, count, CHECK_ELEMENTS):
        yield slice(start, min(start + CHECK_ELEMENTS, count))


def read_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What an array of floats is decoded to: float64 stays, everything else is float32."""
    return dtype if dtype == np.float64 else np.dtype(np.float32)
