"""A party's table as it is handed in: identifiers, columns of numbers, and at the guest a label.

Taken are mappings from names to columns, data frames (pandas, polars, pyarrow tables: whatever has column names and
gives columns by name), and paths of files: CSV, also gzipped, and Parquet (extra `arrow`). Tables that are too large
for memory lie in the temporary folder, see `hanse.core.scratch`.
"""

import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core import scratch
from hanse.core.errors import ConfigError, NotFoundError
from hanse.core.parquet import read_parquet


@dataclass(frozen=True, slots=True)
class Table:
    """One party's rows.

    Attributes:
        ids: one for each row, text or whole numbers; or None where rows are in a common order already.
        names: of the columns, in their order.
        values: float64, `(num_rows, num_columns)`, C order.
        label: of each row, at the guest; otherwise None.
        sample_weights: of each row, at the guest if there are any; otherwise None.
    """

    ids: npt.NDArray[Any] | None
    names: tuple[str, ...]
    values: npt.NDArray[np.float64]
    label: npt.NDArray[Any] | None = None
    sample_weights: npt.NDArray[np.float64] | None = None

    @property
    def num_rows(self) -> int:
        """How many."""
        return len(self.values)

    def take(self, rows: npt.NDArray[np.int64]) -> "Table":
        """These rows, in this order."""
        parts = (self.ids, self.label, self.sample_weights)
        ids, label, weights = (None if each is None else each[rows] for each in parts)
        return Table(ids, self.names, scratch.take(self.values, rows), label, weights)


def read_table(
    source: Any,
    *,
    key: str | None,
    label: str | None = None,
    weight: str | None = None,
    not_here: str | None = None,
    only: tuple[str, ...] | None = None,
    party: str = "table",
) -> Table:
    """Check a table and take it apart.

    Args:
        source: see the module's text; or a `Table`, which is taken as it is.
        key: the column of identifiers; None where rows are in a common order.
        label: the column of the label, at the guest.
        weight: the column of sample weights, at the guest.
        not_here: a column that this party must not have: the label, at hosts.
        only: the columns of numbers to take, in this order; by default all others.
        party: whose it is, for messages.

    Raises:
        ConfigError: a column that is missing, or here and should not be; columns that are not numbers; lengths that
            differ. NotFoundError: no such file.
    """
    if isinstance(source, Table):
        return source
    columns = _columns_of(source, party)
    if not_here is not None and not_here in columns:
        raise ConfigError(f"{party}: expected no column {not_here!r}, which is the label and belongs to the guest")
    taken: dict[str, Any] = {}
    for what, name in (("key", key), ("label", label), ("weight", weight)):
        if name is not None:
            if name not in columns:
                raise ConfigError(f"{party}: expected a column {name!r} as the {what}, found none")
            taken[what] = columns.pop(name)
    if only is not None:
        missing = [name for name in only if name not in columns]
        if missing:
            raise ConfigError(f"{party}: expected the columns that were trained on, found {len(missing)} missing")
        columns = {name: columns[name] for name in only}
    lengths = {len(each) for each in (*columns.values(), *taken.values())}
    if len(lengths) != 1:
        raise ConfigError(f"{party}: expected columns of one length, found {len(lengths)} lengths")
    (rows,) = lengths
    other = [name for name, column in columns.items() if column.dtype.kind not in "fiub"]
    if other:
        raise ConfigError(
            f"{party}: expected numbers in every column, found {len(other)} columns of other kinds: "
            f"{', '.join(map(repr, other[:5]))}; encode categories as numbers first"
        )
    values = scratch.empty((rows, len(columns)), np.float64)
    for at, column in enumerate(columns.values()):
        values[:, at] = column
    if label is not None:
        _check_label(taken["label"], party, label)
    if weight is not None and taken["weight"].dtype.kind not in "fiub":
        raise ConfigError(f"{party}: expected numbers in {weight!r}, the weight, found a column of another kind")
    weights = None if weight is None else taken["weight"].astype(np.float64)
    return Table(taken.get("key"), tuple(columns), values, taken.get("label"), weights)


def _check_label(label: npt.NDArray[Any], party: str, name: str) -> None:
    """Numbers, or text; what is missing among numbers is NaN, which whoever makes a response of it refuses."""
    if label.dtype.kind not in "fiubU":
        raise ConfigError(f"{party}: expected numbers or text in every row of {name!r}, the label, found other kinds")
    empty = int((label == "").sum()) if label.dtype.kind == "U" else 0
    if empty:
        raise ConfigError(f"{party}: expected a value in every row of {name!r}, the label, found {empty} empty ones")


def _columns_of(source: Any, party: str) -> dict[str, npt.NDArray[Any]]:
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix != ".parquet":
            return _read_csv(path)
        if not path.is_file():
            raise NotFoundError(f"no file {path}")
        return {name: _plain(column) for name, column in read_parquet(path, path.name).items()}
    if isinstance(source, Mapping):
        names: Any = source.keys()
    else:
        names = getattr(source, "column_names", None)
        names = getattr(source, "columns", None) if names is None else names
    if names is None:
        raise ConfigError(
            f"{party}: expected a mapping, a data frame or the path of a CSV or Parquet file, "
            f"found {type(source).__name__}"
        )
    columns: dict[str, npt.NDArray[Any]] = {}
    for name in names:
        column = np.asarray(source[name])
        if column.ndim != 1:
            raise ConfigError(f"{party}: expected columns of one dimension, found {column.ndim} in {str(name)!r}")
        columns[str(name)] = _plain(column)
    if not columns:
        raise ConfigError(f"{party}: expected columns, found none")
    return columns


def _plain(column: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Objects as text or numbers, where all are."""
    if column.dtype.kind != "O":
        return column
    kinds = {type(each) for each in column.tolist()}
    if kinds <= {str}:
        return column.astype(np.str_)
    return column.astype(np.float64) if kinds <= {int, float, bool} else column


def _read_csv(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Columns of a file with a header; those in which every field is a number, or empty for missing, are numbers."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as lines:
            header, *rows = csv.reader(lines)
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}") from None
    except (ValueError, csv.Error, OSError, EOFError) as error:
        raise ConfigError(f"{path.name}: expected a CSV file with a header, found {type(error).__name__}") from None
    bad = sum(len(row) != len(header) for row in rows)
    if bad or len(set(header)) != len(header):
        raise ConfigError(
            f"{path.name}: expected different names and {len(header)} fields a row, found {bad} other rows"
        )
    return {name: _typed([row[at] for row in rows]) for at, name in enumerate(header)}


def _typed(fields: list[str]) -> npt.NDArray[Any]:
    text = np.array(fields, np.str_)
    try:
        return text.astype(np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.where(text == "", "nan", text).astype(np.float64)
    except ValueError:
        return text
