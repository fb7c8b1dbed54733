"""A party's own columns, checked and brought into the form that is trained on.

Each column is brought to mean 0 and variance 1 by its owner alone, so that one fixed-point range fits all and the
learning rate means the same everywhere. The guest's first column is the intercept, a column of ones.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core import scratch
from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import Table

MIN_ROWS = 8
MAX_ROWS = 1 << 27
MAX_COLUMNS = 1 << 14
INTERCEPT = "(intercept)"


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns ready for a protocol.

    Attributes:
        values: float64, `(num_rows, num_columns)`, C order.
        names: one for each column.
        means, deviations: float64, `(num_columns,)`: values are (table − means) / deviations, then clipped.
        clip: the largest absolute value that was let through, or None.
    """

    values: Table
    names: tuple[str, ...]
    means: Table
    deviations: Table
    clip: float | None = None

    @property
    def penalised(self) -> npt.NDArray[np.bool_]:
        """False for the intercept."""
        return np.array([name != INTERCEPT for name in self.names])

    @property
    def own_names(self) -> tuple[str, ...]:
        """Names without the intercept."""
        return tuple(name for name in self.names if name != INTERCEPT)

    def apply(self, table: Table) -> Table:
        """Bring further rows into the same form.

        Args:
            table: float64, `(n, num_columns)`, without the intercept.

        Raises:
            ConfigError: another number of columns, or values that are not finite.
        """
        num_own = int(self.penalised.sum())
        if table.ndim != 2 or table.shape[1] != num_own:
            raise ConfigError(f"table: expected {num_own} columns, found {table.shape[1:] or 'one dimension'}")
        _check_finite(table)
        return _scaled(table, self.means, self.deviations, self.clip)


def prepare(
    table: Table,
    names: tuple[str, ...] | None = None,
    *,
    intercept: bool,
    standardise: bool = True,
    clip: float | None = None,
) -> Columns:
    """Check a party's columns and scale them.

    Args:
        table: numbers, `(num_rows, num_columns)`.
        names: of the columns; by default `x0`, `x1`, ….
        intercept: whether this party, the guest, adds the column of ones.
        standardise: bring columns to mean 0 and variance 1.
        clip: hold scaled values within ±clip, > 0.

    Raises:
        ConfigError: too few rows, too many columns, columns that are constant or not finite. It counts them and names
            no value.
    """
    table = np.asarray(table)
    if table.ndim != 2 or table.dtype.kind not in "fiub":
        raise ConfigError(
            f"table: expected rows and columns of numbers, found {table.ndim} dimensions of {table.dtype}"
        )
    if table.dtype != np.float64:
        table = table.astype(np.float64)
    rows, count = table.shape
    if not MIN_ROWS <= rows <= MAX_ROWS:
        raise ConfigError(f"table: expected {MIN_ROWS} to {MAX_ROWS} rows, found {rows}")
    if not 1 <= count + intercept <= MAX_COLUMNS:
        raise ConfigError(f"table: expected 1 to {MAX_COLUMNS} columns, found {count}")
    names = tuple(f"x{at}" for at in range(count)) if names is None else names
    if len(names) != count or len(set(names)) != count or INTERCEPT in names:
        raise ConfigError(f"table: expected {count} different column names other than {INTERCEPT}, found {len(names)}")
    if clip is not None and not clip > 0:
        raise ConfigError(f"clip: expected a number above 0, found {clip}")
    _check_finite(table)
    means, deviations = _moments(table) if standardise else (np.zeros(count), np.ones(count))
    constant = int((np.ptp(table, axis=0) == 0).sum())
    if constant:
        raise ConfigError(f"table: expected columns that vary, found {constant} that are constant; leave them out")
    if intercept:
        names = (INTERCEPT, *names)
        means, deviations = np.concatenate([[0.0], means]), np.concatenate([[1.0], deviations])
    return Columns(_scaled(table, means, deviations, clip), names, means, deviations, clip)


def _check_finite(table: Table) -> None:
    bad = np.zeros(table.shape[1], np.bool_)
    for block in scratch.blocks(table):
        bad |= (~np.isfinite(table[block])).any(axis=0)
    if bad.any():
        raise ConfigError(f"table: expected finite columns, found {int(bad.sum())} with missing or infinite values")


def _moments(table: Table) -> tuple[Table, Table]:
    with np.errstate(over="ignore", invalid="ignore"):  # refused below
        means = table.mean(axis=0, dtype=np.float64)
        squares = np.zeros_like(means)
        for block in scratch.blocks(table):
            squares += ((table[block] - means) ** 2).sum(axis=0)
    deviations = np.sqrt(squares / len(table))
    vanishing = deviations <= 1e-14 * np.maximum(np.abs(means), np.finfo(np.float64).tiny)
    if vanishing.any() or not np.isfinite(deviations).all():
        bad = int((vanishing | ~np.isfinite(deviations)).sum())
        raise ConfigError(f"table: expected columns that vary within the range of floats, found {bad} that do not")
    return means, deviations


def _scaled(table: Table, means: Table, deviations: Table, clip: float | None) -> Table:
    """The table, where it is one column short after a column of ones, scaled and clipped."""
    scaled = scratch.empty((len(table), len(means)), np.float64)
    intercept = len(means) - table.shape[1]
    scaled[:, :intercept] = 1.0
    for block in scratch.blocks(table):
        part = scaled[block, intercept:]
        np.subtract(table[block], means[intercept:], out=part)
        part /= deviations[intercept:]
        if clip is not None:
            np.clip(part, -clip, clip, out=part)
    return scaled
