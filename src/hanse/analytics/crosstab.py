"""`Crosstab`: how many rows have each pair of values of two columns, with Pearson's χ² test of independence."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hanse.analytics.answer import Answer
from hanse.analytics.drawing import bars
from hanse.analytics.question import Question, check_text, check_words, freeze, known_and, layout_for
from hanse.analytics.release import withheld
from hanse.analytics.significance import chi_squared_tail
from hanse.analytics.table import Table
from hanse.analytics.words import frequent_words, joined_words, pack_words, read_words, wrong_words
from hanse.core.arrays import Array, Arrays, Layout

VALUES = ("rows", "columns")


@dataclass(frozen=True)
class Crosstab(Question):
    """Counts by two columns.

    Args:
        rows, columns: the two columns.
        row_values, column_values: their values; where either is empty, the sites name those that at least `min_group`
            of their rows have.
    """

    rows: str
    columns: str
    row_values: Sequence[str] = ()
    column_values: Sequence[str] = ()

    kind: ClassVar[str] = "crosstab"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("rows", self.rows)
        check_text("columns", self.columns)
        for name in ("row_values", "column_values"):
            freeze(self, name, check_words(name, getattr(self, name)))

    def phases(self) -> tuple[str, ...]:
        """`values`, where they are not known, then `tell`."""
        return ("tell",) if self.row_values and self.column_values else ("values", "tell")

    def tell(self, phase: str, table: Table, model: Arrays | None) -> Arrays:
        """See `Question.tell`."""
        down, across = table.words(self.rows), table.words(self.columns)
        if phase == "values":
            found = (self.row_values or frequent_words(down, self.min_group),
                     self.column_values or frequent_words(across, self.min_group))  # fmt: skip
            return Arrays(zip(VALUES, map(pack_words, found), strict=True))
        row_names, column_names = self._values(model)
        count = np.zeros((len(row_names) + 1, len(column_names) + 1), dtype=np.int64)
        np.add.at(count, (_places(down, row_names), _places(across, column_names)), 1)
        hidden = withheld(count, self.min_group)[:-1, :-1]  # also for the sake of all other values, which are not told
        told = np.where(hidden, 0, count[:-1, :-1])
        return Arrays({"count": told, "withheld": hidden.astype(np.int64), "sites": (told > 0).astype(np.int64)})

    def layout(self, phase: str, model: Arrays | None) -> Layout | None:
        """See `Question.layout`."""
        if phase == "values":
            return None
        cells = tuple(len(values) for values in self._values(model))
        return layout_for({"count": cells, "withheld": cells, "sites": cells})

    def wrong(self, phase: str, model: Arrays | None, told: Arrays) -> str:
        """See `Question.wrong`."""
        return wrong_words(told, VALUES)

    def join(self, phase: str, model: Arrays | None, told: Sequence[Arrays]) -> Arrays:
        """See `Question.join`."""
        return Arrays({name: pack_words(joined_words(arrays[name] for arrays in told)) for name in VALUES})

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        return known_and(model, {**totals, "count": np.where(totals["sites"] >= self.min_sites, totals["count"], 0)})

    def answer(self, model: Arrays) -> Answer:
        """A line for each value of `rows`, with a column for each value of `columns`."""
        row_names, column_names = self._values(model)
        count = model["count"]
        lines: list[dict[str, Any]] = [
            {self.rows: row, **{column: int(count[i, j]) for j, column in enumerate(column_names)}}
            for i, row in enumerate(row_names)
        ]
        num_withheld = int(model["withheld"].sum())
        statistic, degrees = independence(count)
        facts: dict[str, Any] = {}
        notes: tuple[str, ...] = ()
        if num_withheld:
            facts = {"withheld cells": num_withheld}
            notes = ("χ² is left out, since cells are withheld.",)
        elif statistic is None:
            notes = ("χ² is left out, since it needs rows of two values of each column.",)
        else:
            facts = {"chi2": statistic, "degrees of freedom": degrees, "p": chi_squared_tail(statistic, degrees)}
        series = {column: count[:, j].tolist() for j, column in enumerate(column_names)}
        drawing = bars(list(row_names), series, self.rows)
        return Answer(f"{self.rows} by {self.columns}", tuple(lines), facts, (*self._notes(), *notes), drawing)

    def _values(self, model: Arrays | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if self.row_values and self.column_values:
            return tuple(self.row_values), tuple(self.column_values)
        if model is None:
            return (), ()
        return read_words(model["rows"]), read_words(model["columns"])


def _places(words: Array, names: Sequence[str]) -> list[int]:
    """The place of each row's value among `names`; the one behind the last for all others."""
    place = {name: index for index, name in enumerate(names)}
    return [place.get(word, len(names)) for word in words.tolist()]


def independence(count: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[float | None, int]:
    """Pearson's χ² without correction, and its degrees of freedom; lines without rows are left out."""
    table = count[count.sum(axis=1) > 0][:, count.sum(axis=0) > 0].astype(np.float64)
    degrees = max(0, table.shape[0] - 1) * max(0, table.shape[1] - 1)
    if not degrees:
        return None, 0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum()), degrees
