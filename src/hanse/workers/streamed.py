"""Columns of CSV and Parquet files that are read piece by piece: data sets declared with `streamed: text | numbers`.

What a column holds is declared, since it cannot be seen before all of it has been read. Numbers are whole ones, such as
identifiers. A missing value is an error. Messages name columns and never a value.
"""

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.errors import ConfigError, MissingExtraError
from hanse.core.stream import Stream

KINDS = ("text", "numbers")
PIECE_ROWS = 1 << 16


def csv_columns(
    name: str, path: Path, kind: str, delimiter: str, wanted: Callable[[Sequence[str]], list[str]]
) -> dict[str, Stream]:
    """A stream for each column of a CSV file that is wanted.

    Raises:
        ConfigError: no file of this form; when a column is read, lines or values of another form.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = [column.strip() for column in next(csv.reader(file, delimiter=delimiter), [])]
    except (csv.Error, UnicodeDecodeError) as error:
        raise _not_csv(name, error) from None
    if not header or len(set(header)) != len(header):
        raise ConfigError(f"data set {name}: expected a first line of distinct column names")
    return {
        column: Stream(partial(_csv_pieces, name, path, kind, delimiter, column, header)) for column in wanted(header)
    }


def _csv_pieces(name: str, path: Path, kind: str, delimiter: str, column: str, header: Sequence[str]) -> Iterator[Any]:
    place = header.index(column)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file, delimiter=delimiter)
            next(rows)
            while block := list(itertools.islice(rows, PIECE_ROWS)):
                filled = [row for row in block if row]
                if any(len(row) != len(header) for row in filled):
                    raise ConfigError(
                        f"data set {name}: expected {len(header)} columns, found others in one of the lines up to "
                        f"{rows.line_num}"
                    )
                yield _checked(name, column, kind, [row[place].strip() for row in filled])
    except (csv.Error, UnicodeDecodeError) as error:
        raise _not_csv(name, error) from None


def parquet_columns(
    name: str, path: Path, kind: str, wanted: Callable[[Sequence[str]], list[str]]
) -> dict[str, Stream]:
    """A stream for each column of a Parquet file that is wanted; errors as for `csv_columns`.

    Raises:
        MissingExtraError: without pyarrow.
    """
    try:
        from pyarrow import lib, parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "arrow") from None
    try:
        header = parquet.read_schema(path).names
    except (lib.ArrowException, OSError) as error:
        raise ConfigError(f"data set {name}: not a parquet file ({type(error).__name__})") from None
    return {column: Stream(partial(_parquet_pieces, name, path, kind, column)) for column in wanted(header)}


def _parquet_pieces(name: str, path: Path, kind: str, column: str) -> Iterator[Any]:
    from pyarrow import lib, parquet  # it is there: the header was read

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(PIECE_ROWS, columns=[column]):
                yield _checked(name, column, kind, batch.column(0).to_pylist())
    except (lib.ArrowException, OSError) as error:
        raise ConfigError(f"data set {name}: not a parquet file ({type(error).__name__})") from None


def _checked(name: str, column: str, kind: str, values: list[Any]) -> Any:
    if any(each is None or each == "" for each in values):
        raise ConfigError(f"data set {name}: values are missing in {column}, which a stream cannot have")
    if kind == "text":
        if not all(type(each) is str for each in values):
            raise ConfigError(f"data set {name}: expected text in {column}; declare `streamed: numbers`")
        return values
    try:
        numbers = np.array(values, np.float64)
    except (ValueError, TypeError):
        numbers = np.array([np.nan])
    if not (np.isfinite(numbers) & (numbers == np.trunc(numbers)) & (np.abs(numbers) < 2.0**53)).all():
        raise ConfigError(f"data set {name}: expected whole numbers in {column}; declare `streamed: text`")
    return numbers.astype(np.int64)


def _not_csv(name: str, error: Exception) -> ConfigError:
    return ConfigError(f"data set {name}: not a CSV file in UTF-8 ({type(error).__name__})")
