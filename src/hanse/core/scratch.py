"""Arrays that memory need not hold: large ones lie in a file without a name, which ends with whoever uses it.

The file is made in the temporary folder, in a worker the job's own, has no name that anybody could open, is reserved on
the disk before anything is written to it, and is gone when the array is, also after kill -9. The kernel writes pages
back when it needs their memory. Small arrays are plain ones. Where the temporary folder is a file system in memory
(some machines' /tmp), nothing is gained: set TMPDIR.

Unlike memory, such a file is shared with whoever is forked later: what one process writes into a large array is the
other's, too. Workers are forked before they load anything; whoever forks elsewhere must be done with writing.
"""

import io
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.core.errors import UnavailableError

LARGE_BYTES = 1 << 28
"""Arrays of more than 256 MiB are kept in a file."""
BLOCK_BYTES = 1 << 24
"""What is held in memory of a large array while it is copied or computed."""


def empty(shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
    """An array with nothing in it yet, C order. One of objects is in memory whatever its size.

    Raises:
        UnavailableError: the disk has no room for it.
    """
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape, dtype=object))
    if size <= LARGE_BYTES or kind.hasobject:
        return np.empty(shape, kind)
    with _nameless() as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError:
            raise UnavailableError(
                f"scratch: expected room for {size >> 20} MiB in the temporary folder, found less; set TMPDIR"
            ) from None
        return np.frombuffer(mmap.mmap(file.fileno(), size), kind).reshape(shape)


def is_large(array: Array) -> bool:
    """Whether `empty` would keep such an array in a file."""
    return array.nbytes > LARGE_BYTES


def blocks(array: Array) -> Iterator[slice]:
    """Rows of an array, a piece at a time, each of about `BLOCK_BYTES` as float64; which depends on its shape alone."""
    width = 8 * max(1, int(np.prod(array.shape[1:], dtype=object)))
    step = max(1, BLOCK_BYTES // width)
    return (slice(start, start + step) for start in range(0, len(array), step))


def take(array: Array, rows: npt.NDArray[np.int64]) -> Array:
    """array[rows], kept in a file if that is large."""
    if rows.size * array.itemsize * int(np.prod(array.shape[1:], dtype=object)) <= LARGE_BYTES:
        return array[rows]
    taken = empty((len(rows), *array.shape[1:]), array.dtype)
    for block in blocks(taken):
        taken[block] = array[rows[block]]
    return taken


def transposed(table: Array) -> Array:
    """Columns as rows, each contiguous, `(num_columns, num_rows)`: for whoever reads a large table by columns."""
    if not is_large(table):
        return np.ascontiguousarray(table.T)
    columns = empty(table.shape[::-1], table.dtype)
    for block in blocks(table):
        columns[:, block] = table[block].T
    return columns


class Growing:
    """Columns whose length is not known yet, piece by piece; numbers go to a file once all of them are large.

    Args:
        names: of the columns.

    Attributes:
        kinds: of each column, kinds of its pieces' dtypes. Where a column has several, `columns` is not to be asked.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.kinds: dict[str, set[str]] = {name: set() for name in names}
        self._pieces: dict[str, list[Array]] = {name: [] for name in self.kinds}
        self._bytes = 0
        self._file: io.BufferedRandom | None = None
        self._written: dict[str, list[tuple[int, Array]]] = {name: [] for name in self.kinds}
        """Of each column, where a piece begins in the file, and an empty array of its length and dtype."""

    def append(self, pieces: Mapping[str, Array]) -> None:
        """Further rows of all columns; of numbers, all pieces of a column have one dtype.

        Raises:
            UnavailableError: the disk has no room for them.
        """
        for name, piece in pieces.items():
            self.kinds[name].add(piece.dtype.kind)
            self._pieces[name].append(piece)
            self._bytes += piece.nbytes
        if self._file is None and self._bytes > LARGE_BYTES:
            self._file = _nameless()
        if self._file is not None:
            self._spill(self._file)

    def columns(self) -> dict[str, Array]:
        """All of them; once."""
        if self._file is None:
            return {name: np.concatenate(pieces) if pieces else np.empty(0) for name, pieces in self._pieces.items()}
        kinds: dict[np.dtype[Any], list[str]] = {}
        for name, written in self._written.items():
            if written:
                kinds.setdefault(written[0][1].dtype, []).append(name)
        found: dict[str, Array] = {}
        with self._file as file:
            for dtype, names in kinds.items():
                rows = sum(len(piece) for _, piece in self._written[names[0]])
                found |= zip(names, empty((len(names), rows), dtype), strict=True)
                for name in names:
                    at = 0
                    for offset, piece in self._written[name]:
                        file.seek(offset)
                        part = found[name][at : at + len(piece)]
                        file.readinto(part.view(np.uint8).data)
                        at += len(piece)
        return {name: found[name] if name in found else np.concatenate(self._pieces[name]) for name in self.kinds}

    def _spill(self, file: io.BufferedRandom) -> None:
        try:
            for name, pieces in self._pieces.items():
                if self.kinds[name] <= set("iuf") or self.kinds[name] == {"b"}:
                    for piece in pieces:
                        empty_piece = np.broadcast_to(np.empty((), piece.dtype), piece.shape)
                        self._written[name].append((file.tell(), empty_piece))
                        file.write(np.ascontiguousarray(piece).data)
                    self._pieces[name] = []
            file.flush()
        except OSError:
            raise UnavailableError("scratch: expected room in the temporary folder, found none; set TMPDIR") from None


def _nameless() -> io.BufferedRandom:
    return tempfile.TemporaryFile(dir=Path(tempfile.gettempdir()))
