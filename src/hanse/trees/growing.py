"""Growing trees level by level: histograms of whole numbers, and the best split of every node from their totals.

Chen and Guestrin's algorithm with equation 7 for the gain, equation 5 for the leaf, and a direction for missing values
that is learned (algorithm 3). Sums of derivatives are whole numbers; a gain is computed of them in float64 by the same
few operations everywhere, and of equal gains the first wins (by feature, edge, then missing values to the right). So
the tree is a function of the totals alone.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.trees.bins import Edges
from hanse.trees.forest import Forest
from hanse.trees.objectives import SCALE_BITS

Wide = npt.NDArray[np.float64]
G, H, ROWS = 0, 1, 2
"""The three sums of a cell."""


@dataclass(frozen=True, slots=True)
class Growth:
    """How trees grow.

    Args:
        learning_rate: η, by which leaves are multiplied.
        reg_lambda: λ ≥ 0, added to the sum of second derivatives.
        min_split_gain: γ ≥ 0, what a split must gain.
        min_child_weight: the least Σ h of a child, in the loss's own scale.
        min_child_rows: the least number of rows of a child.
        max_bins: of a feature.
    """

    learning_rate: float = 0.3
    reg_lambda: float = 1.0
    min_split_gain: float = 0.0
    min_child_weight: float = 1.0
    min_child_rows: int = 5
    max_bins: int = 64


PATIENCE = 150_000_000
"""Cells that a process adds up with NumPy (at some 12 ns) before it loads numba (some 2 s, then 3 ns), if it is
there."""


class _Patience:
    """Whether compiling has paid by now; one for the process."""

    left = PATIENCE

    @classmethod
    def compiled(cls, num_cells: int) -> "Callable[..., None] | None":
        """The compiled loop, once so many cells were added up that it pays."""
        cls.left -= num_cells
        if cls.left > 0 or importlib.util.find_spec("numba") is None:
            return None
        from hanse.trees.compiled import add_rows

        return add_rows


def histograms(bins: Array, place: Array, num_nodes: int, g: Array, h: Array, max_bins: int) -> Array:
    """Σ g, Σ h and the number of rows by node, feature and bin.

    Args:
        bins: uint16, `(features, rows)`; `max_bins` for missing.
        place: int64, `(rows,)`: the place of the row's node among those that grow, −1 for none.
        g, h: int64, `(rows,)`.

    Returns:
        int64, `(nodes, features, max_bins + 1, 3)`.
    """
    wide = max_bins + 1
    made = np.zeros((num_nodes, len(bins), wide, 3), dtype=np.int64)
    rows = np.flatnonzero(place >= 0)
    if not len(rows):
        return made
    compiled = _Patience.compiled(len(rows) * len(bins))
    if compiled is not None:
        compiled(bins, rows, place, g, h, made)
        return made
    offsets = place[rows] * wide
    weights = g[rows].astype(np.float64), h[rows].astype(np.float64)  # exact, and so are sums below 2**53
    for feature, column in enumerate(bins):
        cell = offsets + column[rows]
        size = num_nodes * wide
        for what, weight in zip((G, H), weights, strict=True):
            made[:, feature, :, what] = np.bincount(cell, weights=weight, minlength=size).reshape(num_nodes, wide)
        made[:, feature, :, ROWS] = np.bincount(cell, minlength=size).reshape(num_nodes, wide)
    return made


def grown(forest: Forest, level: int, totals: Array, edges: Edges, growth: Growth, unit: int) -> Forest:
    """The forest whose last trees have one level more.

    Args:
        forest: with the trees of this round among it, from the second level on.
        totals: int64, `(growing nodes, features, max_bins + 1, 3)`, of all parties, in the order of `Forest.growing`.
        unit: exponent of the unit of g, as `Objective.start` said.
    """
    if level == 0:
        forest = forest.with_stumps(_leaves(totals[:, 0].sum(axis=1), growth, unit))
    for (tree, node), cell in zip(forest.growing(level), totals, strict=True):
        best = best_split(cell, edges, growth)
        if best is None:
            continue
        feature, edge, missing_left, left, right = best
        leaves = _leaves(np.stack([left, right]), growth, unit)
        forest.split(tree, node, feature, float(edges[feature][edge]), missing_left, leaves)
    return forest


def best_split(cell: Array, edges: Edges, growth: Growth) -> tuple[int, int, bool, Array, Array] | None:
    """The split that gains most, if any gains.

    Args:
        cell: int64, `(features, max_bins + 1, 3)`.

    Returns:
        Feature, edge, whether missing values go left, and the sums of both children (int64, `(3,)`).
    """
    whole = cell[0].sum(axis=0)
    missing = cell[:, -1:, :]
    without = np.cumsum(cell[:, :-1, :], axis=1)[:, :-1, :]  # left of edge 0, 1, …
    left = np.stack([without, without + missing], axis=2)  # missing values to the right, to the left
    right = whole - left
    gain = 0.5 * ((score(left, growth) + score(right, growth)) - score(whole, growth)) - growth.min_split_gain
    weight = np.minimum(left[..., H], right[..., H]) * 2.0**-SCALE_BITS
    rows = np.minimum(left[..., ROWS], right[..., ROWS])
    there = np.arange(without.shape[1])[None, :] < np.diff(edges.starts)[:, None]
    allowed = there[..., None] & (weight >= growth.min_child_weight) & (rows >= max(1, growth.min_child_rows))
    gain = np.where(allowed, gain, -np.inf)
    if not gain.size or not gain.max() > 0:
        return None
    feature, edge, side = (int(i) for i in np.unravel_index(int(gain.argmax()), gain.shape))
    return feature, edge, bool(side), left[feature, edge, side], right[feature, edge, side]


def score(sums: Array, growth: Growth) -> Wide:
    """G² / (H + λ); 0 where that is 0 / 0. In units of the derivatives' own."""
    g, h = sums[..., G] * 2.0**-SCALE_BITS, sums[..., H] * 2.0**-SCALE_BITS + growth.reg_lambda
    return np.divide(g * g, h, out=np.zeros(g.shape), where=h > 0)


def _leaves(sums: Array, growth: Growth, unit: int) -> Wide:
    """−η G / (H + λ), in the margin's own unit; sums `(nodes, 3)`."""
    g, h = sums[:, G] * 2.0**-SCALE_BITS, sums[:, H] * 2.0**-SCALE_BITS + growth.reg_lambda
    step = np.divide(-g, h, out=np.zeros(g.shape), where=h > 0)
    return np.asarray(np.ldexp(growth.learning_rate * step, unit))
