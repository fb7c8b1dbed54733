"""Gathers: a first pass measures all updates and chooses weights, a second one takes the weighted mean.

Krum and Multi-Krum: P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NIPS 2017, https://arxiv.org/abs/1703.02757, section 4. Norm bounding:
Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan, "Can You Really Backdoor Federated Learning?", 2019,
https://arxiv.org/abs/1911.07963, section 4.2.

Measured are arrays of floats only, as differences from the base where there is one. Statistics are taken over
fixed pieces of `MEASURE_ELEMENTS` and added up in order, so that threads and blocks change no bit.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hanse.aggregation.selects import Rows
from hanse.core.errors import UpdateError

Stats = npt.NDArray[np.float64]
"""Statistics over all updates, of any shape; those of two pieces are added elementwise."""

MEASURE_ELEMENTS = 4096
"""Elements of one piece; part of `numerics: 1`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights for the second pass.

    Args:
        weights: one for each update, in order of position; None leaves an update out.
        total: what the sum is divided by; None for the sum of the chosen weights.
    """

    weights: tuple[float | None, ...]
    total: float | None = None


@runtime_checkable
class Gather(Protocol):
    """A reduction that must see all of every update before it knows the weights."""

    def measure(self, blocks: Rows) -> Stats:
        """Statistics of one piece.

        Args:
            blocks: float64, (num_updates, n), finite, one row per update; may be overwritten.
        """
        ...

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """Weights from the statistics of the whole model and the updates' own weights."""
        ...


class NormBound:
    """Scales every update whose Euclidean norm is above `max_norm` down to it; the total weight stays.

    Args:
        max_norm: > 0, of the whole update (the difference from the base).
    """

    def __init__(self, max_norm: float) -> None:
        if not (max_norm > 0 and math.isfinite(max_norm)):
            raise ValueError(f"expected a finite max_norm > 0, found max_norm={max_norm}")
        self.max_norm = max_norm

    def measure(self, blocks: Rows) -> Stats:
        """Sum of squares of each row."""
        np.multiply(blocks, blocks, out=blocks)
        return row_sums(blocks)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`."""
        norms = [math.sqrt(square) for square in stats.tolist()]
        scales = [1.0 if norm <= self.max_norm else self.max_norm / norm for norm in norms]
        kept = tuple(weight * scale for weight, scale in zip(weights, scales, strict=True))
        return Choice(kept, math.fsum(weights))


class Krum:
    """Takes the update nearest to its neighbours; with `keep` > 1 the weighted mean of the best (Multi-Krum).

    Distances come from a matrix product, whose last bits depend on the machine's BLAS: two machines may choose
    differently where two scores agree in about twelve digits, and nowhere else.

    Args:
        num_byzantine: updates that may be arbitrary, f >= 0; at least 2f + 3 updates are needed.
        keep: updates that are kept, >= 1.
    """

    def __init__(self, num_byzantine: int, *, keep: int = 1) -> None:
        if num_byzantine < 0 or keep < 1:
            raise ValueError(
                f"expected num_byzantine >= 0 and keep >= 1, found num_byzantine={num_byzantine}, keep={keep}"
            )
        self.num_byzantine = num_byzantine
        self.keep = keep

    def measure(self, blocks: Rows) -> Stats:
        """Inner products of the rows, after their mean is taken away: distances stay, and lose fewer digits."""
        blocks -= blocks.mean(axis=0)
        return np.asarray(blocks @ blocks.T)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`.

        Raises:
            UpdateError: fewer than 2f + 3 updates, or fewer than `keep`.
        """
        num = len(weights)
        if num < 2 * self.num_byzantine + 3 or num < self.keep:
            raise UpdateError(
                f"Krum with num_byzantine={self.num_byzantine} and keep={self.keep} needs at least "
                f"{max(2 * self.num_byzantine + 3, self.keep)} updates, found {num}"
            )
        norms = np.diag(stats)
        distances = norms[:, None] + norms[None, :] - 2 * stats
        np.fill_diagonal(distances, np.inf)
        nearest = np.sort(distances, axis=1)[:, : num - self.num_byzantine - 2]
        best = set(np.argsort(nearest.sum(axis=1), kind="stable")[: self.keep].tolist())
        return Choice(tuple(weight if i in best else None for i, weight in enumerate(weights)))


def row_sums(blocks: Rows) -> Stats:
    """Sum of each row by halving: only elementwise additions, so the same bits on every machine. Overwrites."""
    n = blocks.shape[1]
    while n > 1:
        half = (n + 1) // 2
        blocks[:, : n - half] += blocks[:, half:n]
        n = half
    return blocks[:, 0].copy()
