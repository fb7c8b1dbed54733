"""Which elements one of several reducers takes, so that each writes whole chunks of every output and nobody else does.

A share of an output is a run of its chunks. Outputs of one walk (a model and its optimiser's state) have the same
elements in other dtypes, so their runs of chunks do not lie over the same elements: a share's ranges are those that
touch any of its runs, and a few elements at the borders are reduced twice, to the same bits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanse.aggregation.sources import data_starts
from hanse.aggregation.walk import Range
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


def clipped(write: Callable[[int, Buffer], None], span: tuple[int, int]) -> Callable[[int, Buffer], None]:
    """Write only what lies within these bytes."""

    def write_part(start: int, content: Buffer) -> None:
        view = memoryview(content).cast("B")
        low, high = max(start, span[0]), min(start + len(view), span[1])
        if low < high:
            write(low, view[low - start : high - start])

    return write_part
