"""What sites measured in a round, kept as columns: a row is made when somebody looks at it.

A simulation of a thousand sites keeps a thousand rows a round for as long as its result lives. As dicts each would take
some hundreds of bytes; as columns a number takes eight.
"""

from collections.abc import ItemsView, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from hanse.core.records import Value

Row = Mapping[str, Value]
_KINDS: Mapping[type, Any] = {int: np.int64, float: np.float64}


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows of the same names that followed each other.

    Args:
        values: one column for each name, one value for each site.
    """

    sites: Sequence[str]
    names: Sequence[str]
    values: Sequence[Sequence[Value]]

    def row(self, place: int) -> dict[str, Value]:
        """Of one site; numbers are those of Python."""
        one = slice(place, place + 1)
        return {name: _values(part, one)[0] for name, part in zip(self.names, self.values, strict=True)}

    def rows(self) -> Iterator[tuple[str, dict[str, Value]]]:
        """Of each site, in order."""
        if not self.names:
            return ((site, {}) for site in self.sites)
        rows = zip(*[_values(column, slice(None)) for column in self.values], strict=True)
        return ((site, dict(zip(self.names, row, strict=True))) for site, row in zip(self.sites, rows, strict=True))


class SiteRows(Mapping[str, Row]):
    """Site → what it measured. Where a site has several rows, later ones add to and replace what earlier ones say."""

    __slots__ = ("_blocks", "_places")

    def __init__(self, blocks: Sequence[Columns]) -> None:
        self._blocks = tuple(blocks)
        self._places: dict[str, list[tuple[int, int]]] | None = None

    def __getitem__(self, site: str) -> Row:
        row: dict[str, Value] = {}
        for block, place in self._found()[site]:
            row |= self._blocks[block].row(place)
        return row

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def items(self) -> ItemsView[str, Row]:
        """As of any mapping; walking over it does not look each site up."""
        return _Items(self)

    def walk(self) -> Iterator[tuple[str, Row]]:
        """Every site and its row, in order."""
        if len(self) < sum(len(block.sites) for block in self._blocks):
            return ((site, self[site]) for site in self)
        return chain.from_iterable(block.rows() for block in self._blocks)

    @property
    def is_plain(self) -> bool:
        """Whether everything in it is a whole number or a finite float, so that rows are JSON as they are."""
        columns = [column for block in self._blocks for column in block.values]
        return all(isinstance(column, np.ndarray) and bool(np.isfinite(column).all()) for column in columns)

    def __repr__(self) -> str:
        return f"SiteRows({len(self)} sites)"

    def _found(self) -> dict[str, list[tuple[int, int]]]:
        """Where each site's rows are; put together when it is first asked for."""
        if self._places is None:
            self._places = {}
            for number, block in enumerate(self._blocks):
                for place, site in enumerate(block.sites):
                    self._places.setdefault(site, []).append((number, place))
        return self._places


class _Items(ItemsView[str, Row]):
    _mapping: SiteRows

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        return self._mapping.walk()


@dataclass(slots=True)
class RowsTaken:
    """Takes rows one after another."""

    _blocks: list[Columns] = field(default_factory=list)
    _sites: list[str] = field(default_factory=list)
    _names: tuple[str, ...] = ()
    _values: list[Sequence[Value]] = field(default_factory=list)

    def add(self, site: str, row: Row) -> None:
        """The next row."""
        names = tuple(row)
        if names != self._names or not self._sites:
            self._close()
            self._names = names
        self._sites.append(site)
        self._values.append(tuple(row.values()))

    def rows(self) -> SiteRows:
        """All of them."""
        self._close()
        return SiteRows(self._blocks)

    def _close(self) -> None:
        if self._sites:
            columns = [_column(column) for column in zip(*self._values, strict=True)]
            self._blocks.append(Columns(tuple(self._sites), self._names, columns))
        self._sites, self._values = [], []


def _values(column: Sequence[Value], which: slice) -> Sequence[Value]:
    """Some of a column, as Python has them."""
    part: Any = column[which]
    return part.tolist() if isinstance(part, np.ndarray) else part  # type: ignore[no-any-return]  # of values


def _column(values: Sequence[Value]) -> Sequence[Value]:
    """Numbers of one kind as an array, if it keeps them as they are."""
    kinds = set(map(type, values))
    kind = _KINDS.get(kinds.pop()) if len(kinds) == 1 else None
    try:
        return values if kind is None else np.array(values, kind)  # type: ignore[return-value]  # indexed alike
    except OverflowError:
        return values
