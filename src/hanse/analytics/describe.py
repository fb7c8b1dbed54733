"""`Describe`: count, mean, standard deviation and quartiles of columns, by group if wanted.

Means and variances come of sums without rounding (`exact.py`), quartiles of order statistics (`orders.py`): the same
bits however the rows are divided into sites. With `min_group` 1 they are those of the pooled rows; above, means and
deviations still are, while order statistics are those of the released values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.analytics import orders
from hanse.analytics.answer import Answer
from hanse.analytics.exact import (
    PRODUCT_DIGITS,
    PRODUCT_SCALE,
    SUM_DIGITS,
    SUM_SCALE,
    exact_dot,
    exact_sum,
    from_digits,
    to_digits,
)
from hanse.analytics.question import GroupedQuestion, check_columns, check_numbers, freeze, known_and, layout_for
from hanse.analytics.release import is_small_split
from hanse.analytics.table import Table
from hanse.core.arrays import Array, Arrays, Layout

QUARTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
NAMES = ("min", "q25", "median", "q75", "max")


@dataclass(frozen=True)
class Quantiles(GroupedQuestion):
    """Order statistics of columns, found by narrowing them down over counts (`orders.py`).

    Args:
        columns: one column or several.
        q: levels from 0 to 1; between two order statistics the quantile is interpolated, as NumPy does by default.

    With `min_group` k above 1 a site counts means of k rows (`release.microaggregated`): then the rank of an answer is
    wrong by less than 2k − 1 rows a site, and the extremes are means of the k outermost rows.

    Example:
        >>> Quantiles("age", [0.5], data="patients").q
        (0.5,)
    """

    columns: Sequence[str]
    q: Sequence[float] = (0.25, 0.5, 0.75)

    kind: ClassVar[str] = "quantiles"

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "columns", check_columns("columns", self.columns))
        freeze(self, "q", check_numbers("q", self.q, 0.0, 1.0))

    def steps(self) -> tuple[str, ...]:
        """One phase for each byte of a float64."""
        return orders.PHASES

    def layout_of(self, phase: str, model: Arrays | None, num_groups: int) -> Layout:
        """See `GroupedQuestion.layout_of`."""
        return orders.layout(phase, num_groups, len(self.columns), len(self.q))

    def tell_groups(
        self, phase: str, table: Table, model: Arrays | None, rows: Sequence[npt.NDArray[np.intp]]
    ) -> Arrays:
        """See `GroupedQuestion.tell_groups`."""
        return orders.tell(phase, table, model, rows, self.columns, len(self.q), self.min_group)

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        return orders.advance(phase, model, totals, self.q, self.min_sites)

    def answer(self, model: Arrays) -> Answer:
        """A line for each group, column and level."""
        values = orders.quantiles(model, self.q)
        rows = [
            {**self._labelled(group), "column": column, "q": q, "value": values[g][c][t]}
            for g, group in enumerate(self.names(model))
            for c, column in enumerate(self.columns)
            for t, q in enumerate(self.q)
        ]
        return Answer(f"Quantiles of {', '.join(self.columns)}", tuple(rows), notes=self._notes())


@dataclass(frozen=True)
class Describe(GroupedQuestion):
    """What a column looks like.

    Args:
        columns: one column or several.
        order: whether quartiles and extremes are wanted too, which takes eight more phases.
    """

    columns: Sequence[str]
    order: bool = True

    kind: ClassVar[str] = "describe"

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "columns", check_columns("columns", self.columns))

    def steps(self) -> tuple[str, ...]:
        """Sums, then the order statistics byte by byte."""
        return ("moments", *orders.PHASES) if self.order else ("moments",)

    def layout_of(self, phase: str, model: Arrays | None, num_groups: int) -> Layout:
        """See `GroupedQuestion.layout_of`."""
        cells = (num_groups, len(self.columns))
        if phase != "moments":
            return orders.layout(phase, *cells, len(QUARTILES))
        return layout_for(
            {
                "count": cells,
                "missing": cells,
                "sites": cells,
                "sum": (*cells, SUM_DIGITS),
                "squares": (*cells, PRODUCT_DIGITS),
            }
        )

    def tell_groups(
        self, phase: str, table: Table, model: Arrays | None, rows: Sequence[npt.NDArray[np.intp]]
    ) -> Arrays:
        """See `GroupedQuestion.tell_groups`."""
        if phase != "moments":
            return orders.tell(phase, table, model, rows, self.columns, len(QUARTILES), self.min_group)
        told = {
            spec.name: np.zeros(spec.shape, dtype=np.int64) for spec in self.layout_of(phase, model, len(rows)).specs
        }
        for c, column in enumerate(self.columns):
            numbers = table.numbers(column)
            for g, places in enumerate(rows):
                values = numbers[places]
                missing = int(np.isnan(values).sum())
                values = values[~np.isnan(values)]
                if not self._enough(values) or is_small_split(values, self.min_group):
                    continue
                told["count"][g, c], told["sites"][g, c] = len(values), 1
                told["missing"][g, c] = missing if missing >= self.min_group else 0
                told["sum"][g, c] = to_digits(exact_sum(values), SUM_DIGITS)
                told["squares"][g, c] = to_digits(exact_dot(values, values), PRODUCT_DIGITS)
        return Arrays(told)

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        if phase != "moments":
            return orders.advance(phase, model, totals, QUARTILES, self.min_sites)
        keep = totals["sites"] >= self.min_sites
        return known_and(model, {name: _where(keep, array) for name, array in totals.items()})

    def answer(self, model: Arrays) -> Answer:
        """A line for each group and column."""
        found = orders.quantiles(model, QUARTILES) if self.order else None
        rows: list[dict[str, Any]] = []
        for g, group in enumerate(self.names(model)):
            for c, column in enumerate(self.columns):
                count = int(model["count"][g, c])
                mean, variance = moments(count, model["sum"][g, c], model["squares"][g, c])
                row: dict[str, Any] = {**self._labelled(group), "column": column, "count": count or None}
                row |= {"missing": int(model["missing"][g, c]) if count else None, "mean": mean}
                row["std"] = None if variance is None else math.sqrt(variance)
                if found is not None:
                    row |= dict(zip(NAMES, found[g][c], strict=True))
                rows.append(row)
        return Answer(f"{', '.join(self.columns)}", tuple(rows), notes=self._notes())


def moments(count: int, total: Array, squares: Array) -> tuple[float | None, float | None]:
    """Mean and sample variance (divisor n − 1), each rounded once.

    Args:
        count: n.
        total: digits of Σ x. squares: digits of Σ x².
    """
    if count < 1:
        return None, None
    s, ss = from_digits(total), from_digits(squares)
    mean = ratio(s, count << SUM_SCALE)
    if count < 2:
        return mean, None
    return mean, ratio(count * ss - s * s, (count * (count - 1)) << PRODUCT_SCALE)


def ratio(numerator: int, denominator: int) -> float | None:
    """The quotient of two whole numbers, rounded once; None beyond the range of float64."""
    try:
        return numerator / denominator
    except OverflowError:
        return None


def _where(keep: Array, array: Array) -> Array:
    return np.where(keep.reshape(keep.shape + (1,) * (array.ndim - keep.ndim)), array, 0)
