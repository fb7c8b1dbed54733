"""A party's own columns as bins, and which neighbouring bins are told as one.

Edges are order statistics of the party's own column, so nobody else is asked; a split asks x ≤ edge. Bin b holds the
values with exactly b edges below them; missing values (NaN) have a bin of their own. In each node, neighbouring bins
are merged until every sum that is told stands for at least `min_bin_rows` rows. The rules are those of the
specification, docs/explanation/boosting-spec.md, §2 and §5.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core import scratch
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError

Wide = npt.NDArray[np.float64]
MAX_ROWS = 1 << 26
MAX_COLUMNS = 1 << 14


@dataclass(frozen=True, slots=True)
class BinnedColumns:
    """Columns ready for training.

    Attributes:
        bins: uint16, `(num_columns, num_rows)`, C order; `max_bins` where a value is missing.
        edges: of each column, float64, rising.
        names: of the columns.
        max_bins: the largest number of bins of a column, without the one of missing values.
    """

    bins: Array
    edges: tuple[Wide, ...]
    names: tuple[str, ...]
    max_bins: int

    @property
    def num_rows(self) -> int:
        """How many."""
        return int(self.bins.shape[1])

    @property
    def num_columns(self) -> int:
        """How many."""
        return len(self.edges)

    def apply(self, table: Wide) -> Array:
        """The bins of further rows, as `bins`; table: float64, `(n, num_columns)`."""
        return _bins_of(scratch.transposed(table), self.edges, self.max_bins)


def binned(table: Wide, names: Sequence[str], max_bins: int) -> BinnedColumns:
    """Bring a table into bins.

    Args:
        table: float64, `(num_rows, num_columns)`; NaN is missing.
        names: of the columns.
        max_bins: 2 to 1024.

    Raises:
        ConfigError: no rows or columns, too many of them, or infinite values.
    """
    if table.ndim != 2 or not 1 <= len(table) <= MAX_ROWS or not 1 <= table.shape[1] <= MAX_COLUMNS:
        raise ConfigError(f"table: expected 1 to {MAX_ROWS} rows and 1 to {MAX_COLUMNS} columns, found {table.shape}")
    columns = scratch.transposed(table)
    infinite = sum(int(np.isinf(column).sum()) for column in columns)
    if infinite:
        raise ConfigError(f"table: expected finite or missing values, found {infinite} infinite ones; clip them first")
    edges = tuple(edges_of(column, max_bins) for column in columns)
    return BinnedColumns(_bins_of(columns, edges, max_bins), edges, tuple(names), max_bins)


def edges_of(column: Wide, max_bins: int) -> Wide:
    """Edges of one column, float64, rising, fewer than `max_bins`; none of them is its largest value.

    All distinct values where there are at most `max_bins`, otherwise the order statistics of ranks ⌈t·m / max_bins⌉.
    """
    ranked = np.sort(column[~np.isnan(column)])
    distinct = np.unique(ranked)
    if len(distinct) <= max_bins:
        return distinct[:-1]
    ranks = -(-np.arange(1, max_bins) * len(ranked) // max_bins)
    chosen = np.unique(ranked[ranks - 1])
    edges: Wide = chosen[chosen < ranked[-1]]
    return edges


def _bins_of(columns: Wide, edges: Sequence[Wide], max_bins: int) -> Array:
    """Bins of `columns`, `(num_columns, num_rows)`."""
    made = scratch.empty(columns.shape, np.uint16)
    for at, (column, each) in enumerate(zip(columns, edges, strict=True)):
        made[at] = np.searchsorted(each, column, side="left")
        made[at][np.isnan(column)] = max_bins
    return made


@dataclass(frozen=True, slots=True)
class Groups:
    """Which bins of which column are told as one, in one node.

    Attributes:
        group: int64, `(num_columns, max_bins + 1)`: the group of each bin; the last column is that of missing values.
        num_groups: int64, `(num_columns,)`: how many there are, without that of missing values.
        apart: bool, `(num_columns,)`: whether missing values are a group of their own, the last one.
        last_bin: int64, `(num_columns, max_bins)`: the last bin of each group; `max_bins` beyond the last.
    """

    group: Array
    num_groups: Array
    apart: npt.NDArray[np.bool_]
    last_bin: Array

    @property
    def told(self) -> Array:
        """int64, `(num_columns,)`: how many sums each column has; none where it cannot be split."""
        count: Array = self.num_groups + self.apart
        return np.where(count > 1, count, 0)

    def cells(self) -> tuple[Array, int]:
        """Where each bin's sum belongs among all that are told, int64 as `group`, and how many there are.

        Bins of columns that cannot be split belong to the place after the last.
        """
        told = self.told
        starts = np.cumsum(told) - told
        total = int(told.sum())
        return np.where((told > 0)[:, None], starts[:, None] + self.group, total), total


def groups_of(rows: Array, num_edges: Array, min_rows: int) -> Groups:
    """Merge neighbouring bins, from the lowest on, until each group has `min_rows` rows; the rest joins the last group.

    Missing values stay apart if they are that many and the others are, too; otherwise they join the last group.

    Args:
        rows: int64, `(num_columns, max_bins + 1)`: rows of the node in each bin.
        num_edges: int64, `(num_columns,)`.
        min_rows: ≥ 1.
    """
    num_columns, width = rows.shape
    max_bins = width - 1
    group = np.zeros(rows.shape, np.int64)
    last_bin = np.full((num_columns, max_bins), max_bins, np.int64)
    closed = np.zeros(num_columns, np.int64)
    running = np.zeros(num_columns, np.int64)
    for at in range(max_bins):
        group[:, at] = closed
        running += rows[:, at]
        full = np.flatnonzero(running >= min_rows)
        last_bin[full, closed[full]] = at
        closed[full] += 1
        running[full] = 0
    num_groups = np.maximum(closed, 1)
    group = np.minimum(group, (num_groups - 1)[:, None])
    every = np.arange(num_columns)
    last_bin[every, num_groups - 1] = num_edges
    missing = rows[:, max_bins]
    apart = (missing >= min_rows) & (rows[:, :max_bins].sum(axis=1) >= min_rows)
    group[:, max_bins] = np.where(apart, num_groups, num_groups - 1)
    return Groups(group, num_groups, apart, last_bin)
