"""A mean taken update by update in memory, and the partial sums that workers merge. Same bits as `aggregate`.

Simulation folds each update as soon as it is trained, in order of position. The sum of all arrays is one vector, into
which an update whose arrays lie end to end goes in one pass; at most log2(groups) + 2 sums are kept. Workers that share
a cohort each take whole subtrees of the canonical tree (`canonical.subtrees`), export a `Partial` for each, and whoever
merges them gets the bits of one walk.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from hanse.aggregation.canonical import GROUP, Subtree, Tree
from hanse.aggregation.cohort import Cohort, check_layout, wrong_update
from hanse.aggregation.folds import Sum, WeightedMean, WeightedSum
from hanse.aggregation.ranges import BLOCK_ELEMENTS, Range, ranges, run_side_by_side
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.rounding import Block, Wide, all_finite, is_float
from hanse.aggregation.sources import Sink, Source
from hanse.aggregation.step import Kind, Step, Update, check_model
from hanse.core.arrays import Arrays, Layout, describe
from hanse.core.errors import CodecError
from hanse.core.spec import NUMERICS


@dataclass(frozen=True, slots=True)
class Partial:
    """The weighted sum over everything that a subtree's positions gave.

    Args:
        subtree: which positions.
        layout: of the updates.
        sums: Σ weight · update for each array, float64, flat.
        weight: Σ weight, in canonical order.
    """

    subtree: Subtree
    layout: Layout
    sums: tuple[Wide, ...]
    weight: float

    def to_arrays(self) -> Arrays:
        """As arrays that travel; `from_arrays` reads them."""
        place = np.array([NUMERICS, self.subtree.level, self.subtree.index], dtype=np.int64)
        sums = {f"sum/{spec.name}": value for spec, value in zip(self.layout.specs, self.sums, strict=True)}
        return Arrays({"place": place, "weight": np.array([self.weight]), **sums})

    @classmethod
    def from_arrays(cls, arrays: Arrays, layout: Layout) -> "Partial":
        """Read what `to_arrays` wrote.

        Raises:
            CodecError: not a partial of updates with this layout, or of another version of the order.
        """
        double = np.dtype(np.float64)
        expected = [("place", np.dtype(np.int64), (3,)), ("weight", double, (1,))]
        expected += [(f"sum/{spec.name}", double, (spec.size,)) for spec in layout.specs]
        if [(spec.name, spec.dtype, spec.shape) for spec in arrays.layout.specs] != expected:
            raise CodecError("partial: expected place, weight and a flat float64 sum for each array of the model")
        version, level, index = (int(value) for value in arrays["place"])
        if version != NUMERICS or not 0 <= level < 64 or index < 0:
            raise CodecError(f"partial: expected numerics {NUMERICS} and a subtree, found {version}, {level}, {index}")
        return cls(Subtree(level, index), layout, tuple(arrays.to_list()[2:]), float(arrays["weight"][0]))


@dataclass(slots=True)
class _Parts:
    """What one subtree holds: one sum, of the arrays end to end, and its weight."""

    total: Sum
    weight: float


class RunningMean:
    """A weighted mean (or sum) of updates that come one by one, in order of position.

    Args:
        layout: what every update must have.
        rule: `WeightedMean` or `WeightedSum`.
        within: the subtree that this one is responsible for; None for the whole plan.
        allow_nonfinite: take NaN and infinity as they come.
        checked: whoever gives updates has seen that they are finite.

    Raises:
        UpdateError: arrays that have no mean.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        rule: WeightedSum | None = None,
        within: Subtree | None = None,
        allow_nonfinite: bool = False,
        checked: bool = False,
    ) -> None:
        check_layout(layout)
        self._layout = layout
        self._starts = [0, *accumulate(spec.size for spec in layout.specs)]
        self._rule = rule or WeightedMean()
        self._within = within
        self._allow_nonfinite = allow_nonfinite
        self._looks = not (allow_nonfinite or checked)
        # Sums of narrower floats cannot leave float64, so nothing there needs to be kept quiet.
        self._loud = allow_nonfinite or any(spec.dtype == np.float64 for spec in layout.specs)
        self._tree: Tree[_Parts] = Tree(self._merge)
        self._top: _Parts | None = None
        self._last = -1

    def add(self, position: int, update: Source, weight: float) -> None:
        """Fold one update; it may be reused afterwards.

        Raises:
            UpdatesRefused: another layout, a negative or non-finite weight, non-finite values. Nothing was folded.
            ValueError: a position that is not behind the last one or not within the subtree.
        """
        if position <= self._last or (self._within is not None and position not in self._within.positions):
            raise ValueError(f"expected a position behind {self._last} within {self._within}, found {position}")
        weight = float(weight)
        reason = wrong_update(update.layout, weight, self._layout)
        if reason:
            raise UpdatesRefused({position: reason})
        blocks = [update.block(i, 0, spec.size) for i, spec in enumerate(self._layout.specs)]
        if self._looks:
            with np.errstate(all="ignore"):
                self._check(position, blocks)
        self.fold(position, blocks, weight)

    def fold(self, position: int, blocks: Sequence[Block], weight: float) -> None:
        """`add` without its checks, for a caller that has made them.

        Args:
            blocks: the update's arrays, flat, in order; or one, all of them end to end (`Arrays.flat`).
            weight: finite and >= 0.
        """
        if self._loud:
            with np.errstate(all="ignore"):
                self._fold(position, blocks, weight)
        else:
            self._fold(position, blocks, weight)

    def _fold(self, position: int, blocks: Sequence[Block], weight: float) -> None:
        group, top = position // GROUP, self._top
        if top is None or group != self._last // GROUP:
            self._tree.settle(group)
            top = self._top = _Parts(self._rule.zero(self._starts[-1]), weight)
            self._tree.push_group(group, top)
        else:
            top.weight += weight
        total = top.total
        if len(blocks) == 1:
            self._rule.add(total, blocks[0], weight)
        else:
            for (start, stop), block in zip(pairwise(self._starts), blocks, strict=True):
                self._rule.add(Sum(total.values[start:stop], total.fresh), block, weight)
            total.fresh = False
        self._last = position

    def merge(self, partial: Partial) -> None:
        """Take what another one folded.

        Raises:
            ValueError: another layout, or a subtree that is not behind everything taken before.
        """
        if difference := self._layout.difference(partial.layout):
            raise ValueError(f"partial: {difference}")
        if self._within is not None and not (
            self._within.first_group <= partial.subtree.first_group
            and partial.subtree.end_group <= self._within.end_group
        ):
            raise ValueError(f"expected a subtree within {self._within}, found {partial.subtree}")
        total = self._rule.zero(self._starts[-1])
        total.fresh = False
        if partial.sums:
            np.concatenate(partial.sums, out=total.values)
        with np.errstate(all="ignore"):
            self._tree.push(partial.subtree, _Parts(total, partial.weight))
        self._top = None
        self._last = partial.subtree.positions[-1]

    def partial(self) -> Partial | None:
        """The sum over the subtree `within`, None if nothing came; this object is empty afterwards.

        Raises:
            ValueError: it was made without `within`.
        """
        if self._within is None:
            raise ValueError("expected within=Subtree(...): only a whole subtree's sum can be merged exactly")
        parts = self._take()
        if parts is None:
            return None
        values = parts.total.values
        sums = tuple(values[start:stop] for start, stop in pairwise(self._starts))
        return Partial(self._within, self._layout, sums, parts.weight)

    def finish(
        self,
        out: Sink,
        *,
        kind: Kind = "values",
        base: Source | None = None,
        update: Update | None = None,
        states: Sequence[Source] = (),
        state_outs: Sequence[Sink] = (),
        scalars: Mapping[str, float] | None = None,
    ) -> float:
        """Write the new model, as `aggregate` does; this object is empty afterwards.

        Returns:
            The total weight.

        Raises:
            EmptyCohort, ZeroWeight, Overflow: see there.
        """
        check_model(self._layout, kind, base, update, states, state_outs)
        parts = self._take()
        if parts is None:
            raise EmptyCohort
        if parts.weight == 0:
            raise ZeroWeight
        if not np.isfinite(parts.weight):
            raise Overflow("the total", "the weights")
        reduce = _Finished(self._rule, parts, self._starts)
        step = Step(
            self._layout,
            Cohort((), (), (), parts.weight),
            reduce,
            out,
            kind,
            base,
            update,
            states,
            state_outs,
            scalars or {},
            self._allow_nonfinite,
        )
        run_side_by_side(ranges(self._layout, BLOCK_ELEMENTS), step, 1)
        return parts.weight

    def _take(self) -> _Parts | None:
        with np.errstate(all="ignore"):
            parts = self._tree.finish()
        self._tree, self._top, self._last = Tree(self._merge), None, -1
        return parts

    def _merge(self, left: _Parts, right: _Parts) -> _Parts:
        return _Parts(self._rule.merge(left.total, right.total), left.weight + right.weight)

    def _check(self, position: int, blocks: Sequence[Block]) -> None:
        for spec, block in zip(self._layout.specs, blocks, strict=True):
            if is_float(spec.dtype) and not all_finite(block):
                raise UpdatesRefused({position: f"values that are not finite in {describe(spec)}"})


class _Finished:
    """Ranges of sums that are complete; see `walk.Reduce`."""

    def __init__(self, rule: WeightedSum, parts: _Parts, starts: Sequence[int]) -> None:
        self._rule = rule
        self._parts = parts
        self._starts = starts

    def __call__(self, at: Range, out: Wide) -> None:
        self._rule.finish(self._part(at), self._parts.weight, out)

    def rounded(self, at: Range, out: Block) -> bool | None:
        """See `walk.Reduce.rounded`."""
        return self._rule.finish_rounded(self._part(at), self._parts.weight, out)

    def _part(self, at: Range) -> Sum:
        start = self._starts[at.index]
        return Sum(self._parts.total.values[start + at.start : start + at.stop], fresh=False)
