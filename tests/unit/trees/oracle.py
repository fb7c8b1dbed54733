"""Gradient boosting on pooled rows as a slow program: plain Python, row by row, written from Chen and Guestrin's paper.

It shares no code with the package. Derivatives are rounded to whole numbers of 2**-26 as the package's page says, sums
are Python integers, and each gain is computed of them with the formula of the paper's equation 7.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any

UNIT = 2.0**-26


@dataclass
class Node:
    """A leaf while `feature` is None."""

    value: float = 0.0
    feature: int | None = None
    threshold: float = 0.0
    missing_left: bool = False
    children: list["Node"] = field(default_factory=list)

    def leaf(self, row: list[float]) -> "Node":
        if self.feature is None:
            return self
        x = row[self.feature]
        left = self.missing_left if math.isnan(x) else x < self.threshold
        return self.children[0 if left else 1].leaf(row)


@dataclass
class Settings:
    depth: int
    rate: float
    lam: float
    gamma: float
    weight: float
    rows: int


def whole(x: float) -> int:
    return round(x * 2**26)  # half to even


def derivatives(objective: str, margins: list[float], y: float, unit: float) -> list[tuple[int, int]]:
    if objective == "regression":
        return [(whole((margins[0] - y) / unit), 2**26)]
    if objective == "binary":
        p = probability(margins[0])
        return [(whole(p - y), whole(p * (1 - p)))]
    highest = max(margins)
    raised = [exp(m - highest) for m in margins]
    total = sum_of(raised)
    shares = [r / total for r in raised]
    return [(whole(p - (k == y)), whole(2 * p * (1 - p))) for k, p in enumerate(shares)]


def exp(x: float) -> float:
    import numpy as np  # NumPy's exponential, since the last bit of a library's exp is its own affair

    return float(np.exp(np.array([x]))[0])


def sum_of(values: list[float]) -> float:
    import numpy as np

    return float(np.array(values)[:, None].sum(axis=0)[0])


def probability(m: float) -> float:
    small = exp(-abs(m))
    return 1 / (1 + small) if m >= 0 else small / (1 + small)


def score(sums: tuple[int, int, int], lam: float) -> float:
    g, h = sums[0] * UNIT, sums[1] * UNIT + lam
    return g * g / h if h > 0 else 0.0


def leaf_value(sums: tuple[int, int, int], s: Settings, unit: float) -> float:
    g, h = sums[0] * UNIT, sums[1] * UNIT + s.lam
    return s.rate * (-g / h) * unit if h > 0 else 0.0


def added(rows: list[int], g: list[int], h: list[int]) -> tuple[int, int, int]:
    return sum(g[r] for r in rows), sum(h[r] for r in rows), len(rows)


def grow(X: Any, rows: list[int], g: list[int], h: list[int], edges: Any, s: Settings, unit: float, depth: int) -> Node:
    node = Node(leaf_value(added(rows, g, h), s, unit))
    if depth == s.depth:
        return node
    best: tuple[float, int, float, bool] | None = None
    parent = score(added(rows, g, h), s.lam)
    for feature, cuts in enumerate(edges):
        for cut in cuts:
            for missing_left in (False, True):
                left = [r for r in rows if goes_left(X[r][feature], cut, missing_left)]
                chosen = set(left)
                right = [r for r in rows if r not in chosen]
                a, b = added(left, g, h), added(right, g, h)
                if min(a[1], b[1]) * UNIT < s.weight or min(a[2], b[2]) < max(1, s.rows):
                    continue
                gain = 0.5 * ((score(a, s.lam) + score(b, s.lam)) - parent) - s.gamma
                if gain > 0 and (best is None or gain > best[0]):
                    best = gain, feature, cut, missing_left
    if best is None:
        return node
    _, node.feature, node.threshold, node.missing_left = best
    left = [r for r in rows if goes_left(X[r][node.feature], node.threshold, node.missing_left)]
    chosen = set(left)
    parts = left, [r for r in rows if r not in chosen]
    node.children = [grow(X, part, g, h, edges, s, unit, depth + 1) for part in parts]
    return node


def goes_left(x: float, cut: float, missing_left: bool) -> bool:
    return missing_left if math.isnan(x) else x < cut


def boost(X: Any, y: Any, objective: str, classes: int, rounds: int, edges: Any, s: Settings) -> tuple[Any, Any]:
    """Trees, round by round and output by output, and the margins of every row."""
    X, y = [list(map(float, row)) for row in X], [float(v) for v in y]
    unit = 1.0
    if objective == "regression":
        mean = float(sum_exactly(y) / len(y))
        deviation = math.sqrt(variance(y))
        unit = 2.0 ** (math.frexp(deviation)[1] if deviation else 0)
        base = [mean]
    elif objective == "binary":
        counts = [max(0.5, float(y.count(k))) for k in (0.0, 1.0)]
        base = [math.log(counts[1] / counts[0])]
    else:
        counts = [max(0.5, float(y.count(float(k)))) for k in range(classes)]
        base = [math.log(c / sum(counts)) for c in counts]
    margins = [list(base) for _ in X]
    trees = []
    for _ in range(rounds):
        told = [derivatives(objective, m, v, unit) for m, v in zip(margins, y, strict=True)]
        made = []
        for output in range(len(base)):
            g, h = [t[output][0] for t in told], [t[output][1] for t in told]
            made.append(grow(X, list(range(len(X))), g, h, edges, s, unit, 0))
        for row, margin in zip(X, margins, strict=True):
            for output, tree in enumerate(made):
                margin[output] += tree.leaf(row).value
        trees += made
    return trees, margins


def sum_exactly(values: list[float]) -> Any:
    from fractions import Fraction

    return sum((Fraction(v) for v in values), Fraction(0))


def variance(values: list[float]) -> float:
    from fractions import Fraction

    mean = sum_exactly(values) / len(values)
    return float(sum(((Fraction(v) - mean) ** 2 for v in values), Fraction(0)) / max(1, len(values) - 1))


def edges_of(values: list[float], max_bins: int) -> list[float]:
    """Cuts of one feature from its own values: between all, or at equal ranks."""
    known = sorted(v for v in values if not math.isnan(v))
    distinct = sorted(set(known))
    if len(distinct) < 2:
        return []
    if len(distinct) <= max_bins:
        return [a / 2 + b / 2 if a / 2 + b / 2 > a else b for a, b in itertools.pairwise(distinct)]
    chosen = {known[i * len(known) // max_bins] for i in range(1, max_bins)}
    return sorted(c for c in chosen if c > distinct[0])
