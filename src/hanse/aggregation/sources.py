"""Where blocks come from and go to: updates, models and states as ranges of elements, never as whole copies."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hanse.aggregation.rounding import Block, widen_into
from hanse.core.arrays import Arrays, Layout
from hanse.core.codec import MAX_HEADER_BYTES, header_of, parse_header

ReadBytes = Callable[[int, int], memoryview]
"""Bytes start … stop of one blob, often a view: `functools.partial(store.read, scope, id)`."""
WriteBytes = Callable[[int, memoryview], None]
"""Write bytes at an offset; called from several threads on disjoint ranges."""


class Source(Protocol):
    """One update, model or state. An encoded update (int8, top-k) decodes in `block`.

    `block` is called from several threads at once.
    """

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes, in order."""
        ...

    def block(self, index: int, start: int, stop: int) -> Block:
        """Elements start … stop of array `index`, flat in C order, in the layout's dtype; may be read-only."""
        ...


class Sink(Protocol):
    """Where a result goes; `write` is called from several threads on disjoint ranges."""

    def write(self, index: int, start: int, block: Block) -> None:
        """Take elements of array `index` from `start` on; `block` is not valid after the call."""
        ...


class ArraySource:
    """Arrays in memory.

    Args:
        arrays: an `Arrays` or any mapping of name → array-like.
    """

    def __init__(self, arrays: Mapping[str, npt.ArrayLike]) -> None:
        held = arrays if isinstance(arrays, Arrays) else Arrays(arrays)
        self._layout = held.layout
        self._flat = [array.reshape(-1) for array in held.to_list()]

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes, in order."""
        return self._layout

    def block(self, index: int, start: int, stop: int) -> Block:
        """See `Source.block`."""
        block = self._flat[index][start:stop]
        return block if block.flags.aligned else block.copy()


class BlobSource:
    """A blob in canonical safetensors form, read range by range.

    Args:
        read: bytes of the blob.
        size_bytes: the blob's size.

    Raises:
        CodecError: the blob is not in canonical form.
    """

    def __init__(self, read: ReadBytes, size_bytes: int) -> None:
        length = min(int.from_bytes(read(0, min(8, size_bytes)), "little"), MAX_HEADER_BYTES)
        self._layout, start = parse_header(read(0, min(8 + length, size_bytes)), total=size_bytes)
        self._read = read
        self._starts = _data_starts(self._layout, start)

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes, in order."""
        return self._layout

    def block(self, index: int, start: int, stop: int) -> Block:
        """See `Source.block`."""
        dtype, first = self._layout.specs[index].dtype, self._starts[index]
        view = self._read(first + start * dtype.itemsize, first + stop * dtype.itemsize)
        block: npt.NDArray[Any] = np.frombuffer(view, dtype=dtype)
        return block if block.flags.aligned else block.copy()


class Zeros:
    """Zeros of some layout: the first state of a server optimiser."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes, in order."""
        return self._layout

    def block(self, index: int, start: int, stop: int) -> Block:
        """See `Source.block`."""
        return np.zeros(stop - start, dtype=self._layout.specs[index].dtype)


class Deltas:
    """What an update adds to its base, in float64, whatever the layout's dtype."""

    def __init__(self, update: Source, base: Source) -> None:
        self._update = update
        self._base = base

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes, in order."""
        return self._update.layout

    def block(self, index: int, start: int, stop: int) -> Block:
        """See `Source.block`; float64."""
        values = np.empty(stop - start)
        base = np.empty(stop - start)
        widen_into(values, self._update.block(index, start, stop))
        widen_into(base, self._base.block(index, start, stop))
        np.subtract(values, base, out=values)
        return values


class Values:
    """What a delta makes of its base, in float64, whatever the layout's dtype."""

    def __init__(self, delta: Source, base: Source) -> None:
        self._delta = delta
        self._base = base

    @property
    def layout(self) -> Layout:
        """Names, dtypes and shapes, in order."""
        return self._delta.layout

    def block(self, index: int, start: int, stop: int) -> Block:
        """See `Source.block`; float64."""
        values = np.empty(stop - start)
        base = np.empty(stop - start)
        widen_into(values, self._delta.block(index, start, stop))
        widen_into(base, self._base.block(index, start, stop))
        np.add(values, base, out=values)
        return values


class ArraySink:
    """Fresh arrays in memory; read them from `arrays` when the walk is done."""

    def __init__(self, layout: Layout) -> None:
        self.arrays = Arrays((spec.name, np.empty(spec.shape, dtype=spec.dtype)) for spec in layout.specs)
        self._flat = [array.reshape(-1) for array in self.arrays.to_list()]

    def write(self, index: int, start: int, block: Block) -> None:
        """See `Sink.write`."""
        self._flat[index][start : start + len(block)] = block


class BlobSink:
    """A blob in canonical safetensors form, written range by range; the header goes first.

    Args:
        layout: what will be written.
        write: takes bytes at an offset (for a file: `lambda start, data: os.pwrite(fd, data, start)`).
    """

    def __init__(self, layout: Layout, write: WriteBytes) -> None:
        header = header_of(layout)
        write(0, memoryview(header))
        self._write = write
        self._specs = layout.specs
        self._starts = data_starts(layout)

    def write(self, index: int, start: int, block: Block) -> None:
        """See `Sink.write`."""
        first = self._starts[index] + start * self._specs[index].dtype.itemsize
        self._write(first, np.ascontiguousarray(block).view(np.uint8).data)


def data_starts(layout: Layout) -> list[int]:
    """At which byte of the canonical form each array begins."""
    return _data_starts(layout, len(header_of(layout)))


def _data_starts(layout: Layout, start: int) -> list[int]:
    starts = []
    for spec in layout.specs:
        starts.append(start)
        start += spec.nbytes
    return starts
