"""Which rows are the same person's: one column, several that must all agree, or several of which any may.

    key="id"                                          one column
    key=["name", "born"]                              together: all must agree
    key=["email", "phone"], match="any"               alternatives: one must agree
    key=["email", ["name", "born"]], match="any"      an alternative may be several columns together

Of a row, every alternative gives one identifier, and intersection is of identifiers. Where an alternative has a missing
value (None, NaN or empty text) it gives none, as NULL equals nothing in SQL. Rows that share an identifier are joined
as SQL joins them: `ON a.email = b.email OR a.phone = b.phone`, each pair of rows once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.core.errors import ConfigError
from hanse.core.stream import Stream
from hanse.crypto.oprf import hash_items
from hanse.vertical.psi.ids import MAX_COLUMNS, Composed, Ids, Places, encoded, kind_of

MATCH = ("all", "any")


@dataclass(frozen=True, slots=True)
class Key:
    """Columns that identify a row.

    Attributes:
        alternatives: each with its columns, in order; both parties name the same ones.
    """

    alternatives: tuple[tuple[str, ...], ...]

    @property
    def is_plain(self) -> bool:
        """Whether it is one column."""
        return len(self.alternatives) == len(self.alternatives[0]) == 1


def read_key(key: str | Sequence[str | Sequence[str]], match: str) -> Key:
    """The key that a person wrote.

    Raises:
        ConfigError: something else than the module's text says.
    """
    if match not in MATCH:
        raise ConfigError(f"match: expected one of {', '.join(MATCH)}, found {match!r:.40}")
    listed = [key] if isinstance(key, str) else list(key)
    groups = [(each,) if isinstance(each, str) else tuple(each) for each in listed]
    if match == "all":
        groups = [tuple(name for each in groups for name in each)]
    names = [name for each in groups for name in each]
    if not all(groups) or not names or not all(type(name) is str and name for name in names):
        raise ConfigError("key: expected the name of a column, or a list of names")
    if len(names) > MAX_COLUMNS or len(set(groups)) != len(groups) or any(len(set(g)) != len(g) for g in groups):
        raise ConfigError(f"key: expected at most {MAX_COLUMNS} columns, each once, found {len(names)}")
    return Key(tuple(groups))


@dataclass(frozen=True, slots=True)
class Keyed:
    """A table's identifiers, and the rows that hold them.

    Attributes:
        ids: distinct ones.
        rows, places: int64, `(num_holdings,)` each: row `rows[i]` holds identifier `places[i]`.
        num_rows: how many rows the table has.

    Of a `Stream` each row has its one identifier, and `rows` and `places` are empty.
    """

    ids: Ids | Stream
    rows: Places
    places: Places
    num_rows: int

    def rows_of(self, places: Places) -> Places:
        """The one row of each of these identifiers, where none repeats."""
        if isinstance(self.ids, Stream):
            return places
        found = np.empty(len(self.ids), np.int64)
        found[self.places] = self.rows
        return found[places]

    def held(self, places: Places) -> tuple[Places, Places]:
        """All pairs (n, row) so that the row holds the identifier `places[n]`, as two arrays."""
        if isinstance(self.ids, Stream):
            return np.arange(len(places), dtype=np.int64), places
        index = np.full(len(self.ids), -1, np.int64)
        index[places] = np.arange(len(places))
        numbers = index[self.places]
        return numbers[numbers >= 0], self.rows[numbers >= 0]


def streamed(stream: Stream) -> Keyed:
    """A table whose key is one column that is read piece by piece, each identifier once; read once to count."""
    none = np.empty(0, np.int64)
    return Keyed(stream, none, none, sum(map(len, stream.pieces())))


def keyed(columns: Sequence[Sequence[Ids]], missing: Sequence[Sequence[Any]]) -> Keyed:
    """The identifiers of a table.

    Args:
        columns: for each alternative its columns, each of one length and one kind.
        missing: likewise, where a value is missing: bool `(num_rows,)`.
    """
    num_rows = len(columns[0][0])
    if len(columns) == len(columns[0]) == 1:
        present = np.flatnonzero(~missing[0][0])
        ids = columns[0][0] if len(present) == num_rows else _taken(columns[0][0], present)
        return _distinct(ids, kind_of(ids), present, num_rows)
    values: list[bytes] = []
    rows: list[Places] = []
    kind = 0
    for number, group in enumerate(columns):
        kinds = [kind_of(each) for each in group]
        for each in kinds if number == 0 else (0, *kinds):
            kind = 4 * kind + each
        absent = np.any(missing[number], axis=0)
        present = np.flatnonzero(~absent)
        rows.append(present)
        tag = bytes([number])
        parts = zip(*(encoded(*pair) for pair in zip(group, kinds, strict=True)), strict=True)
        values += [
            tag + b"".join(b"%d:%b" % (len(part), part) for part in row)
            for row, is_absent in zip(parts, absent.tolist(), strict=True)
            if not is_absent
        ]
    return _distinct(Composed(values, kind), kind, np.concatenate(rows), num_rows)


def _distinct(ids: Ids, kind: int, rows: Places, num_rows: int) -> Keyed:
    """Equal identifiers made one, by 112 bits of hash: they are told apart but with probability n² / 2^113."""
    blocks = hash_items(encoded(ids, kind), len(ids))
    order = np.lexsort((blocks[:, 1], blocks[:, 0]))  # stable: the first of equal ones stands first
    blocks = blocks[order]
    starts = np.ones(len(order), np.bool_)
    starts[1:] = (blocks[1:] != blocks[:-1]).any(axis=1)
    places = np.empty(len(order), np.int64)
    places[order] = np.cumsum(starts) - 1
    return Keyed(_taken(ids, order[starts]), rows, places, num_rows)


def _taken(ids: Ids, places: Places) -> Ids:
    if isinstance(ids, np.ndarray):
        return ids[places]
    taken: Any = [ids[at] for at in places.tolist()]
    return Composed(taken, ids.kind) if isinstance(ids, Composed) else taken
