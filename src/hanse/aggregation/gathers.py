"""Gathers: a first pass measures all updates and chooses weights, a second one takes the weighted mean.

Krum and Multi-Krum: P. Blanchard, E. M. El Mhamdi, R. Guerraoui, J. Stainer, "Machine Learning with Adversaries:
Byzantine Tolerant Gradient Descent", NIPS 2017, https://arxiv.org/abs/1703.02757, section 4. Norm bounding:
Z. Sun, P. Kairouz, A. T. Suresh, H. B. McMahan, "Can You Really Backdoor Federated Learning?", 2019,
https://arxiv.org/abs/1911.07963, section 4.2. Bulyan: E. M. El Mhamdi, R. Guerraoui, S. Rouault, "The Hidden
Vulnerability of Distributed Learning in Byzantium", ICML 2018, https://arxiv.org/abs/1802.07927, section 4. RFA:
K. Pillutla, S. M. Kakade, Z. Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on Signal
Processing 70, 2022, https://arxiv.org/abs/1912.13445, Algorithm 2. FLTrust: X. Cao, M. Fang, J. Liu, N. Z. Gong,
"FLTrust: Byzantine-robust Federated Learning via Trust Bootstrapping", NDSS 2021, https://arxiv.org/abs/2012.13995.

Measured are arrays of floats only, as differences from the base where there is one. Statistics are taken over
fixed pieces of `MEASURE_ELEMENTS` and added up in order, so that threads and blocks change no bit; inner products are
exact (`gram.py`), so that no machine's BLAS does. Krum and Bulyan use distances only to choose, so they are asked first
whether bounds on the distances (`nearness.py`) leave them a choice.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hanse.aggregation.gram import Stats, gram, row_sums, squared_distances
from hanse.aggregation.kernels import KernelName
from hanse.aggregation.nearness import Bounds
from hanse.aggregation.selects import MeanAroundMedian, Rows, Select
from hanse.core.errors import UpdateError

MEASURE_ELEMENTS = 4096
"""Elements of one piece; part of `numerics: 1`."""
_SLACK = 2.0**-40
"""What rounding may do to a sum of distances, many times over."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Weights for the second pass.

    Args:
        weights: one for each update, in order of position; None leaves an update out.
        total: what the sum is divided by; None for the sum of the chosen weights.
        rule: reduces the chosen updates instead of the weighted mean, which is taken for None.
    """

    weights: tuple[float | None, ...]
    total: float | None = None
    rule: Select | None = None


class _OpenChoice(Exception):
    """Bounds leave more than one choice. Stays in this file."""


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


@runtime_checkable
class ByNearness(Protocol):
    """A `Gather` that compares distances between updates and needs to know nothing else of them.

    Args:
        kernel: see `nearness.Nearness`. Changes no bit.
    """

    kernel: KernelName

    def choose_surely(self, bounds: Bounds, weights: Sequence[float]) -> Choice | None:
        """What `choose` would say for whatever distances lie within the bounds; None if that depends on them.

        Raises:
            UpdateError: as `choose`.
        """
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

    Args:
        num_byzantine: updates that may be arbitrary, f >= 0; at least 2f + 3 updates are needed.
        keep: updates that are kept, >= 1.
        kernel: `numpy`, `numba`, or `auto` for numba where it is installed and pays. Changes no bit.
    """

    def __init__(self, num_byzantine: int, *, keep: int = 1, kernel: KernelName = "auto") -> None:
        if num_byzantine < 0 or keep < 1:
            raise ValueError(
                f"expected num_byzantine >= 0 and keep >= 1, found num_byzantine={num_byzantine}, keep={keep}"
            )
        self.num_byzantine = num_byzantine
        self.keep = keep
        self.kernel = kernel

    def measure(self, blocks: Rows) -> Stats:
        """Inner products of the rows."""
        return gram(blocks)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`.

        Raises:
            UpdateError: fewer than 2f + 3 updates, or fewer than `keep`.
        """
        scores = krum_scores(squared_distances(stats), self._num_neighbours(len(weights)))
        return self._choice(np.argsort(scores, kind="stable"), weights)

    def choose_surely(self, bounds: Bounds, weights: Sequence[float]) -> Choice | None:
        """See `ByNearness.choose_surely`."""
        order = _sure_order(bounds, self._num_neighbours(len(weights)), self.keep)
        return None if order is None else self._choice(order, weights)

    def _num_neighbours(self, num: int) -> int:
        if num < 2 * self.num_byzantine + 3 or num < self.keep:
            raise UpdateError(
                f"Krum with num_byzantine={self.num_byzantine} and keep={self.keep} needs at least "
                f"{max(2 * self.num_byzantine + 3, self.keep)} updates, found {num}"
            )
        return num - self.num_byzantine - 2

    def _choice(self, order: npt.NDArray[np.intp], weights: Sequence[float]) -> Choice:
        best = set(order[: self.keep].tolist())
        return Choice(tuple(weight if i in best else None for i, weight in enumerate(weights)))


class Bulyan:
    """Selects n − 2f updates by repeated Krum, then averages each coordinate's n − 4f values around their median.

    Krum among those that are left counts the left − f − 2 nearest, and at least one: of the last rounds, where that
    number falls below one, the paper does not speak. Weights are ignored.

    Args:
        num_byzantine: updates that may be arbitrary, f >= 0; at least 4f + 3 updates are needed.
        kernel: see `Krum`.
    """

    def __init__(self, num_byzantine: int, *, kernel: KernelName = "auto") -> None:
        if num_byzantine < 0:
            raise ValueError(f"expected num_byzantine >= 0, found num_byzantine={num_byzantine}")
        self.num_byzantine = num_byzantine
        self.kernel = kernel

    def measure(self, blocks: Rows) -> Stats:
        """Inner products of the rows."""
        return gram(blocks)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`.

        Raises:
            UpdateError: fewer than 4f + 3 updates.
        """
        distances = squared_distances(stats)

        def best(left: list[int], near: int) -> int:
            return int(np.argmin(krum_scores(distances[np.ix_(left, left)], near)))

        return self._choice(weights, best)

    def choose_surely(self, bounds: Bounds, weights: Sequence[float]) -> Choice | None:
        """See `ByNearness.choose_surely`."""

        def best(left: list[int], near: int) -> int:
            among = np.ix_(left, left)
            order = _sure_order(Bounds(bounds.low[among], bounds.high[among]), near, 1)
            if order is None:
                raise _OpenChoice
            return int(order[0])

        try:
            return self._choice(weights, best)
        except _OpenChoice:
            return None

    def _choice(self, weights: Sequence[float], best: Callable[[list[int], int], int]) -> Choice:
        """`best(left, near)`: which of those that are left Krum takes, counting so many neighbours."""
        num, f = len(weights), self.num_byzantine
        if num < 4 * f + 3:
            raise UpdateError(f"Bulyan with num_byzantine={f} needs at least {4 * f + 3} updates, found {num}")
        left, chosen = list(range(num)), set[int]()
        while len(chosen) < num - 2 * f:
            chosen.add(left.pop(best(left, max(len(left) - f - 2, 1))))
        picked = tuple(1.0 if i in chosen else None for i in range(num))
        return Choice(picked, rule=MeanAroundMedian(num - 4 * f))


class GeometricMedian:
    """The point with the least sum of distances to the updates (RFA), by the smoothed Weiszfeld algorithm.

    Every iterate is a weighted mean of the updates, v = Σ c_i w_i, so the inner products say all of its distances:
    ‖v − w_i‖² = cᵀGc − 2 (Gc)_i + G_ii. The updates are therefore read twice, however many steps are taken. Weights
    are ignored; the paper's α_i are all equal here.

    Args:
        smoothing: ν > 0 of the paper's Algorithm 2: distances below it count as it.
        max_steps: of the iteration, >= 1. It ends before, when a step changes every distance by less than 1e-9 of it.
            The sum of distances alone would not do: one update at 1e30 hides all others in it.
    """

    def __init__(self, smoothing: float = 1e-6, *, max_steps: int = 1000) -> None:
        if not (smoothing > 0 and math.isfinite(smoothing)) or max_steps < 1:
            raise ValueError(
                f"expected a finite smoothing > 0 and max_steps >= 1, found smoothing={smoothing} "
                f"and max_steps={max_steps}"
            )
        self.smoothing = smoothing
        self.max_steps = max_steps

    def measure(self, blocks: Rows) -> Stats:
        """Inner products of the rows."""
        return gram(blocks)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`.

        Raises:
            UpdateError: no update has a finite norm.
        """
        near = np.flatnonzero(np.isfinite(np.diag(stats)))  # an update beyond all measure has no pull
        if not near.size:
            raise UpdateError(f"the geometric median needs updates of finite norm, found none of {len(weights)}")
        shares = self._weiszfeld(stats[np.ix_(near, near)])
        found: dict[int, float] = dict(zip(near.tolist(), shares.tolist(), strict=True))
        return Choice(tuple(found.get(i) for i in range(len(weights))))

    def _weiszfeld(self, products: Stats) -> Stats:
        shares = np.full(len(products), 1 / len(products))
        before = np.full(len(products), np.inf)
        for _ in range(self.max_steps):
            inner = row_sums(products * shares)
            length = _total(inner * shares)
            distances = np.sqrt(np.maximum(length - 2 * inner + np.diag(products), 0.0))
            distances = np.maximum(distances, self.smoothing)
            if (np.abs(before - distances) <= 1e-9 * distances).all():
                break
            before = distances
            pull = 1 / distances  # Algorithm 2: β_i ← α_i / max(ν, ‖v − w_i‖)
            shares = pull / _total(pull.copy())
        return shares


class RootTrust:
    """FLTrust: updates count as far as they point where a trusted root's update points, at the root's length.

        TS_i = max(0, cos(g_i, g_0)),   g = Σ TS_i (‖g_0‖ / ‖g_i‖) g_i / Σ TS_i

    The root's update is the one whose weight is 0: it judges, and is itself not added up. All other weights are
    ignored. Where no update points the root's way at all, the model stays.
    """

    def measure(self, blocks: Rows) -> Stats:
        """Inner products of the rows."""
        return gram(blocks)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`.

        Raises:
            UpdateError: not exactly one update of weight 0.
        """
        roots = [i for i, weight in enumerate(weights) if weight == 0]
        if len(roots) != 1:
            raise UpdateError(f"FLTrust needs exactly one root's update, of weight 0; found {len(roots)}")
        (root,) = roots
        norms = [math.sqrt(square) if square > 0 else 0.0 for square in np.diag(stats).tolist()]
        trust = [_cosine(stats[i, root], norms[i], norms[root]) for i in range(len(weights))]
        trust[root] = 0.0
        kept = [score * norms[root] / norm if score else 0.0 for score, norm in zip(trust, norms, strict=True)]
        picked = tuple(None if i == root else weight for i, weight in enumerate(kept))
        return Choice(picked, math.fsum(trust) or 1.0)


def krum_scores(distances: Stats, num_neighbours: int) -> Stats:
    """For each update the sum of the squared distances to its nearest neighbours, itself not among them."""
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    return row_sums(np.sort(others, axis=1)[:, :num_neighbours])


def _sure_order(bounds: Bounds, num_neighbours: int, keep: int) -> npt.NDArray[np.intp] | None:
    """Updates by their score, of which the first `keep` are those of the least scores, whatever the distances are.

    A score is a sum of the least distances of a row, so it grows with each of them and lies between the bounds' scores.
    """
    least, most = krum_scores(bounds.low, num_neighbours), krum_scores(bounds.high, num_neighbours)
    order = np.argsort(most, kind="stable")
    last, others = most[order[keep - 1]], least[order[keep:]]
    return order if not others.size or last * (1 + _SLACK) < others.min() * (1 - _SLACK) else None


def _cosine(product: float, norm: float, root_norm: float) -> float:
    """Of an angle up to 90°; 0 beyond, and where it is not defined."""
    cosine = product / norm / root_norm if norm and root_norm else 0.0
    return min(cosine, 1.0) if cosine > 0 else 0.0


def _total(values: Stats) -> float:
    """Sum by halving; overwrites."""
    return float(row_sums(values[None, :])[0])
