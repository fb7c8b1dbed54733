"""`Histogram`: how many rows have values between declared edges, by group if wanted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.analytics.answer import Answer
from hanse.analytics.drawing import bars
from hanse.analytics.question import GroupedQuestion, check_numbers, check_text, freeze, known_and, layout_for
from hanse.analytics.release import withheld
from hanse.analytics.table import Table
from hanse.core.arrays import Arrays, Layout
from hanse.core.errors import ConfigError


@dataclass(frozen=True)
class Histogram(GroupedQuestion):
    """Counts of a column's values between edges.

    Args:
        column: the column.
        edges: e₀ < e₁ < …: bins [eᵢ, eᵢ₊₁), the last one with its upper edge. What lies outside is not counted.

    Example:
        >>> Histogram("age", [0, 40, 80], data="patients").edges
        (0.0, 40.0, 80.0)
    """

    column: str
    edges: Sequence[float]

    kind: ClassVar[str] = "histogram"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("column", self.column)
        freeze(self, "edges", check_numbers("edges", self.edges))
        if len(self.edges) < 2 or any(a >= b for a, b in zip(self.edges, self.edges[1:], strict=False)):
            raise ConfigError("edges: expected at least two numbers, each above the one before")

    def layout_of(self, phase: str, model: Arrays | None, num_groups: int) -> Layout:
        """See `GroupedQuestion.layout_of`."""
        cells = (num_groups, len(self.edges) - 1)
        return layout_for({"count": cells, "withheld": cells, "sites": (num_groups,)})

    def tell_groups(
        self, phase: str, table: Table, model: Arrays | None, rows: Sequence[npt.NDArray[np.intp]]
    ) -> Arrays:
        """See `GroupedQuestion.tell_groups`."""
        numbers = table.numbers(self.column)
        outer = np.array([-np.inf, *self.edges[:-1], np.nextafter(self.edges[-1], np.inf), np.inf])
        count = np.zeros((len(rows), len(self.edges) + 1), dtype=np.int64)
        sites = np.zeros(len(rows), dtype=np.int64)
        for g, places in enumerate(rows):
            values = numbers[places]
            values = values[~np.isnan(values)]
            if self._enough(values):
                count[g], sites[g] = np.histogram(values, bins=outer)[0], 1
        hidden = withheld(count, self.min_group)  # also for the sake of what lies outside, which is not told
        told = {"count": np.where(hidden, 0, count), "withheld": hidden.astype(np.int64)}
        return Arrays({**{name: array[:, 1:-1].copy() for name, array in told.items()}, "sites": sites})

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        keep = (totals["sites"] >= self.min_sites)[:, None]
        cells = {name: np.where(keep, totals[name], 0) for name in ("count", "withheld")}
        return known_and(model, {**cells, "sites": totals["sites"]})

    def answer(self, model: Arrays) -> Answer:
        """A line for each group and bin."""
        rows: list[dict[str, Any]] = []
        for g, group in enumerate(self.names(model)):
            for b, (low, high) in enumerate(zip(self.edges, self.edges[1:], strict=False)):
                cell = {"from": low, "to": high, "count": int(model["count"][g, b])}
                rows.append({**self._labelled(group), **cell, "withheld": int(model["withheld"][g, b])})
        names = self.names(model)
        labels = [f"{low:g}" for low in self.edges[:-1]]
        drawing = bars(
            labels, {name or "rows": model["count"][g].tolist() for g, name in enumerate(names)}, self.column
        )
        return Answer(f"Histogram of {self.column}", tuple(rows), notes=self._cell_notes(model), drawing=drawing)

    def _cell_notes(self, model: Arrays) -> tuple[str, ...]:
        if not model["withheld"].any():
            return ()
        return (
            f"withheld: sites that left a cell out, since it or one beside it has fewer than {self.min_group} rows.",
        )
