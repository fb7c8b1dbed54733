"""Which elements one of several reducers takes, so that each writes whole chunks of every output and nobody else does.

A share of an output is a run of its chunks. Outputs of one walk (a model and its optimiser's state) have the same
elements in other dtypes, so their runs of chunks do not lie over the same elements: a share's ranges are those that
touch any of its runs, and a few elements at the borders are reduced twice, to the same bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from hanse.aggregation.ranges import Range
from hanse.aggregation.sources import data_starts
from hanse.core.arrays import Layout
from hanse.core.blobs import CHUNK_BYTES, Buffer
from hanse.core.codec import encoded_size


@dataclass(frozen=True, slots=True)
class Share:
    """Number `index` of `of` reducers."""

    index: int
    of: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ValueError(f"expected a share below {self.of}, found {self.index}")

    def chunks(self, size: int) -> range:
        """The chunks of a blob of `size` bytes that are this share's."""
        count = -(-size // CHUNK_BYTES)
        return range(self.index * count // self.of, (self.index + 1) * count // self.of)

    def span(self, size: int) -> tuple[int, int]:
        """The bytes of a blob that are this share's."""
        mine = self.chunks(size)
        return mine.start * CHUNK_BYTES, min(mine.stop * CHUNK_BYTES, size)


def share_ranges(layouts: Sequence[Layout], share: Share) -> list[Range]:
    """The elements of a walk whose outputs have these layouts, as one range of each array that has any.

    Args:
        layouts: the same names and shapes, in any dtypes.
    """
    bounds: dict[int, tuple[int, int]] = {}
    for layout in layouts:
        low, high = share.span(encoded_size(layout))
        for index, (spec, begin) in enumerate(zip(layout.specs, data_starts(layout), strict=True)):
            item = spec.dtype.itemsize
            start = max(0, (low - begin) // item)
            stop = min(spec.size, -(-(high - begin) // item))
            if start < stop:
                before = bounds.get(index, (start, stop))
                bounds[index] = min(before[0], start), max(before[1], stop)
    return [Range(index, start, stop) for index, (start, stop) in sorted(bounds.items())]


def stretches(layouts: Sequence[Layout], share: Share) -> list[tuple[Range, ...]]:
    """`share_ranges` cut where a chunk of any of these layouts begins, one tuple for each chunk of the first.

    So whoever reads the ranges of one tuple together needs a chunk of each update once. (An element that lies over two
    chunks belongs to the tuple of the first.)
    """
    starts = [data_starts(layout) for layout in layouts]
    found: dict[int, list[Range]] = {}
    for at in share_ranges(layouts, share):
        borders = {at.start, at.stop}
        for layout, begins in zip(layouts, starts, strict=True):
            item = layout.specs[at.index].dtype.itemsize
            first = begins[at.index] + at.start * item
            last = begins[at.index] + at.stop * item
            for border in range(-(-first // CHUNK_BYTES) * CHUNK_BYTES, last, CHUNK_BYTES):
                borders.add(-(-(border - begins[at.index]) // item))
        item = layouts[0].specs[at.index].dtype.itemsize
        for start, stop in pairwise(sorted(borders)):
            chunk = (starts[0][at.index] + start * item) // CHUNK_BYTES
            found.setdefault(chunk, []).append(Range(at.index, start, stop))
    return [tuple(found[chunk]) for chunk in sorted(found)]


def chunks_of(layout: Layout, stretch: Sequence[Range]) -> range:
    """The chunks that a stretch lies over, in a blob of this layout."""
    starts, first, last = data_starts(layout), stretch[0], stretch[-1]
    low = starts[first.index] + first.start * layout.specs[first.index].dtype.itemsize
    high = starts[last.index] + last.stop * layout.specs[last.index].dtype.itemsize
    return range(low // CHUNK_BYTES, -(-high // CHUNK_BYTES))


def clipped(write: Callable[[int, Buffer], None], span: tuple[int, int]) -> Callable[[int, Buffer], None]:
    """Write only what lies within these bytes."""

    def write_part(start: int, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        low, high = max(start, span[0]), min(start + len(view), span[1])
        if low < high:
            write(low, view[low - start : high - start])

    return write_part
