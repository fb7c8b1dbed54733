"""The softmax of scores that are shared: K sigmoids of the scores against log sums, each by one bounded series.

    softmax(z)_j = sigmoid(z_j − L_j),   L_j = log Σ_{k≠j} exp(z_k)

Log sums are built from pairs, log(e^a + e^b) = (a + b)/2 + log(2 cosh((a − b)/2)). The second term is a function of one
number, even and as steep as |x|/2, so that its periodic continuation is a rounded triangle: a series of `series` like
that of the sigmoid. On additive shares each costs one opening or one exchange, and there is no exponential, division,
comparison or truncation. Outside the series' range a log sum is wrong and bounded, and the sigmoid of whatever comes
out is still from −0.01 to 1.01.

All L_j together take two passes over a tree with the classes as leaves: from the leaves up, the log sum of each
subtree, and from the root down, the log sum of everything outside of it. Pure functions, but for who evaluates the
series.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import Table
from hanse.vertical.glm.series import Series, series_of
from hanse.vertical.glm.training import Training

Evaluate = Callable[[int, Any, int], Awaitable[Any]]
"""(level, share of differences `(rows, pairs)`, its fraction bits) → share of the series there, with one bit more."""


@dataclass(frozen=True, slots=True)
class LogSums:
    """Which pairs are joined, level by level. Places 0 to K − 1 are the scores; each pair makes the next place.

    Attributes:
        levels: of each level, the places of its pairs.
        rest: for each class, the place of the log sum of all others.
    """

    levels: tuple[tuple[tuple[int, int], ...], ...]
    rest: tuple[int, ...]

    @property
    def pairs(self) -> tuple[int, ...]:
        """How many there are at each level."""
        return tuple(len(level) for level in self.levels)

    def sides(self, level: int) -> tuple[list[int], list[int]]:
        """Places of the left and of the right parts of a level's pairs."""
        left, right = zip(*self.levels[level], strict=True)
        return list(left), list(right)


@cache
def log_sums(num_classes: int) -> LogSums:
    """The plan for that many classes: fewer than 3 K pairs, at most 2 log2(K) − 1 levels (rounded up).

    Raises:
        ConfigError: fewer than three classes, for which one sigmoid does.
    """
    if num_classes < 3:
        raise ConfigError(f"softmax: expected 3 classes or more, found {num_classes}")
    nodes: list[tuple[Any, Any]] = []

    def joined(left: Any, right: Any) -> Any:
        nodes.append((left, right))
        return (len(nodes) - 1,)  # a node, by its number; a class is a whole number

    def up(first: int, last: int) -> Any:
        """The tree over classes `first` to `last` − 1: (its log sum, its halves)."""
        if last - first == 1:
            return first, None
        middle = (first + last) // 2
        halves = up(first, middle), up(middle, last)
        is_root = last - first == num_classes
        return None if is_root else joined(halves[0][0], halves[1][0]), halves

    outside: dict[int, Any] = {}

    def down(tree: Any, beyond: Any) -> None:
        """Hand each leaf the log sum of all that is outside of it."""
        if tree[1] is None:
            outside[tree[0]] = beyond
            return
        left, right = tree[1]
        down(left, right[0] if beyond is None else joined(right[0], beyond))
        down(right, left[0] if beyond is None else joined(left[0], beyond))

    down(up(0, num_classes), None)
    return _by_level(num_classes, nodes, [outside[at] for at in range(num_classes)])


def _by_level(num_classes: int, nodes: list[tuple[Any, Any]], outside: list[Any]) -> LogSums:
    depths: list[int] = []
    for node in nodes:  # each after the two that it joins
        depths.append(1 + max(depths[each[0]] if isinstance(each, tuple) else 0 for each in node))
    order = sorted(range(len(nodes)), key=depths.__getitem__)
    places = {node: num_classes + at for at, node in enumerate(order)}

    def place(each: Any) -> int:
        return places[each[0]] if isinstance(each, tuple) else each

    levels = tuple(
        tuple((place(nodes[at][0]), place(nodes[at][1])) for at in order if depths[at] == depth)
        for depth in range(1, max(depths) + 1)
    )
    return LogSums(levels, tuple(map(place, outside)))


async def against_rest(scores: Any, bits: int, plan: LogSums, evaluate: Evaluate) -> Any:
    """A share of z_j − L_j for each class j.

    Args:
        scores: this party's share of z, `(rows, num_classes)`, with `bits` fraction bits: an array that wraps.
        plan: for that many classes.
        evaluate: who evaluates the series of log(2 cosh(x/2)) on a share.

    Returns:
        `(rows, num_classes)`, with one fraction bit more for each level, since halves are not divided.
    """
    values = scores
    for level in range(len(plan.levels)):
        left, right = (values[:, side] for side in plan.sides(level))
        joined = left + right + await evaluate(level, left - right, bits + level)
        values = np.concatenate([values + values, joined], axis=1)
    return values[:, : scores.shape[1]] - values[:, list(plan.rest)]


@dataclass(frozen=True, slots=True)
class SeriesMean:
    """A bounded mean function as the protocols evaluate it.

    Attributes:
        series: elementwise; of a softmax the sigmoid's.
        log_sums: of a softmax, what it is evaluated against; otherwise None.
        pairs: of a softmax, the series of log(2 cosh(x/2)); otherwise None.
    """

    series: Series
    log_sums: LogSums | None = None
    pairs: Series | None = None

    def __call__(self, z: Table) -> Table:
        """The mean of scores `(rows, outputs)` in the clear: what the protocols compute but for rounding."""
        if self.log_sums is None or self.pairs is None:
            return self.series(z)
        values = z
        for level in range(len(self.log_sums.levels)):
            left, right = (values[:, side] for side in self.log_sums.sides(level))
            values = np.concatenate([values, (left + right) / 2 + self.pairs(left - right)], axis=1)
        return self.series(values[:, : z.shape[1]] - values[:, list(self.log_sums.rest)])


def mean_of(training: Training, outputs: int) -> SeriesMean | None:
    """The mean function of a training with that many columns of weights; None for the identity."""
    if training.family == "linear":
        return None
    series = series_of(training.family, training.wide_scores)
    if training.kind(outputs) != "softmax":
        return SeriesMean(series)
    return SeriesMean(series, log_sums(outputs), series_of("log sum", training.wide_scores))


def digests(training: Training) -> tuple[bytes, ...]:
    """Of all series that a training may evaluate."""
    names = {"linear": (), "logistic": ("logistic", "log sum")}.get(training.family, (training.family,))
    return tuple(series_of(name, training.wide_scores).digest() for name in names)
