"""Parquet files by columns, a batch of rows at a time, so that a file may be larger than memory (see `scratch`).

Needs `pyarrow`, the extra `arrow`. Whole numbers without missing values stay whole, with missing ones they become
floats with NaN; text is text where no value is missing, otherwise objects with None.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, MissingExtraError
from hanse.core.scratch import Growing

BATCH_VALUES = 1 << 20
"""Of all columns together, in memory at a time."""


def read_parquet(
    path: Path, what: str, wanted: Callable[[Sequence[str]], Sequence[str]] = lambda names: names
) -> dict[str, Array]:
    """Read columns.

    Args:
        path: of the file.
        what: begins messages.
        wanted: names of columns in the file → those to read, in their order.

    Raises:
        ConfigError: not such a file, or columns that are no plain values. MissingExtraError: pyarrow is not installed.
    """
    try:
        from pyarrow import lib, parquet, types
    except ImportError:
        raise MissingExtraError("pyarrow", "arrow") from None
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
            schema = file.schema_arrow
            names = list(wanted(schema.names))
            nested = [name for name in names if types.is_nested(schema.field(name).type)]
            if nested or len(set(schema.names)) != len(schema.names):
                raise ConfigError(
                    f"{what}: expected different names and columns of plain values, found {len(nested)} that are nested"
                )
            holed = _holed(file, names)
            growing = Growing(names)
            for batch in file.iter_batches(max(1, BATCH_VALUES // max(1, len(names))), columns=names):
                growing.append({name: _piece(batch.column(name), has_holes=name in holed) for name in names})
            return growing.columns()
    except MemoryError:
        raise
    except (lib.ArrowException, OSError) as error:
        raise ConfigError(f"{what}: not a parquet file ({type(error).__name__})") from None


def _holed(file: Any, names: Sequence[str]) -> set[str]:
    """Columns with missing values, from the file's statistics, and by reading those that have none."""
    metadata, found, unknown = file.metadata, set(), set()
    places = {metadata.schema.column(at).path: at for at in range(metadata.num_columns)}
    for name in names:
        for group in range(metadata.num_row_groups):
            statistics = metadata.row_group(group).column(places[name]).statistics
            if statistics is None or not statistics.has_null_count:
                unknown.add(name)
            elif statistics.null_count:
                found.add(name)
    for name in unknown - found:
        if any(batch.column(name).null_count for batch in file.iter_batches(BATCH_VALUES, columns=[name])):
            found.add(name)
    return found


def _piece(column: Any, *, has_holes: bool) -> Array:
    piece: Array = column.to_numpy(zero_copy_only=False)
    if piece.dtype.kind in "biu" and has_holes:
        return piece.astype(np.float64)
    if piece.dtype.kind == "O" and not has_holes and all(type(each) is str for each in piece.tolist()):
        return piece.astype(np.str_)
    return piece
