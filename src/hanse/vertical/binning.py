"""Columns cut into bins, and what a label's counts in these bins tell: weight of evidence and information value.

N. Siddiqi, "Credit Risk Scorecards", 2006. For bin b with p positives of P in all, and n other rows of N:

    WOE_b = ln((p_b / P) / (n_b / N))        IV = Σ_b (p_b / P − n_b / N) · WOE_b

Every bin has at least a number of rows, so that what is told of a bin is told of no few people. Nothing here is a
protocol: a party cuts its own columns, and whoever learns counts turns them into numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError

Counts = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Method = Literal["quantile", "width"]

METHODS = ("quantile", "width")
MIN_ROWS = 20
MAX_BINS = 256


@dataclass(frozen=True, slots=True)
class Bins:
    """How one column is cut.

    Attributes:
        edges: float64, `(num_edges,)`, increasing: bin i holds edges[i − 1] < x ≤ edges[i].
        missing: the bin of missing values (NaN): one of their own behind the others, or the lowest where they are too
            few for one.
    """

    edges: Numbers
    missing: int

    @property
    def num_bins(self) -> int:
        """How many."""
        return max(len(self.edges), self.missing) + 1

    def place(self, column: Numbers) -> Counts:
        """The bin of each value: int64, `(n,)`. Values beyond those it was cut by fall into the outer bins."""
        return np.where(np.isnan(column), self.missing, np.searchsorted(self.edges, column, side="left"))


def cut(column: Numbers, *, num_bins: int = 10, min_rows: int = MIN_ROWS, method: Method = "quantile") -> Bins:
    """Cut a column into at most `num_bins` bins of at least `min_rows` rows each, and one of missing values.

    Args:
        column: float64, `(n,)`; NaN is missing.
        num_bins: 2 to 256.
        min_rows: ≥ 1. Smaller bins join the next; a column that does not fill two is one bin.
        method: `quantile`: edges are order statistics, about as many rows in each bin; `width`: bins of equal width.

    Raises:
        ConfigError: a setting out of range, infinite values, or fewer rows than one bin needs.
    """
    if method not in METHODS:
        raise ConfigError(f"method: expected one of {', '.join(METHODS)}, found {method!r:.40}")
    if type(num_bins) is not int or not 2 <= num_bins <= MAX_BINS:
        raise ConfigError(f"num_bins: expected a whole number from 2 to {MAX_BINS}, found {num_bins!r:.40}")
    if type(min_rows) is not int or min_rows < 1:
        raise ConfigError(f"min_rows: expected a whole number from 1 on, found {min_rows!r:.40}")
    infinite = int(np.isinf(column).sum())
    if infinite:
        raise ConfigError(f"bins: expected finite or missing values, found {infinite} infinite ones")
    if len(column) < min_rows:
        raise ConfigError(f"bins: expected at least {min_rows} rows, found {len(column)}")
    known = np.sort(column[~np.isnan(column)])
    if len(known) < min_rows:
        return Bins(np.empty(0), 0)
    has_own_bin = len(column) - len(known) >= min_rows
    if method == "quantile":
        ranks = -(-len(known) * np.arange(1, num_bins) // num_bins) - 1
        edges = np.unique(known[ranks])
    else:
        share = np.arange(1, num_bins) / num_bins
        edges = np.unique(known[0] * (1 - share) + known[-1] * share)
    edges = _merged(known, edges[edges < known[-1]], min_rows)
    return Bins(edges, len(edges) + 1 if has_own_bin else 0)


def _merged(known: Numbers, edges: Numbers, min_rows: int) -> Numbers:
    """The edges that are left once bins of too few rows have joined the next, and the last one the one before."""
    kept: list[float] = []
    below = 0
    for edge, upto in zip(edges, np.searchsorted(known, edges, side="right"), strict=True):
        if upto - below >= min_rows:
            kept.append(float(edge))
            below = int(upto)
    if kept and len(known) - below < min_rows:
        kept.pop()
    return np.array(kept, np.float64)


def count(places: Counts, num_bins: int, positive: npt.NDArray[np.bool_] | None = None) -> Counts:
    """Rows of each bin, or positive ones: int64, `(num_bins,)`."""
    return np.bincount(places if positive is None else places[positive], minlength=num_bins).astype(np.int64)


def woe(rows: Counts, positives: Counts) -> Numbers:
    """The weight of evidence of each bin of a column: float64, `(num_bins,)`.

    Args:
        rows, positives: of each bin. Half a row is added to both kinds in a bin that holds one kind alone.

    Raises:
        ConfigError: counts of one kind only.
    """
    return _terms(rows, positives)[1]


def information_value(rows: Counts, positives: Counts) -> float:
    """IV of a column from the counts in its bins; arguments and errors as for `woe`. 0 where there is one bin."""
    differences, logs = _terms(rows, positives)
    return float(differences @ logs)


def _terms(rows: Counts, positives: Counts) -> tuple[Numbers, Numbers]:
    others = rows - positives
    if not positives.sum() or not others.sum():
        raise ConfigError("woe: expected rows of both kinds, found one")
    half = np.where((positives == 0) | (others == 0), 0.5, 0.0) * (len(rows) > 1)
    p, n = (positives + half) / positives.sum(), (others + half) / others.sum()
    return p - n, np.log(p / n)


def transform(column: Numbers, bins: Bins, evidence: Numbers) -> Numbers:
    """Each value replaced by the weight of evidence of its bin: float64, `(n,)`."""
    return evidence[bins.place(column)]


def cut_all(table: Numbers, *, num_bins: int, min_rows: int, method: Method) -> list[Bins]:
    """Bins of every column of a table, float64 `(n, num_columns)`; see `cut`."""
    return [cut(column, num_bins=num_bins, min_rows=min_rows, method=method) for column in table.T]


def of_columns(flat: Counts, num_bins: Sequence[int]) -> list[Counts]:
    """Counts of one column behind the other, column by column."""
    return np.split(flat, np.cumsum(num_bins)[:-1])
