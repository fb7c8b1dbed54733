"""Identifiers beyond memory: hashed piece by piece into a file, and cut into parts that are intersected one by one.

Both parties put an identifier into the part that a function of its hash names, under a key drawn for this run, so that
equal ones meet. How many fall into a part would say something about who is there; therefore every part is filled up
with random elements to one capacity, which follows from the number of identifiers and of parts alone. The capacity is
such that no part overflows but with probability 2^−40.

On the disk are 112-bit hashes and row numbers, in files without a name that end with the process.
"""

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, Self

import numpy as np

from hanse.core.errors import ConfigError, RefusedError
from hanse.core.stream import Stream
from hanse.crypto.aes import KEY_BYTES, BlockFunction, Blocks
from hanse.crypto.matching import num_repeated
from hanse.crypto.oprf import MAX_ITEMS, STATISTICAL_BITS, hash_items
from hanse.vertical.psi.ids import Ids, Places, encoded, kind_of

PART = 1 << 19
"""Identifiers of one side that are intersected at a time: about 150 bytes each in memory. With columns of this length
bits are read from the cache: 10^6 took 8.3 core-s in two parts and 11.5 in one."""
_CHUNK = 1 << 17
_BLOCK_BYTES = 16
_ROW = np.dtype([("block", "<u8", (2,)), ("row", "<i8")])
_KEPT = np.uint64(0xFFFF_FFFF_FFFF_0000)


@dataclass(frozen=True, slots=True)
class Layout:
    """What both sides compute from the two numbers of identifiers.

    Attributes:
        num_parts: 1 where both fit.
        guest, host: elements of each side in every part, those it is filled up with included.
    """

    num_parts: int
    guest: int
    host: int


def lay_out(num_guest: int, num_host: int) -> Layout:
    """The fewest parts of which none is larger than `PART`."""
    most = max(num_guest, num_host)
    if most <= PART:
        return Layout(1, num_guest, num_host)
    num_parts = most // PART + 1
    while capacity(most, num_parts) > PART:
        num_parts += 1
    return Layout(num_parts, capacity(num_guest, num_parts), capacity(num_host, num_parts))


def capacity(count: int, num_parts: int) -> int:
    """The room of each part, so that one of them overflows with probability at most 2^−40.

    `count` identifiers fall into parts independently and uniformly; more than c of them into a given part with
    probability at most exp(−count · D(c / count ‖ 1 / num_parts)), D the relative entropy (W. Hoeffding, "Probability
    inequalities for sums of bounded random variables", JASA 1963, theorem 1).
    """
    bound = (STATISTICAL_BITS * math.log(2) + math.log(num_parts)) / max(1, count)
    low, high = -(-count // num_parts), count
    while low < high:
        middle = (low + high) // 2
        if _relative_entropy(middle / count, 1 / num_parts) >= bound:
            high = middle
        else:
            low = middle + 1
    return low


def _relative_entropy(a: float, p: float) -> float:
    if a >= 1:
        return -math.log(p)
    return a * math.log(a / p) + (1 - a) * math.log((1 - a) / (1 - p))


@dataclass(slots=True)
class Hashed:
    """H1 of one party's identifiers, in memory up to `PART` of them, otherwise in a file.

    Attributes:
        kind: see `hanse.vertical.psi.ids.kind_of`; 0 where there are none.
        count: how many.
    """

    kind: int
    count: int
    _blocks: Blocks | None
    _file: IO[bytes] | None

    def parts(self, layout: Layout, role: str, key: bytes) -> "Iterator[Part]":
        """All parts, one after another.

        Raises:
            ConfigError: an identifier occurs twice, or a part overflows.
        """
        if layout.num_parts == 1:
            assert self._blocks is not None
            yield Part(self._blocks, np.arange(self.count, dtype=np.int64))
            return
        room = layout.guest if role == "guest" else layout.host
        with self._split(key, layout.num_parts) as split:
            numbers = range(layout.num_parts)
            _refuse(sum(num_repeated(split.read(number)["block"]) for number in numbers))  # before anything leaves
            for number in numbers:
                found = split.read(number)
                if len(found) > room:
                    raise ConfigError("ids: a part has more of them than happens once in 2^40 runs; start anew")
                blocks = np.empty((room, 2), np.uint64)
                blocks[: len(found)] = found["block"]
                random = os.urandom(_BLOCK_BYTES * (room - len(found)))
                blocks[len(found) :] = np.frombuffer(random, "<u8").reshape(-1, 2)
                blocks[:, 1] &= _KEPT
                rows = found["row"].astype(np.int64)
                del found  # not beside the part while it is worked on
                yield Part(blocks, rows)

    def _split(self, key: bytes, num_parts: int) -> "_Split":
        function, file, ends = BlockFunction(key), tempfile.TemporaryFile(), []  # noqa: SIM115  # closed by its reader
        start = 0
        for blocks in self._pieces():
            rows = np.empty(len(blocks), _ROW)
            rows["block"], rows["row"] = blocks, np.arange(start, start + len(blocks))
            part = part_of(function, blocks, num_parts)
            order = np.argsort(part, kind="stable")
            ends.append(start + np.searchsorted(part[order], np.arange(num_parts + 1)))
            start += len(blocks)
            file.write(rows[order].data)
        return _Split(file, np.array(ends, np.int64).reshape(-1, num_parts + 1))

    def _pieces(self) -> Iterator[Blocks]:
        if self._blocks is not None:
            yield from (self._blocks[start : start + _CHUNK] for start in range(0, self.count, _CHUNK))
            return
        assert self._file is not None
        self._file.seek(0)
        while content := self._file.read(_CHUNK * _BLOCK_BYTES):
            yield np.frombuffer(content, "<u8").reshape(-1, 2)


@dataclass(frozen=True, slots=True)
class _Split:
    """Rows in a file, each piece of it sorted by part; one file, however many parts a peer's number asks for.

    Attributes:
        ends: of each piece and part the first row in the file, and last where the piece ends.
    """

    file: IO[bytes]
    ends: Places

    def read(self, number: int) -> Any:
        """All rows of a part."""
        size = _ROW.itemsize
        self.file.flush()
        pieces = [
            os.pread(self.file.fileno(), size * (end - start), size * start)
            for start, end in self.ends[:, number : number + 2].tolist()
        ]
        return np.frombuffer(b"".join(pieces), _ROW)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a party's identifiers.

    Attributes:
        blocks: H1 of them, uint64 `(capacity, 2)`; after the first `len(rows)` stand random ones.
        rows: int64, places in the party's list.
    """

    blocks: Blocks
    rows: Places

    def rows_of(self, places: Places) -> Places:
        """The rows of elements of this part.

        Raises:
            RefusedError: an element that the part was filled up with, which the peer cannot hold.
        """
        if len(places) and places.max() >= len(self.rows):
            raise RefusedError("matches: expected identifiers, found one that stands for none")
        return self.rows[places]


def part_of(function: BlockFunction, blocks: Blocks, num_parts: int) -> Places:
    """The part of each element, int64: AES of its H1 under the run's key, scaled down."""
    scaled = (function(np.ascontiguousarray(blocks))[:, 0] >> np.uint64(32)) * np.uint64(num_parts)
    return (scaled >> np.uint64(32)).astype(np.int64)


def hashed(ids: Ids | Stream) -> Hashed:
    """Hash identifiers; of a stream one piece after another, so that no more than a piece is in memory.

    Raises:
        ConfigError: mixed kinds, more identifiers than there may be; up to `PART`, an identifier that occurs twice.
    """
    pieces = ids.pieces() if isinstance(ids, Stream) else iter([ids])
    kind = count = 0
    kept: list[Blocks] = []
    file: IO[bytes] | None = None
    for piece in pieces:
        if not len(piece):
            continue
        found = kind_of(piece)
        if kind not in (0, found):
            raise ConfigError("ids: expected one kind in all pieces of a stream, found two")
        kind = found
        items = encoded(piece, kind)
        for start in range(0, len(piece), _CHUNK):
            blocks = hash_items(islice(items, _CHUNK), min(_CHUNK, len(piece) - start))
            count += len(blocks)
            if count > MAX_ITEMS:
                raise ConfigError(f"ids: expected at most {MAX_ITEMS}, found more")
            kept.append(blocks)
            if count > PART:
                file = file or tempfile.TemporaryFile()  # noqa: SIM115  # it goes with what holds it
                for each in kept:
                    file.write(each.data)
                kept.clear()
    if file is not None:
        return Hashed(kind, count, None, file)
    together = np.concatenate([np.empty((0, 2), np.uint64), *kept])
    refuse_repeated(together)
    return Hashed(kind or kind_of([]), count, together, None)


def new_key() -> bytes:
    """Of the function that names parts."""
    return os.urandom(KEY_BYTES)


def mixed(rows: Places, key: bytes) -> Places:
    """`rows` in an order that both sides compute from the run's key, which hides nothing and favours no part."""
    function, order = BlockFunction(key), np.empty(len(rows), np.uint64)
    for start in range(0, len(rows), _CHUNK):
        numbers = np.ones((min(_CHUNK, len(rows) - start), 2), np.uint64)  # the second: H1 has zeros in its last bits
        numbers[:, 0] = np.arange(start, start + len(numbers))
        order[start : start + len(numbers)] = function(numbers)[:, 0]
    return rows[np.argsort(order, kind="stable")]


def refuse_repeated(blocks: Blocks) -> None:
    """Return if every identifier occurs once.

    Args:
        blocks: H1 of each.

    Raises:
        ConfigError: one occurs twice. It says how many, not which.
    """
    _refuse(num_repeated(blocks))


def _refuse(repeated: int) -> None:
    if repeated:
        raise ConfigError(f"ids: expected each once, found {repeated} that repeat another; remove or number them")
