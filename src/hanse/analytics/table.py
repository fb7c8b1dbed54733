"""A site's data as named columns, whatever the owner's loader returns: `Table.of`.

Taken are a mapping of columns, a structured array, a pair (X, y), or a data frame of pandas, Polars or PyArrow; none of
these libraries is imported here. Messages name columns, never a value.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError

T = TypeVar("T")
UNKNOWN = ("", "<NA>", "NaT")
"""How missing values of data frames print."""
Wide = npt.NDArray[np.float64]


class Table:
    """Columns of one length. What is made of them is kept while the worker lives.

    Args:
        columns: name → values, `(rows,)`.
    """

    def __init__(self, columns: Mapping[str, Any]) -> None:
        self._columns = dict(columns)
        lengths = {len(column) for column in self._columns.values()}
        if len(lengths) != 1:
            raise ConfigError(f"data: expected columns of one length, found {len(lengths)} lengths")
        self.num_rows = lengths.pop()
        self._made: dict[Any, Any] = {}

    @classmethod
    def of(cls, data: Any) -> "Table":
        """Name the columns of whatever a data set is.

        Raises:
            ConfigError: something else, or columns of several lengths.
        """
        if isinstance(data, Table):
            return data
        if isinstance(data, Mapping):
            return cls({str(name): _flat(str(name), column) for name, column in data.items()})
        if isinstance(data, np.ndarray) and data.dtype.names:
            return cls({name: data[name] for name in data.dtype.names})
        if isinstance(data, tuple) and len(data) == 2:
            return cls(_of_pair(*data))
        names = getattr(data, "column_names", None) or getattr(data, "columns", None)  # pyarrow, then pandas and Polars
        if names is not None and hasattr(data, "__getitem__"):
            return cls({str(name): _flat(str(name), data[name]) for name in names})
        raise ConfigError(
            "data: expected named columns (a mapping, a structured array, a data frame) or (X, y), "
            f"found {type(data).__name__}"
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(self._columns)

    def numbers(self, name: str) -> Wide:
        """A column as float64, `(rows,)`; NaN where a value is missing.

        Raises:
            ConfigError: no such column, not numbers, or infinite ones.
        """
        return self.once(("numbers", name), lambda: self._numbers(name))

    def words(self, name: str) -> npt.NDArray[np.object_]:
        """A column as texts, `(rows,)`; None where a value is missing. Whole numbers are written without a point.

        Raises:
            ConfigError: no such column.
        """
        return self.once(("words", name), lambda: np.array([_word(v) for v in self._column(name)] or [], dtype=object))

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """Make something of the table, or give what was made under this key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def _numbers(self, name: str) -> Wide:
        column = self._column(name)
        try:
            values = np.asarray(column, dtype=np.float64)
        except (TypeError, ValueError):
            try:
                values = np.array(
                    [math.nan if v is None or str(v) in UNKNOWN else float(v) for v in column], dtype=np.float64
                )
            except (TypeError, ValueError):
                raise ConfigError(f"column {name[:60]!r}: expected numbers, found something else") from None
        if np.isinf(values).any():
            raise ConfigError(f"column {name[:60]!r}: expected finite numbers, found infinite ones")
        return values + 0.0  # no −0.0

    def _column(self, name: str) -> Any:
        if name not in self._columns:
            raise ConfigError(
                f"column {name[:60]!r}: expected a column of the data set, found none of that name (one that its owner "
                "declared with a target is x0, x1, … and y)"
            )
        return self._columns[name]


def _of_pair(x: Any, y: Any) -> dict[str, Any]:
    """`(X, y)`: columns of X keep their names where it has any, and are x0, x1, … otherwise; y is y."""
    if hasattr(x, "columns") or hasattr(x, "column_names") or isinstance(x, Mapping):
        table = Table.of(x)
        columns: dict[str, Any] = {name: table._columns[name] for name in table.names}
    else:
        matrix = np.asarray(x)
        if matrix.ndim != 2:
            raise ConfigError(f"data: expected X of two dimensions, found {matrix.ndim}")
        columns = {f"x{index}": matrix[:, index] for index in range(matrix.shape[1])}
    return {**columns, "y": _flat("y", y)}


def _flat(name: str, column: Any) -> Any:
    if isinstance(column, Sequence) and not isinstance(column, str):
        return column
    values = column.to_numpy(zero_copy_only=False) if hasattr(column, "combine_chunks") else np.asarray(column)
    if values.ndim != 1:
        raise ConfigError(f"column {name[:60]!r}: expected one value a row, found {values.ndim} dimensions")
    return values


def _word(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode(errors="replace") or None
    if isinstance(value, float | np.floating):
        number = float(value)
        if math.isnan(number):
            return None
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    text = str(value)
    return None if text in UNKNOWN else text
