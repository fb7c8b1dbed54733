"""The pooled fixed-point booster as a slow program: plain Python over lists, from docs/explanation/boosting-spec.md.

It shares no code with the package. Sums are Python integers, gains and leaves are Fractions.
"""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

SCALE = 26
WORD = (1 << 64) - 1
Row = list[float]


@dataclass
class Settings:
    num_trees: int
    depth: int
    rate: float
    penalty: float
    gamma: float
    weight: float
    rows: int
    bins: int
    top: float = 0.0
    other: float = 0.0
    guest_trees: int = 0
    held_out: float = 0.0
    patience: int = 0
    seed: int = 0
    folds: int = 0
    fold: int = 0


# ---- §2 bins ----


def edges(column: Row, bins: int) -> Row:
    known = sorted(value for value in column if not math.isnan(value))
    distinct = sorted(set(known))
    if len(distinct) <= bins:
        return distinct[:-1]
    picked = {known[math.ceil(Fraction(t * len(known), bins)) - 1] for t in range(1, bins)}
    return sorted(value for value in picked if value < known[-1])


def bin_of(value: float, cuts: Row) -> int:
    """−1 for missing."""
    return -1 if math.isnan(value) else sum(cut < value for cut in cuts)


# ---- §3 derivatives ----


def gradients(kind: str, margins: list[float], y: float) -> list[tuple[float, float]]:
    if kind == "regression":
        return [(margins[0] - y, 1.0)]
    if kind == "binary":
        m = margins[0]
        p = 1 / (1 + math.exp(-m)) if m >= 0 else math.exp(m) / (1 + math.exp(m))
        return [(p - y, p * (1 - p))]
    highest = max(margins)
    raised = [math.exp(m - highest) for m in margins]
    total = math.fsum(raised)
    shares = [each / total for each in raised]
    return [(p - (k == y), 2 * p * (1 - p)) for k, p in enumerate(shares)]


def base(kind: str, target: list[float], classes: int) -> list[float]:
    if kind == "regression":
        import numpy as np  # the mean's rounding is NumPy's by the specification

        return [float(np.array(target).mean())]
    counts = [max(0.5, sum(y == k for y in target)) for k in range(classes)]
    if kind == "binary":
        return [math.log(counts[1] / counts[0])]
    return [math.log(count / sum(counts)) for count in counts]


def whole(x: float) -> int:
    return round(Fraction(x) * 2**SCALE)  # half to even


# ---- §4 samples ----


def mixed(x: int) -> int:
    z = (x + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def key(seed: int, stream: int, row: int) -> int:
    return mixed((mixed((mixed(seed) + stream) & WORD) + row) & WORD)


def sampled(g: list[float], unit: int, there: list[int], tree: int, s: Settings) -> dict[int, float]:
    """Row → what its derivatives are multiplied by."""
    if not s.top:
        return dict.fromkeys(there, 1.0)
    ranked = sorted(there, key=lambda row: (-abs(whole(math.ldexp(g[row], -unit))), row))
    num_top, num_other = int(s.top * len(there)), int(s.other * len(there))
    rest = sorted(ranked[num_top:], key=lambda row: (key(s.seed, tree + 1, row), row))
    made = dict.fromkeys(ranked[:num_top], 1.0)
    return made | dict.fromkeys(rest[:num_other], (1 - s.top) / s.other)


# ---- §5 groups, §6 splits ----


def groups(bins: list[int], num_bins: int, least: int) -> tuple[list[set[int]], list[int], bool]:
    """Sets of bins from the lowest on, the last bin of each, and whether missing values (−1) are a set of their own."""
    made: list[set[int]] = []
    last: list[int] = []
    open_, count = set(), 0
    for each in range(num_bins):
        open_.add(each)
        count += bins.count(each)
        if count >= least:
            made.append(open_)
            last.append(each)
            open_, count = set(), 0
    if made:
        made[-1] |= open_
    else:
        made.append(open_)
        last.append(num_bins - 1)
    last[-1] = num_bins - 1
    missing = bins.count(-1)
    apart = missing >= least and len(bins) - missing >= least
    if not apart:
        made[-1].add(-1)
    return made, last, apart


def score(g: int, h: int) -> Fraction:
    return Fraction(g * g, h) if h else Fraction(0)


class Booster:
    def __init__(self, parties: list[list[Row]], kind: str, target: list[float], classes: int, s: Settings) -> None:
        """`parties`: for each party its columns, each a list of values."""
        self.kind, self.target, self.s = kind, target, s
        self.cuts = [[edges(column, s.bins) for column in party] for party in parties]
        self.bins = [
            [[bin_of(value, cuts) for value in column] for column, cuts in zip(party, all_cuts, strict=True)]
            for party, all_cuts in zip(parties, self.cuts, strict=True)
        ]
        rows = range(len(target))
        by_key = sorted(rows, key=lambda row: (key(s.seed, 0, row), row))
        self.out = set(by_key[: int(s.held_out * len(target))])
        if s.fold:
            self.out = {row for place, row in enumerate(by_key) if place % s.folds == s.fold - 1}
        self.losses: list[Fraction] = []
        start = base(kind, target, classes)
        self.outputs = len(start)
        self.margins = [[start[k] for _ in rows] for k in range(self.outputs)]
        self.trees: list[Any] = []
        self.run()

    def run(self) -> None:
        rows = range(len(self.target))
        best, lowest = 0, Fraction(0)
        for turn in range(self.s.num_trees):
            found = [gradients(self.kind, [m[row] for m in self.margins], self.target[row]) for row in rows]
            parties = range(1) if turn < self.s.guest_trees else range(len(self.bins))
            for k in range(self.outputs):
                tree, says = self.tree([each[k] for each in found], parties)
                for row in rows:
                    self.margins[k][row] += says[row]
                self.trees.append(tree)
            if self.s.fold:
                self.losses.append(self.loss())
            if self.s.patience:
                loss = self.loss()
                if turn == 0 or loss < lowest:
                    best, lowest = turn, loss
                if turn - best >= self.s.patience:
                    break
        if self.s.patience:
            self.trees = self.trees[: (best + 1) * self.outputs]

    def loss(self) -> Fraction:
        if self.kind == "regression":
            return Fraction(math.fsum((self.margins[0][row] - self.target[row]) ** 2 for row in self.out))
        total = 0
        for row in self.out:
            margins, y = [m[row] for m in self.margins], int(self.target[row])
            if self.kind == "binary":
                m = margins[0] if y else -margins[0]
                total += whole(max(0.0, -m) + math.log1p(math.exp(-abs(m))))
            else:
                highest = max(margins)
                total += whole(math.log(sum(math.exp(m - highest) for m in margins)) + highest - margins[y])
        return Fraction(total)

    def tree(self, found: list[tuple[float, float]], parties: Any) -> tuple[Any, list[float]]:
        there = [row for row in range(len(found)) if row not in self.out]
        unit = 0
        if self.kind == "regression":
            unit = math.frexp(max(abs(found[row][0]) for row in there))[1]
        times = sampled([g for g, _ in found], unit, there, len(self.trees), self.s)
        self.unit = unit
        self.gh = {
            row: (whole(math.ldexp(found[row][0] * by, -unit)), whole(found[row][1] * by)) for row, by in times.items()
        }
        says = [0.0] * len(found)
        tree = self.node(list(range(len(found))), 0, parties, says)
        return tree, says

    def sums(self, rows: Any) -> tuple[int, int]:
        found = [self.gh[row] for row in rows if row in self.gh]
        return sum(g for g, _ in found), sum(h for _, h in found)

    def node(self, rows: list[int], depth: int, parties: Any, says: list[float]) -> Any:
        g, h = self.sums(rows)
        split = self.best(rows, g, h, parties) if depth < self.s.depth else None
        if split is None:
            value = self.leaf(g, h)
            for row in rows:
                says[row] = value
            return ["leaf", value.hex()]
        party, column, last, missing_left = split
        bins = self.bins[party][column]
        left = [row for row in rows if (missing_left if bins[row] < 0 else bins[row] <= last)]
        right = [row for row in rows if row not in set(left)]
        below = [self.node(each, depth + 1, parties, says) for each in (left, right)]
        return [party, column, last, int(missing_left), *below]

    def best(self, rows: list[int], g: int, h: int, parties: Any) -> tuple[int, int, int, bool] | None:
        penalty = round(Fraction(self.s.penalty) * 2**SCALE)
        least = max(1, round(Fraction(self.s.weight) * 2**SCALE))
        top, found = None, None
        for party in parties:
            for column, bins in enumerate(self.bins[party]):
                here = {row: bins[row] for row in rows if row in self.gh}
                sets, lasts, apart = groups(list(here.values()), len(self.cuts[party][column]) + 1, self.s.rows)
                for place, missing_left in itertools.product(range(len(sets)), (False, True)):
                    if missing_left and not apart:
                        continue
                    if place == len(sets) - 1 and (missing_left or not apart):
                        continue
                    wanted = set().union(*sets[: place + 1]) | ({-1} if missing_left else set())
                    g_left, h_left = self.sums(row for row, each in here.items() if each in wanted)
                    g_right, h_right = g - g_left, h - h_left
                    if h_left < least or h_right < least:
                        continue
                    gain = score(g_left, h_left + penalty) + score(g_right, h_right + penalty)
                    if top is None or gain > top:
                        top, found = gain, (party, column, lasts[place], missing_left)
        if top is None or (top - score(g, h + penalty)) * Fraction(2) ** (2 * self.unit - SCALE) / 2 <= Fraction(
            self.s.gamma
        ):
            return None
        return found

    def leaf(self, g: int, h: int) -> float:
        weight = h + round(Fraction(self.s.penalty) * 2**SCALE)
        if not weight:
            return 0.0
        rate = round(Fraction(self.s.rate) * 2**30)
        return float(Fraction(-rate * g, weight) * Fraction(2) ** (self.unit - 30))

    def digest(self) -> str:
        """§8."""
        return hashlib.sha256(json.dumps(self.trees, separators=(",", ":")).encode()).hexdigest()


def cross_validated(
    parties: list[list[Row]], kind: str, target: list[float], classes: int, s: Settings, depths: list[int]
) -> list[list[Fraction]]:
    """For each depth and number of rounds, the sum of all rows' losses, each by trees that did not know it."""
    found = []
    for depth in depths:
        folds = [
            Booster(parties, kind, target, classes, replace(s, depth=depth, fold=fold)).losses
            for fold in range(1, s.folds + 1)
        ]
        found.append([sum(each, Fraction(0)) for each in zip(*folds, strict=True)])
    return found
