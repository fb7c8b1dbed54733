"""The guest's loop: rounds, trees, levels. Where the sums come from is a `Source`: own columns, or a host.

With sources that hold columns in the clear it is the pooled booster of the specification; with hosts behind a cipher it
is the guest of the protocol. So both grow the same trees if their sums are the same integers.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING, Progress
from hanse.core.arrays import Array, Arrays
from hanse.trees.growing import histograms
from hanse.trees.objectives import SCALE_BITS, Objective, whole
from hanse.vertical.boosting.columns import BinnedColumns, Groups, groups_of
from hanse.vertical.boosting.forest import LEAF, Forest, Questions
from hanse.vertical.boosting.levels import Level
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.boosting.splits import Derivatives, Split, Told, best_split, derivatives, held_out, leaf_value

Wide = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


_ASKED = ("column", "bin", "threshold", "missing_left")


class Source(Protocol):
    """One party's columns, as the guest sees them."""

    async def begin(self, tree: int, found: Derivatives) -> None:
        """A tree begins."""

    async def told(self, level: Level) -> list[Told]:
        """Sums of every node of a level."""

    async def split(self, level: Level, chosen: Sequence[Split | None], party: int) -> Mask | None:
        """Ask for what this party's splits among `chosen` say; `party` is its place.

        Returns:
            bool, `(num_rows,)`: who goes left, in nodes that are split by it; None if there are none.
        """

    async def moved(self, grown: Mask, left: Mask, below: Level) -> None:
        """Another level follows: who went left."""


@dataclass(slots=True)
class Asked:
    """One party's questions while they are collected."""

    columns: BinnedColumns
    rows: list[tuple[int, int, float, bool]] = field(default_factory=list)
    trees: list[int] = field(default_factory=list)
    """The tree of each."""
    tree: int = 0
    """The tree that grows."""

    @classmethod
    def resumed(cls, columns: BinnedColumns, progress: Progress) -> "Asked":
        """Those of the trees that are done."""
        found, state = cls(columns), progress.state
        if state:
            listed = (state[f"asked_{name}"].tolist() for name in (*_ASKED, "tree"))
            for *row, tree in zip(*listed, strict=True):
                if tree < progress.number:
                    found.rows.append((row[0], row[1], row[2], bool(row[3])))
                    found.trees.append(tree)
        return found

    def kept(self) -> Arrays:
        """What `resumed` takes."""
        asked = self.questions()
        named = {f"asked_{name}": getattr(asked, name) for name in _ASKED}
        named["asked_missing_left"] = asked.missing_left.astype(np.uint8)
        return Arrays({**named, "asked_tree": np.array(self.trees, np.int64)})

    def add(self, groups: Groups, column: int, group: int, missing_left: bool) -> Mask:
        """Note a question; returns bool `(max_bins + 1,)`, which bins go left."""
        last = int(groups.last_bin[column, group])
        edges = self.columns.edges[column]
        threshold = float(edges[last]) if last < len(edges) else np.inf
        self.rows.append((column, last, threshold, missing_left))
        self.trees.append(self.tree)
        left = np.arange(self.columns.max_bins + 1) <= last
        left[-1] = missing_left
        return left

    def questions(self) -> Questions:
        """All of them."""
        column, last, threshold, missing = zip(*self.rows, strict=True) if self.rows else ((), (), (), ())
        return Questions(
            np.array(column, np.int64), np.array(last, np.int64), np.array(threshold), np.array(missing, np.bool_)
        )


class OwnColumns:
    """A `Source` of columns that are here, in the clear."""

    def __init__(self, columns: BinnedColumns, settings: Settings, progress: Progress = BEGINNING) -> None:
        self.asked = Asked.resumed(columns, progress)
        self._columns = columns
        self._least = settings.min_bin_rows
        self._num_edges = np.array([len(each) for each in columns.edges])
        self._cells: Array = np.empty(0, np.int64)
        self._groups: list[Groups] = []
        self._found: Derivatives | None = None

    async def begin(self, tree: int, found: Derivatives) -> None:
        """See `Source.begin`."""
        self._found, self.asked.tree = found, tree

    async def told(self, level: Level) -> list[Told]:
        """See `Source.told`."""
        found, columns = self._found, self._columns
        assert found is not None
        nodes, rows, among = level.summed()
        place = np.full(columns.num_rows, -1)
        place[rows] = among
        summed = histograms(columns.bins, place, len(nodes), found.g, found.h, columns.max_bins)
        self._cells = cells = with_siblings(summed, nodes, level, self._cells)
        self._groups = [groups_of(each[..., 2], self._num_edges, self._least) for each in cells[:]]
        return [_told(each, groups) for each, groups in zip(cells[:], self._groups, strict=True)]

    async def split(self, level: Level, chosen: Sequence[Split | None], party: int) -> Mask | None:
        """See `Source.split`."""
        return sides(self._columns, self.asked, self._groups, level, [_mine(each, party) for each in chosen])

    async def moved(self, grown: Mask, left: Mask, below: Level) -> None:
        """See `Source.moved`."""


def _mine(split: Split | None, party: int) -> tuple[int, int, bool] | None:
    return None if split is None or split.party != party else (split.column, split.group, split.missing_left)


def sides(
    columns: BinnedColumns,
    asked: Asked,
    groups: Sequence[Groups],
    level: Level,
    chosen: Sequence[tuple[int, int, bool] | None],
) -> Mask | None:
    """Note the questions of a level and answer them for all rows; None if there are none.

    Args:
        chosen: for each node column, group and missing_left, or None.
    """
    if all(each is None for each in chosen):
        return None
    left = np.zeros(columns.num_rows, np.bool_)
    for node, each in enumerate(chosen):
        if each is not None:
            goes_left = asked.add(groups[node], *each)
            rows = np.flatnonzero(level.place == node)
            left[rows] = goes_left[columns.bins[each[0], rows]]
    return left


def with_siblings(summed: Array, nodes: Array, level: Level, above: Array) -> Array:
    """Sums of all nodes of a level, from those that were summed and those of the level above."""
    if not len(level.parents):
        return summed
    made = np.empty((level.num_nodes, *summed.shape[1:]), summed.dtype)
    made[nodes] = summed
    made[nodes ^ 1] = above[level.parents] - summed
    return made


def _told(cell: Array, groups: Groups) -> Told:
    place, total = groups.cells()
    g, h = (np.zeros(total + 1, np.int64) for _ in range(2))
    np.add.at(g, place, cell[..., 0])
    np.add.at(h, place, cell[..., 1])
    return Told(g[:-1], h[:-1], groups.told, groups.apart)


@dataclass(frozen=True, slots=True)
class Grown:
    """What a training ends with, at the guest.

    Attributes:
        forest: the trees.
        margins: float64, `(num_outputs, num_rows)`, of all rows.
        losses: the mean loss on the rows held out after each round; empty without them.
        held_out: which rows they are.
    """

    forest: Forest
    margins: Wide
    losses: tuple[float, ...]
    held_out: Mask


async def boost(
    sources: Sequence[Source],
    objective: Objective,
    target: Wide,
    start: tuple[Wide, int],
    settings: Settings,
    progress: Progress = BEGINNING,
    kept: Arrays | None = None,
) -> Grown:
    """Grow all trees.

    Args:
        sources: the guest's own columns first, then the hosts in order.
        objective, target: see `hanse.trees.objectives`.
        start: of `Objective.start`.
        settings: all of them.
        progress: trees that are done: whole rounds, with what was kept after them. The first source is `OwnColumns`
            where something is kept.
        kept: what is kept besides with every checkpoint.
    """
    base = start[0]
    out = held_out(len(target), settings)
    margins = np.repeat(base[:, None], len(target), axis=1)
    trees: list[_Tree] = []
    losses: list[float] = []
    best, best_margins = 0, margins
    if progress.number:
        trees, losses, margins, best_margins = _resumed(progress, settings)
        best = int(np.argmin(losses)) if losses else 0
    done = len(trees) // objective.num_outputs
    if settings.patience and done and done - 1 - best >= settings.patience:
        done = settings.num_trees
    for turn in range(done, settings.num_trees):
        there = sources[:1] if turn < settings.guest_trees else sources
        g, h = objective.gradients(margins, target)
        for output in range(objective.num_outputs):
            found = derivatives(g[output], h[output], ~out, len(trees), objective, settings)
            tree = _Tree(settings.depth)
            margins[output] += await tree.grow(there, found, len(trees), settings)
            trees.append(tree)
        if out.any():
            losses.append(mean_loss(objective, margins[:, out], target[out]))
        if settings.patience and (losses[-1] < losses[best] or turn == 0):
            best, best_margins = turn, margins.copy()
        _keep(progress, sources[0], trees, losses, margins, best_margins, kept or Arrays())
        if settings.patience and turn - best >= settings.patience:
            break
    count = (best + 1) * objective.num_outputs if settings.patience else len(trees)
    forest = _joined(base, trees[:count])
    return Grown(forest, margins if count == len(trees) else best_margins, tuple(losses), out)


def mean_loss(objective: Objective, margins: Wide, target: Wide) -> float:
    """The mean of −log likelihood, each row's rounded to 2^-26, or of half the squared error; rounded once.

    Args:
        margins: float64, `(num_outputs, n)`.
        target: float64, `(n,)`.
    """
    if objective.name == "regression":
        return 0.5 * math.fsum(((margins[0] - target) ** 2).tolist()) / len(target)
    if objective.name == "binary":
        each = np.logaddexp(0.0, np.where(target > 0, -margins[0], margins[0]))
    else:
        each = np.logaddexp.reduce(margins, axis=0) - margins[target.astype(np.int64), np.arange(len(target))]
    return int(whole(each).sum()) / (len(target) << SCALE_BITS)


class _Tree:
    """One tree while it grows."""

    def __init__(self, depth: int) -> None:
        nodes = 2 ** (depth + 1) - 1
        self.party = np.full(nodes, LEAF)
        self.question = np.zeros(nodes, np.int64)
        self.column = np.zeros(nodes, np.int64)
        self.value = np.zeros(nodes)
        self.gain = np.zeros(nodes)
        self.heavier_left = np.zeros(nodes, np.bool_)
        self.weight = np.zeros(nodes)

    async def grow(self, sources: Sequence[Source], found: Derivatives, tree: int, settings: Settings) -> Wide:
        """All levels; returns what the tree says of every row, float64 `(num_rows,)`."""
        for source in sources:
            await source.begin(tree, found)
        level = Level.root(found.sample)
        at = np.zeros(len(found.g), np.int64)  # each row's node of the tree
        here = np.zeros(1, np.int64)  # the tree's nodes of this level
        self._leaf(0, (int(found.g.sum()), int(found.h.sum())), found.unit, settings)
        totals = [(int(found.g.sum()), int(found.h.sum()))]
        for depth in range(settings.depth):
            tables = [await source.told(level) for source in sources]
            chosen = [
                best_split([table[node] for table in tables], total, found.unit, settings)
                for node, total in enumerate(totals)
            ]
            left = np.zeros(len(at), np.bool_)
            for party, source in enumerate(sources):
                said = await source.split(level, chosen, party)
                if said is not None:
                    mine = np.array([each is not None and each.party == party for each in chosen])
                    rows = level.moving[mine[level.place[level.moving]]]
                    left[rows] = said[rows]
            grown = np.array([each is not None for each in chosen])
            below = level.below(grown, left)
            moved = below.moving
            at[moved] = 2 * at[moved] + np.where(left[moved], 1, 2)
            totals, here = self._split(here, chosen, totals, found.unit, settings)
            if depth + 1 < settings.depth:
                for source in sources:
                    await source.moved(grown, left, below)
            level = below
            if not grown.any():
                break
        return self.value[at]

    def _split(
        self,
        here: Array,
        chosen: Sequence[Split | None],
        totals: Sequence[tuple[int, int]],
        unit: int,
        settings: Settings,
    ) -> tuple[list[tuple[int, int]], Array]:
        """Note the splits of a level; returns Σg and Σh of the next level's nodes, and where these are."""
        sums: list[tuple[int, int]] = []
        nodes: list[int] = []
        for node, split, total in zip(here.tolist(), chosen, totals, strict=True):
            if split is None:
                continue
            right = total[0] - split.left[0], total[1] - split.left[1]
            self.party[node], self.column[node] = split.party, split.column
            self.gain[node], self.heavier_left[node] = split.gain, split.left[1] > right[1]
            self.value[node] = 0.0
            for child, child_sums in ((2 * node + 1, split.left), (2 * node + 2, right)):
                self._leaf(child, child_sums, unit, settings)
                sums.append(child_sums)
                nodes.append(child)
        return sums, np.array(nodes, np.int64)

    def _leaf(self, node: int, sums: tuple[int, int], unit: int, settings: Settings) -> None:
        self.value[node] = leaf_value(*sums, unit, settings)
        self.weight[node] = sums[1]


_KEPT = ("party", "question", "column", "value", "gain", "heavier_left", "weight")


def _keep(
    progress: Progress,
    own: Source,
    trees: Sequence[_Tree],
    losses: Sequence[float],
    margins: Wide,
    best: Wide,
    kept: Arrays,
) -> None:
    """A round is done: everything that the next one needs; of rows their margins now and at the best round so far."""
    if progress.keeps and isinstance(own, OwnColumns):
        arrays = {name: np.stack([getattr(tree, name) for tree in trees]) for name in _KEPT}
        of_rows = {"margins": margins, "best_margins": best} if losses else {"margins": margins}
        state = {**arrays, **of_rows, "losses": np.array(losses), **own.asked.kept(), **kept}
        progress.keep(len(trees), Arrays({**state, "heavier_left": arrays["heavier_left"].astype(np.uint8)}))


def _resumed(progress: Progress, settings: Settings) -> tuple[list[_Tree], list[float], Wide, Wide]:
    """Trees, losses and margins as `_keep` left them."""
    trees = []
    for at in range(progress.number):
        tree = _Tree(settings.depth)
        for name in _KEPT:
            setattr(tree, name, np.array(progress.state[name][at]))
        tree.heavier_left = tree.heavier_left.astype(np.bool_)
        trees.append(tree)
    margins = np.array(progress.state["margins"])
    return trees, progress.state["losses"].tolist(), margins, np.array(progress.state.get("best_margins", margins))


def _joined(base: Wide, trees: Sequence[_Tree]) -> Forest:
    names = ("party", "question", "column", "value", "gain", "heavier_left", "weight")
    arrays = {name: np.stack([getattr(tree, name) for tree in trees]) for name in names}
    counts: dict[int, int] = {}
    for tree, node in zip(*np.nonzero(arrays["party"] != LEAF), strict=True):  # in the order in which they were made
        party = int(arrays["party"][tree, node])
        arrays["question"][tree, node] = counts.get(party, 0)
        counts[party] = counts.get(party, 0) + 1
    return Forest(base, **arrays)
