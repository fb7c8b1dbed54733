"""Features as bins: edges from what parties tell of their values, and the bin of every value.

A split asks x < edge. Bin b holds the values with exactly b edges ≤ x, so bins 0 … b are what lies left of edge b.
Missing values (NaN) have a bin of their own, the last one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array

Wide = npt.NDArray[np.float64]
Summary = tuple[Wide, Array]
"""Distinct values, rising, and how many rows each stands for (int64)."""


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of every feature, one after another.

    Args:
        values: float64, rising within each feature.
        starts: int64, `(features + 1,)`: where each feature's edges begin, and where the last one's end.
    """

    values: Wide
    starts: Array

    @classmethod
    def of(cls, edges: Sequence[Wide]) -> "Edges":
        """From one array for each feature."""
        lengths = [len(each) for each in edges]
        return cls(np.concatenate([*edges, np.empty(0)]), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))

    @property
    def num_features(self) -> int:
        """How many features there are."""
        return len(self.starts) - 1

    def __getitem__(self, feature: int) -> Wide:
        return self.values[self.starts[feature] : self.starts[feature + 1]]


def summary_of(values: Wide) -> Summary:
    """What is told of a column's values, float64 without NaN, which may stand for more than themselves."""
    distinct, counts = np.unique(values, return_counts=True)
    return distinct, counts.astype(np.int64)


def pooled_edges(summaries: Sequence[Summary], max_bins: int) -> Wide:
    """Edges of one feature: between all distinct values where there are at most `max_bins`, else at equal ranks.

    Args:
        summaries: one of each party.
        max_bins: ≥ 2; there are fewer edges than that.
    """
    values = np.concatenate([distinct for distinct, _ in summaries] or [np.empty(0)])
    counts = np.concatenate([counts for _, counts in summaries] or [np.empty(0, dtype=np.int64)])
    distinct, place = np.unique(values, return_inverse=True)
    if len(distinct) < 2:
        return np.empty(0)
    if len(distinct) <= max_bins:
        middle = distinct[:-1] / 2 + distinct[1:] / 2
        return np.where(middle > distinct[:-1], middle, distinct[1:])  # neighbours in float64 have no middle
    weight = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(weight, place, counts)
    up_to = np.cumsum(weight)
    ranks = np.arange(1, max_bins) * int(up_to[-1]) // max_bins
    chosen = np.unique(distinct[np.searchsorted(up_to, ranks, side="right")])
    edges: Wide = chosen[chosen > distinct[0]]
    return edges  # nothing lies left of the lowest value


def bins_of(x: Wide, edges: Edges, max_bins: int) -> Array:
    """The bin of every value.

    Args:
        x: float64, `(rows, features)`.

    Returns:
        uint16, `(features, rows)`, a row's bins side by side in memory: from 0 to the number of the feature's edges;
        `max_bins` where a value is missing.
    """
    made = np.empty((len(x), edges.num_features), dtype=np.uint16).T
    for feature in range(edges.num_features):
        column = np.ascontiguousarray(x[:, feature])
        made[feature] = np.searchsorted(edges[feature], column, side="right")
        made[feature][np.isnan(column)] = max_bins
    return made
