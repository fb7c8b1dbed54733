"""The walk: block after block of the parameter range, every update's block reduced while it is in cache.

Memory is a few blocks per thread, whatever the model's size and the number of updates. Ranges are disjoint, so
threads (or Lambdas, or Ray tasks) take them side by side and no bit depends on who takes which.

Not here: what is reduced (`folds`, `selects`, `gathers`) and the order of it (`canonical`).
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hanse.aggregation.canonical import Tree, group_members, total_weight
from hanse.aggregation.folds import Fold, GroupFold
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.rounding import Block, Wide, all_finite, is_float, is_reducible, round_to, widen_into
from hanse.aggregation.selects import Select
from hanse.aggregation.sources import Sink, Source
from hanse.core.arrays import Layout, describe
from hanse.core.errors import UpdateError

Kind = Literal["values", "delta"]
Update = Callable[[Wide, Wide, Sequence[Wide], Mapping[str, float]], Wide]
"""A server optimiser, elementwise: `update(model, reduced, states, scalars) -> model`, all float64, (n,).

`reduced` is the mean of values or of deltas, not yet rounded. States are changed in place and rounded to their
dtype by the walk. Called for arrays of floats only: counters and the like take the plain mean, their states stay.
"""

BLOCK_ELEMENTS = 1 << 16
"""Elements in one block of a fold: a group of four float32 blocks and its sums stay in the second-level cache."""
SELECT_BYTES = 8 << 20
"""Bytes of the float64 matrix (updates × elements) that a `Select` gets at once, about."""
SELECT_LEAST_ELEMENTS = 256


@dataclass(frozen=True, slots=True)
class Cohort:
    """Updates to reduce, in the order of their positions.

    Args:
        sources: the updates.
        positions: place of each in the plan, strictly increasing.
        weights: weight of each, finite and >= 0 (FedAvg: number of examples).
    """

    sources: tuple[Source, ...]
    positions: tuple[int, ...]
    weights: tuple[float, ...]
    total_weight: float


@dataclass(frozen=True, slots=True)
class Range:
    """Elements start … stop of array `index`."""

    index: int
    start: int
    stop: int


def gather_cohort(
    sources: Sequence[Source],
    positions: Sequence[int],
    weights: Sequence[float],
    layout: Layout,
    *,
    plan_size: int | None = None,
    needs_weight: bool = True,
) -> Cohort:
    """Check and sort what is to be reduced.

    Args:
        sources, positions, weights: of equal length, in any order (order of arrival).
        layout: what every update must have.
        plan_size: number of positions in the plan, if known.
        needs_weight: a total weight of zero is an error.

    Raises:
        EmptyCohort: no sources.
        UpdatesRefused: a layout that differs, a weight that is negative or not finite; all of them named.
        ZeroWeight: the weights add up to zero. Overflow: they add up to infinity.
        ValueError: lengths that differ, a position twice or outside the plan.
    """
    if not len(sources) == len(positions) == len(weights):
        raise ValueError(
            f"expected as many positions and weights as sources, found {len(positions)} and {len(weights)} "
            f"for {len(sources)}"
        )
    if not sources:
        raise EmptyCohort
    order = sorted(range(len(sources)), key=lambda i: positions[i])
    ordered = tuple(int(positions[i]) for i in order)
    if len(set(ordered)) < len(ordered) or ordered[0] < 0 or (plan_size is not None and ordered[-1] >= plan_size):
        raise ValueError(f"expected distinct positions below plan_size={plan_size}, found {list(ordered[:16])}")
    chosen = tuple(sources[i] for i in order)
    given = tuple(float(weights[i]) for i in order)
    reasons: dict[int, str] = {}
    for source, position, weight in zip(chosen, ordered, given, strict=True):
        if difference := layout.difference(source.layout):
            reasons[position] = f"layout: {difference}"
        elif not math.isfinite(weight):
            reasons[position] = "weight: expected a finite number, found one that is not"
        elif weight < 0:
            reasons[position] = "weight: expected >= 0, found a negative number"
    if reasons:
        raise UpdatesRefused(reasons)
    total = total_weight(ordered, given)
    if needs_weight and total == 0:
        raise ZeroWeight(len(chosen))
    if not math.isfinite(total):
        raise Overflow("the total", "the weights")
    return Cohort(chosen, ordered, given, total)


def check_layout(layout: Layout) -> None:
    """Refuse arrays that have no mean.

    Raises:
        UpdateError: bool, complex or 8-bit float arrays, all named.
    """
    wrong = [describe(spec) for spec in layout.specs if not is_reducible(spec.dtype)]
    if wrong:
        raise UpdateError(
            f"expected arrays of float16, float32, float64, bfloat16 or integers, found {', '.join(wrong[:8])}; "
            "leave them out of the model or convert them"
        )


def ranges(layout: Layout, block_elements: int) -> Iterator[Range]:
    """Every element of every array once, in blocks that lie within one array."""
    for index, spec in enumerate(layout.specs):
        for start in range(0, spec.size, block_elements):
            yield Range(index, start, min(start + block_elements, spec.size))


def aggregate(
    sources: Sequence[Source],
    positions: Sequence[int],
    weights: Sequence[float],
    *,
    rule: Fold[Any] | Select,
    out: Sink,
    kind: Kind = "values",
    base: Source | None = None,
    update: Update | None = None,
    states: Sequence[Source] = (),
    state_outs: Sequence[Sink] = (),
    scalars: Mapping[str, float] | None = None,
    plan_size: int | None = None,
    threads: int = 1,
    block_elements: int | None = None,
) -> float:
    """Reduce stored updates into a new model.

    Args:
        sources, positions, weights: the updates in any order, the place of each in the plan, its weight.
        rule: a `Fold` (mean, sum) or a `Select` (median, trimmed mean).
        out: takes the new model; what it holds after an error is not a result.
        kind: `values`: the reduced values are the model; `delta`: the base plus the reduced delta, added in
            float64 and rounded once.
        base: the model that the updates began from; needed for `delta` and for `update`.
        update, states, state_outs, scalars: a server optimiser, its state, where its new state goes, and numbers
            that it is called with.
        plan_size: number of positions in the plan, if known.
        threads: how many take ranges side by side. Changes no bit.
        block_elements: elements of one block. Changes no bit.

    Returns:
        The total weight.

    Raises:
        EmptyCohort, ZeroWeight, Overflow, UpdatesRefused: see there. UpdateError: arrays without a mean.
    """
    if (kind == "delta" or update is not None) and base is None:
        raise ValueError("expected a base for kind='delta' or an update, found none")
    if not sources:
        raise EmptyCohort
    layout = base.layout if base is not None else sources[min(range(len(positions)), key=positions.__getitem__)].layout
    check_layout(layout)
    select = rule if isinstance(rule, Select) else None
    cohort = gather_cohort(sources, positions, weights, layout, plan_size=plan_size, needs_weight=select is None)
    for state in states:
        if [(s.name, s.shape) for s in state.layout.specs] != [(s.name, s.shape) for s in layout.specs]:
            raise ValueError("expected states with the names and shapes of the model, found others")
    if len(states) != len(state_outs):
        raise ValueError(f"expected one state_out for each of {len(states)} states, found {len(state_outs)}")
    if block_elements is None:
        block_elements = select_elements(len(sources)) if select else BLOCK_ELEMENTS
    reduce = _Select(cohort, select) if select is not None else _Fold(cohort, rule)  # type: ignore[arg-type]  # not a Select
    step = _Step(layout, cohort, reduce, out, kind, base, update, tuple(states), tuple(state_outs), scalars or {})
    walk(list(ranges(layout, block_elements)), step, threads)
    if step.refused:
        raise UpdatesRefused(step.refused)
    return cohort.total_weight


def select_elements(num_updates: int) -> int:
    """Elements of one block so that a `Select`'s matrix stays near `SELECT_BYTES`."""
    return max(SELECT_LEAST_ELEMENTS, SELECT_BYTES // (8 * num_updates))


def walk(todo: Sequence[Range], step: Callable[[Range], None], threads: int) -> None:
    """Call `step` for every range, `threads` side by side (the caller's own thread is one of them).

    Raises:
        Whatever `step` raised first; ranges not yet begun are left out then.
    """
    remaining, lock, errors = iter(todo), threading.Lock(), list[BaseException]()

    def work() -> None:
        with np.errstate(all="ignore"):  # what is not finite is found and named
            while True:
                with lock:
                    item = next(remaining, None)
                if item is None or errors:
                    return
                try:
                    step(item)
                except BaseException as error:
                    errors.append(error)

    helpers = [threading.Thread(target=work, name=f"aggregate-{i}") for i in range(1, min(threads, len(todo)))]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


class _Fold:
    """One range through a fold, in canonical order."""

    def __init__(self, cohort: Cohort, rule: Fold[Any]) -> None:
        self._cohort = cohort
        self._rule = rule
        self._groups = [
            (group, members, [cohort.weights[i] for i in members]) for group, members in group_members(cohort.positions)
        ]

    def __call__(self, at: Range, out: Wide) -> None:
        rule, sources = self._rule, self._cohort.sources
        tree: Tree[Any] = Tree(rule.merge)
        for group, members, weights in self._groups:
            tree.settle(group)
            blocks = [sources[i].block(at.index, at.start, at.stop) for i in members]
            acc = rule.zero(at.stop - at.start)
            if isinstance(rule, GroupFold):
                rule.add_group(acc, blocks, weights)
            else:
                for block, weight in zip(blocks, weights, strict=True):
                    rule.add(acc, block, weight)
            tree.push_group(group, acc)
        rule.finish(tree.finish(), self._cohort.total_weight, out)


class _Select:
    """One range through a select: a float64 matrix with one row per update, in order of position."""

    def __init__(self, cohort: Cohort, rule: Select) -> None:
        self._cohort = cohort
        self._rule = rule
        self._local = threading.local()

    def __call__(self, at: Range, out: Wide) -> None:
        n, sources = at.stop - at.start, self._cohort.sources
        rows = getattr(self._local, "rows", None)
        if rows is None or rows.shape[1] != n:
            rows = self._local.rows = np.empty((len(sources), n))
        for row, source in zip(rows, sources, strict=True):
            widen_into(row, source.block(at.index, at.start, at.stop))
        if not all_finite(rows.reshape(-1)):
            out[:] = np.nan  # the step looks for the culprits
            return
        self._rule.reduce(rows, self._cohort.weights, out)


@dataclass
class _Step:
    """What is done with one range: reduce, check, apply the optimiser, round, write."""

    layout: Layout
    cohort: Cohort
    reduce: Callable[[Range, Wide], None]
    out: Sink
    kind: Kind
    base: Source | None
    update: Update | None
    states: tuple[Source, ...]
    state_outs: tuple[Sink, ...]
    scalars: Mapping[str, float]
    refused: dict[int, str] = field(default_factory=dict)
    _local: threading.local = field(default_factory=threading.local)

    def __call__(self, at: Range) -> None:
        reduced = self._block("reduced", at)
        self.reduce(at, reduced)
        if not all_finite(reduced):
            culprits = self._culprits(at)
            if not culprits:
                raise Overflow("the sum", describe(self.layout.specs[at.index]))
            self.refused.update({p: reason for p, reason in culprits.items() if p not in self.refused})
        if self.refused:
            return  # only looking for more culprits now
        self._write(self.out, self.layout, at, self._new_model(at, reduced))

    def _new_model(self, at: Range, reduced: Wide) -> Wide:
        applies = self.update is not None and is_float(self.layout.specs[at.index].dtype)
        if not applies:
            for state, sink in zip(self.states, self.state_outs, strict=True):
                sink.write(at.index, at.start, state.block(at.index, at.start, at.stop))
        if self.base is None or (self.kind == "values" and not applies):
            return reduced
        model = self._block("model", at)
        widen_into(model, self.base.block(at.index, at.start, at.stop))
        if not applies or self.update is None:
            np.add(model, reduced, out=model)
            return model
        states = [self._block(f"state {i}", at) for i in range(len(self.states))]
        for wide, source in zip(states, self.states, strict=True):
            widen_into(wide, source.block(at.index, at.start, at.stop))
        model = self.update(model, reduced, states, self.scalars)
        for wide, source, sink in zip(states, self.states, self.state_outs, strict=True):
            self._write(sink, source.layout, at, wide)
        return model

    def _write(self, sink: Sink, layout: Layout, at: Range, values: Wide) -> None:
        spec = layout.specs[at.index]
        rounded: Block | None = round_to(values, spec.dtype) if all_finite(values) else None
        if rounded is None:
            raise Overflow("the result", describe(spec))
        sink.write(at.index, at.start, rounded)

    def _culprits(self, at: Range) -> dict[int, str]:
        spec = self.layout.specs[at.index]
        if not is_float(spec.dtype):
            return {}
        return {
            position: f"not finite: array {describe(spec)}"
            for source, position in zip(self.cohort.sources, self.cohort.positions, strict=True)
            if not all_finite(source.block(at.index, at.start, at.stop))
        }

    def _block(self, name: str, at: Range) -> Wide:
        """A float64 block of this thread, used again and again."""
        n, held = at.stop - at.start, self._local.__dict__
        if name not in held or len(held[name]) < n:
            held[name] = np.empty(n)
        block: Wide = held[name][:n]
        return block
