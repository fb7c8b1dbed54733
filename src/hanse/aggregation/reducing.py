"""One range through a rule: a fold in canonical order, or a select over all updates at once."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hanse.aggregation.blocks import BlockRefused, RowReader, Scratch, read_blocks, refuse_nonfinite
from hanse.aggregation.canonical import Tree, group_members
from hanse.aggregation.cohort import Cohort
from hanse.aggregation.folds import Fold
from hanse.aggregation.ranges import Range
from hanse.aggregation.rounding import Block, Wide, all_finite
from hanse.aggregation.rules import is_group_fold
from hanse.aggregation.selects import Select, WindowMean
from hanse.aggregation.sorting import Sorter, pick_sorter

SELECT_BYTES = 8 << 20
"""Bytes of the float64 matrix (updates × elements) that a `Select` gets at once, about."""
SELECT_LEAST_ELEMENTS = 256


class Reduce(Protocol):
    """Reduces one range of the cohort."""

    def __call__(self, at: Range, out: Wide) -> None:
        """Write the result in float64."""
        ...

    def rounded(self, at: Range, out: Block) -> bool | None:
        """Write it rounded to out's dtype: whether it is finite; None (and nothing done) if it cannot do that."""
        ...


class FoldReduce:
    """One range through a fold, in canonical order."""

    def __init__(self, cohort: Cohort, rule: Fold[Any]) -> None:
        self._cohort = cohort
        self._rule = rule
        self._fast = is_group_fold(rule)
        self._coded = self._fast and getattr(rule, "takes_coded", False)
        found = list(group_members(cohort.positions))
        following = [group for group, _ in found[1:]] + [None]
        self._groups = [
            (group, members, [cohort.weights[i] for i in members], after)
            for (group, members), after in zip(found, following, strict=True)
        ]
        self._ready: dict[Range, Any] = {}

    def read_together(self, stretch: Sequence[Range]) -> None:
        """All ranges of four updates, then of the next four: a chunk is fetched once, and few are held at a time."""
        trees: list[Tree[Any] | BlockRefused] = [Tree(self._rule.merge) for _ in stretch]
        for group in self._groups:
            for number, (at, tree) in enumerate(zip(stretch, trees, strict=True)):
                if isinstance(tree, Tree):
                    try:
                        self._add(tree, at, *group)
                    except BlockRefused as error:
                        trees[number] = error
        for at, tree in zip(stretch, trees, strict=True):
            self._ready[at] = tree

    def __call__(self, at: Range, out: Wide) -> None:
        self._rule.finish(self._accumulate(at), self._cohort.total_weight, out)

    def rounded(self, at: Range, out: Block) -> bool | None:
        """See `Reduce.rounded`."""
        if not self._fast:
            return None
        rule: Any = self._rule
        found: bool = rule.finish_rounded(self._accumulate(at), self._cohort.total_weight, out)
        return found

    def _accumulate(self, at: Range) -> Any:
        tree = self._ready.pop(at, None)
        if isinstance(tree, BlockRefused):
            raise tree
        if tree is None:
            tree = Tree(self._rule.merge)
            for group in self._groups:
                self._add(tree, at, *group)
        return tree.finish()

    def _add(
        self, tree: Tree[Any], at: Range, group: int, members: range, weights: Sequence[float], after: int | None
    ) -> None:
        rule: Any = self._rule
        tree.settle(group)
        blocks = read_blocks(self._cohort, members, at, coded=self._coded)
        if self._fast and tree.joins_top(group, after):
            rule.join_group(tree.join_top(group), blocks, weights)
            return
        acc = rule.zero(at.size)
        if self._fast:
            rule.add_group(acc, blocks, weights)
        else:
            for block, weight in zip(blocks, weights, strict=True):
                rule.add(acc, block, weight)
        tree.push_group(group, acc)


class SelectReduce:
    """One range through a select."""

    def __init__(self, cohort: Cohort, rule: Select, allow_nonfinite: bool) -> None:
        self._cohort = cohort
        self._rule = rule
        self._rows = RowReader(cohort)
        self._scratch = Scratch()
        self._allow_nonfinite = allow_nonfinite
        self._sorter: Sorter | None = None
        self.block_elements = select_elements(len(cohort.sources))
        if isinstance(rule, WindowMean) and not allow_nonfinite:
            num, layout = len(cohort.sources), cohort.sources[0].layout
            self._sorter = pick_sorter(rule.kernel, num, num * layout.nbytes)
            self._window = rule.window(num)
            self.block_elements = self._sorter.block_elements(num)

    def __call__(self, at: Range, out: Wide) -> None:
        if self._sorted(at, out):
            return
        rows = self._rows.read(at)
        if not self._allow_nonfinite:
            refuse_nonfinite(self._cohort, rows)  # here, since a median would hide it
        self._rule.reduce(rows, self._cohort.weights, out)

    def rounded(self, at: Range, out: Block) -> bool | None:
        """See `Reduce.rounded`."""
        wide = self._scratch.take("wide", at.size)
        if not self._sorted(at, wide):
            return None
        np.copyto(out, wide, casting="same_kind")
        return all_finite(out)

    def _sorted(self, at: Range, out: Wide) -> bool:
        if self._sorter is None:
            return False
        blocks = read_blocks(self._cohort, range(len(self._cohort.sources)), at)
        return self._sorter.mean_of(blocks, self._window, out)


def select_elements(num_updates: int) -> int:
    """Elements of one block so that a `Select`'s matrix stays near `SELECT_BYTES`."""
    return max(SELECT_LEAST_ELEMENTS, SELECT_BYTES // (8 * num_updates))
