"""`Correlation`: Pearson's correlation and the covariance of columns, of rows in which all of them are known.

Made of sums without rounding (`exact.py`), and rounded once: the same bits however the rows are divided into sites.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hanse.analytics.answer import Answer
from hanse.analytics.describe import ratio
from hanse.analytics.drawing import matrix
from hanse.analytics.exact import (
    PRODUCT_DIGITS,
    PRODUCT_SCALE,
    SUM_DIGITS,
    exact_dot,
    exact_sum,
    from_digits,
    to_digits,
)
from hanse.analytics.question import Question, check_columns, freeze, layout_for
from hanse.analytics.release import is_small_split, is_small_table
from hanse.analytics.table import Table
from hanse.core.arrays import Arrays, Layout
from hanse.core.errors import ConfigError

ROWS_PER_COLUMN = 3
"""Fewer rows for each column, and the sums of products would nearly tell the rows."""


@dataclass(frozen=True)
class Correlation(Question):
    """How columns move together.

    A site takes part if it has `min_group` complete rows, three for each column, no column in which few rows differ
    from the rest, and no two columns of which few rows differ together, or in one alone (`release.is_small_split`,
    `release.is_small_table`).

    Args:
        columns: two columns or more.
    """

    columns: Sequence[str]

    kind: ClassVar[str] = "correlation"

    def __post_init__(self) -> None:
        super().__post_init__()
        freeze(self, "columns", check_columns("columns", self.columns))
        if len(self.columns) < 2:
            raise ConfigError("columns: expected at least two, found one")

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Places of the columns of every product, in order."""
        count = len(self.columns)
        return tuple((i, j) for i in range(count) for j in range(i, count))

    def tell(self, phase: str, table: Table, model: Arrays | None) -> Arrays:
        """See `Question.tell`."""
        told = {spec.name: np.zeros(spec.shape, dtype=np.int64) for spec in self.layout(phase, model).specs}
        values = [table.numbers(column) for column in self.columns]
        complete = ~np.isnan(np.stack(values)).any(axis=0)
        values = [column[complete] for column in values]
        rows = int(complete.sum())
        if rows < max(self.min_group, ROWS_PER_COLUMN * len(values) if self.min_group > 1 else 1):
            return Arrays(told)
        if any(is_small_split(column, self.min_group) for column in values):
            return Arrays(told)
        if any(is_small_table(values[i], values[j], self.min_group) for i, j in self.pairs if i != j):
            return Arrays(told)
        told["count"][0], told["sites"][0] = rows, 1
        for c, column in enumerate(values):
            told["sum"][c] = to_digits(exact_sum(column), SUM_DIGITS)
        for p, (i, j) in enumerate(self.pairs):
            told["products"][p] = to_digits(exact_dot(values[i], values[j]), PRODUCT_DIGITS)
        return Arrays(told)

    def layout(self, phase: str, model: Arrays | None) -> Layout:
        """See `Question.layout`."""
        return layout_for(
            {
                "count": (1,),
                "sites": (1,),
                "sum": (len(self.columns), SUM_DIGITS),
                "products": (len(self.pairs), PRODUCT_DIGITS),
            }
        )

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        enough = totals["sites"][0] >= self.min_sites
        return totals if enough else Arrays({name: np.zeros_like(array) for name, array in totals.items()})

    def answer(self, model: Arrays) -> Answer:
        """A line for each column, with its correlation with every column."""
        r = self.correlations(model)
        rows = [{"column": name, **dict(zip(self.columns, r[i], strict=True))} for i, name in enumerate(self.columns)]
        facts = {"rows": int(model["count"][0])}
        return Answer("Correlation", tuple(rows), facts, self._notes(), matrix(list(self.columns), r))

    def correlations(self, model: Arrays) -> list[list[float | None]]:
        """The symmetric matrix; None where a column does not vary."""
        moved = self._moved(model)
        places = range(len(moved))
        return [[_correlation(moved[i][j], moved[i][i], moved[j][j]) for j in places] for i in places]

    def covariances(self, model: Arrays) -> list[list[float | None]]:
        """The symmetric matrix of sample covariances (divisor n − 1)."""
        n = int(model["count"][0])
        scale = (n * (n - 1)) << PRODUCT_SCALE
        return [[ratio(value, scale) if n > 1 else None for value in line] for line in self._moved(model)]

    def _moved(self, model: Arrays) -> list[list[int]]:
        """n Σ xy − Σ x Σ y, in units of 2**−PRODUCT_SCALE."""
        n, count = int(model["count"][0]), len(self.columns)
        sums = [from_digits(digits) for digits in model["sum"]]
        moved: list[list[Any]] = [[0] * count for _ in range(count)]
        for p, (i, j) in enumerate(self.pairs):
            moved[i][j] = moved[j][i] = n * from_digits(model["products"][p]) - sums[i] * sums[j]
        return moved


def _correlation(xy: int, xx: int, yy: int) -> float | None:
    """xy / √(xx · yy), rounded twice."""
    if xx <= 0 or yy <= 0:
        return None
    size = math.sqrt((xy * xy) / (xx * yy))
    return min(size, 1.0) if xy >= 0 else -min(size, 1.0)
