"""The guest's arithmetic: derivatives as whole numbers, GOSS, the best split by exact comparison, leaves.

T. Chen, C. Guestrin, "XGBoost: A scalable tree boosting system", KDD 2016, equations 5 and 7 and algorithm 3; G. Ke et
al., "LightGBM: A highly efficient gradient boosting decision tree", NeurIPS 2017, algorithm 2 (GOSS). All of it is
the specification's, docs/explanation/boosting-spec.md: sums are integers, and of two gains the larger is found without
rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError
from hanse.trees.objectives import SCALE_BITS, Objective, whole
from hanse.vertical.boosting.settings import Settings

Wide = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
_RATE_BITS = 30
_CLOSE = 1 - 2.0**-45
"""Scores in float64 are off by less than 2^-50 of themselves: what is below this part of the largest is smaller."""


@dataclass(frozen=True, slots=True)
class Derivatives:
    """One tree's, as integers.

    Attributes:
        g, h: int64, `(num_rows,)`: multiples of 2^(unit − SCALE_BITS) and 2^-SCALE_BITS; 0 outside of the sample.
        sample: bool, `(num_rows,)`: the rows that the tree is grown on.
        unit: exponent of the unit of g: 0 for classes; otherwise |g| < 2^unit for every row.
    """

    g: Array
    h: Array
    sample: Mask
    unit: int


def largest(objective: Objective, settings: Settings) -> tuple[int, int]:
    """The largest absolute values of g and of h that `derivatives` gives for one row."""
    times = Fraction(settings.weight_of_others)
    h_most = {"binary": Fraction(1, 4), "multiclass": Fraction(1, 2)}.get(objective.name, Fraction(1))
    one = (1 << SCALE_BITS) * max(times, Fraction(1))
    return int(one) + 1, int(one * h_most) + 1


def derivatives(g: Wide, h: Wide, grown_on: Mask, tree: int, objective: Objective, settings: Settings) -> Derivatives:
    """Sample rows, scale, and round to integers.

    Args:
        g, h: float64, `(num_rows,)`, of one output.
        grown_on: rows that are not held out.
        tree: counts from 0 over all rounds and outputs.
    """
    unit = 0
    if objective.name == "regression":
        unit = int(np.frexp(np.abs(np.where(grown_on, g, 0.0)).max())[1])
    sample, times = grown_on, np.ones(len(g))
    if settings.top_rate:
        ranked = np.abs(whole(np.ldexp(g, -unit)))
        rows = np.flatnonzero(grown_on)
        order = rows[np.argsort(-ranked[rows], kind="stable")]
        num_top, num_other = int(settings.top_rate * len(rows)), int(settings.other_rate * len(rows))
        others = np.sort(order[num_top:])
        drawn = others[np.argsort(_keys(settings.seed, tree + 1, others), kind="stable")[:num_other]]
        sample = np.zeros(len(g), np.bool_)
        sample[order[:num_top]] = sample[drawn] = True
        times[drawn] = settings.weight_of_others
    return Derivatives(
        whole(np.ldexp(np.where(sample, g * times, 0.0), -unit)), whole(np.where(sample, h * times, 0.0)), sample, unit
    )


def held_out(num_rows: int, settings: Settings) -> Mask:
    """Which rows no tree is grown on."""
    chosen = np.zeros(num_rows, np.bool_)
    by_key = np.argsort(_keys(settings.seed, 0, np.arange(num_rows)), kind="stable")
    if settings.fold:
        if num_rows < 2 * settings.cross_validate:
            raise ConfigError(f"cross_validate: expected two rows a fold and more, found {num_rows} rows")
        chosen[by_key[settings.fold - 1 :: settings.cross_validate]] = True
    elif settings.held_out:
        count = int(settings.held_out * num_rows)
        if not count:
            raise ConfigError(f"held_out: expected a part of {num_rows} rows that is a row at least, found none")
        chosen[by_key[:count]] = True
    return chosen


def _keys(seed: int, stream: int, rows: Array) -> npt.NDArray[np.uint64]:
    """Numbers that order rows at random: three rounds of SplitMix64 (G. Steele, D. Lea, C. Flood, OOPSLA 2014)."""
    state = _mixed(_mixed(np.array([seed], np.uint64)) + np.uint64(stream))
    return _mixed(state + rows.astype(np.uint64))


def _mixed(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    z = x + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


@dataclass(frozen=True, slots=True)
class Told:
    """The sums of one node over one party's groups of bins.

    Attributes:
        g, h: int64, `(num_sums,)`, column after column; within a column from the lowest values on.
        counts: int64, `(num_columns,)`: sums of each column.
        apart: bool, `(num_columns,)`: whether a column's last sum is that of missing values.
    """

    g: Array
    h: Array
    counts: Array
    apart: Mask


@dataclass(frozen=True, slots=True)
class Split:
    """A question at a node: whether a party's column is in the groups up to `group`.

    Attributes:
        party: 0 for the guest, then the hosts in order.
        column, group: see the module's text.
        missing_left: where missing values go.
        left: Σg and Σh of the left child.
        gain: what it gains, in the loss's own scale.
    """

    party: int
    column: int
    group: int
    missing_left: bool
    left: tuple[int, int]
    gain: float


def best_split(tables: Sequence[Told], total: tuple[int, int], unit: int, settings: Settings) -> Split | None:
    """The split that gains most, if any gains more than γ; of equal ones the first by (party, column, group,
    missing_left).

    Args:
        tables: one of each party.
        total: Σg and Σh of the node.
        unit: see `Derivatives`.
    """
    penalty = _penalty(settings)
    least = max(1, _rounded(Fraction(settings.min_child_weight) * (1 << SCALE_BITS)))
    candidates = [_scored(told, total, penalty, least) for told in tables]
    bound = max(score.max(initial=0.0) for *_, score in candidates) * _CLOSE
    best: tuple[Fraction, tuple[int, int, int, int, int]] | None = None
    known: tuple[int, int] | None = None
    for party, (places, is_left, g, h, score) in enumerate(candidates):
        close = np.flatnonzero(score >= bound)
        close = close[np.lexsort((is_left[close], places[close]))]
        for each in close.tolist():
            g_left, h_left = int(g[each]), int(h[each])
            if (g_left, h_left) == known:
                continue
            exact = _score(g_left, h_left + penalty) + _score(total[0] - g_left, total[1] - h_left + penalty)
            if best is None or exact > best[0]:
                best, known = (exact, (party, int(places[each]), int(is_left[each]), g_left, h_left)), (g_left, h_left)
    if best is None:
        return None
    # (2^(unit − s))² / 2^-s is the unit of a score
    gain = (best[0] - _score(total[0], total[1] + penalty)) * Fraction(2) ** (2 * unit - SCALE_BITS) / 2
    if gain <= Fraction(settings.min_split_gain):
        return None
    party, place, left, g_left, h_left = best[1]
    ends = np.cumsum(tables[party].counts)
    column = int(np.searchsorted(ends, place, side="right"))
    group = place - int(ends[column] - tables[party].counts[column])
    return Split(party, column, group, bool(left), (g_left, h_left), float(gain))


def _scored(told: Told, total: tuple[int, int], penalty: int, least: int) -> tuple[Array, Array, Array, Array, Wide]:
    """The candidates that are allowed, and their scores in float64."""
    places, is_left, g, h = _candidates(told)
    rest = total[1] - h
    allowed = np.flatnonzero((h >= least) & (rest >= least))
    g, h, rest = g[allowed], h[allowed], rest[allowed]
    score = g.astype(np.float64) ** 2 / (h + penalty) + (total[0] - g).astype(np.float64) ** 2 / (rest + penalty)
    return places[allowed], is_left[allowed], g, h, score


def _candidates(told: Told) -> tuple[Array, Array, Array, Array]:
    """Every split of one party: place of the last group on the left, whether missing values are there, Σg, Σh."""
    counts = told.counts
    ends = np.cumsum(counts)
    column = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(column))
    has_missing = told.apart[column]
    ordinary = place < (ends - told.apart)[column]
    last = place == (ends - told.apart)[column] - 1
    before = (ends - counts)[column]
    g, h = _running(told.g, before), _running(told.h, before)
    right = np.flatnonzero(ordinary & (has_missing | ~last))
    both = np.flatnonzero(ordinary & has_missing & ~last)
    of_missing = ends[column[both]] - 1
    return (
        np.concatenate([place[right], place[both]]),
        np.concatenate([np.zeros(len(right), np.int64), np.ones(len(both), np.int64)]),
        np.concatenate([g[right], g[both] + told.g[of_missing]]),
        np.concatenate([h[right], h[both] + told.h[of_missing]]),
    )


def _running(values: Array, before: Array) -> Array:
    """Sums from the start of each one's column, which lies at `before`, up to and with it."""
    summed = np.concatenate([[0], np.cumsum(values)])
    sums: Array = summed[1:] - summed[before]
    return sums


def _score(g: int, h: int) -> Fraction:
    return Fraction(g * g, h) if h else Fraction(0)


def leaf_value(g: int, h: int, unit: int, settings: Settings) -> float:
    """−η·Σg / (Σh + λ), rounded once; 0 where that is 0 / 0."""
    weight = h + _penalty(settings)
    if not weight:
        return 0.0
    rate = _rounded(Fraction(settings.learning_rate) * (1 << _RATE_BITS))
    return float(Fraction(-rate * g, weight) * Fraction(2) ** (unit - _RATE_BITS))


def _penalty(settings: Settings) -> int:
    return _rounded(Fraction(settings.reg_lambda) * (1 << SCALE_BITS))


def _rounded(value: Fraction) -> int:
    return round(value)  # half to even
