"""The walk: block after block of the parameter range, every update's block reduced while it is in cache.

Memory is a few blocks per thread, whatever the model's size and the number of updates. Ranges are disjoint, so
threads (or Lambdas, or Ray tasks) take them side by side and no bit depends on who takes which.

Not here: what is reduced (`folds`, `selects`, `gathers`) and in which order (`canonical`).
"""

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from hanse.aggregation.canonical import Tree, group_members, total_weight
from hanse.aggregation.folds import Fold, WeightedMean
from hanse.aggregation.gathers import MEASURE_ELEMENTS, ByNearness, Choice, Gather
from hanse.aggregation.gram import Stats
from hanse.aggregation.nearness import BLOCK_ELEMENTS as NEARNESS_ELEMENTS
from hanse.aggregation.nearness import LEAST_ELEMENTS, PRECISIONS, Nearness, pick_kernel
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.rounding import Block, Wide, all_finite, is_float, is_reducible, round_to, widen_into
from hanse.aggregation.rules import is_gather, is_group_fold, is_select
from hanse.aggregation.selects import Rows, Select, WindowMean
from hanse.aggregation.sorting import Sorter, pick_sorter
from hanse.aggregation.sources import Deltas, Sink, Source
from hanse.core.arrays import Layout, describe
from hanse.core.errors import NotFoundError, RefusedError, UpdateError

Item = TypeVar("Item")
Kind = Literal["values", "delta"]
Update = Callable[[Wide, Wide, Sequence[Wide], Mapping[str, float]], Wide]
"""A server optimiser, elementwise: `update(model, reduced, states, scalars) -> model`, all float64, (n,).

`reduced` is the mean of values or of deltas, not yet rounded. States are changed in place and rounded to their
dtype by the walk. Called for arrays of floats only: counters and the like take the plain mean, their states stay.
"""

BLOCK_ELEMENTS = 1 << 16
"""Elements in one block of a fold that does not say itself."""
SELECT_BYTES = 8 << 20
"""Bytes of the float64 matrix (updates × elements) that a `Select` gets at once, about."""
SELECT_LEAST_ELEMENTS = 256


@dataclass(frozen=True, slots=True)
class Cohort:
    """Updates to reduce, in order of position.

    Args:
        sources: the updates.
        positions: place of each in the plan, strictly increasing.
        weights: weight of each, finite and >= 0 (FedAvg: number of examples).
        total_weight: their sum in canonical order.
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

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.stop - self.start


class _BlockRefused(Exception):
    """Within one range some updates could not be read or are not finite: position → reason. Stays in this file."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__()
        self.reasons = reasons


def aggregate(
    sources: Sequence[Source],
    positions: Sequence[int],
    weights: Sequence[float],
    *,
    rule: Fold[Any] | Select | Gather,
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
    allow_nonfinite: bool = False,
    stretches: Sequence[Sequence[Range]] | None = None,
) -> float:
    """Reduce stored updates into a new model.

    Args:
        sources, positions, weights: the updates in any order, the place of each in the plan, its weight.
        rule: a `Fold` (mean, sum), a `Select` (median, trimmed mean) or a `Gather` (norm bound, Krum, …).
        out: takes the new model; what it holds after an error is not a result.
        kind: `values`: the reduced values are the model; `delta`: the base plus the reduced delta, added in
            float64 and rounded once.
        base: the model that the updates began from; needed for `delta` and for `update`.
        update, states, state_outs, scalars: a server optimiser, its state, where its new state goes, and numbers
            that it is called with.
        plan_size: number of positions in the plan, if known; only checked.
        threads: how many take ranges side by side. Changes no bit.
        block_elements: elements of one block. Changes no bit.
        allow_nonfinite: take NaN and infinity as they come instead of refusing the update.
        stretches: the elements to reduce, None for all; those of one stretch are read together, a fold's from one
            group of updates after another (`shares`). Changes no bit. Not for a `Gather`, which needs to have seen
            all elements first.

    Returns:
        The total weight that was divided by.

    Raises:
        UpdatesRefused: updates that cannot be read or do not verify, of another layout, with a negative or
            non-finite weight, or with non-finite values. Of one kind all are named.
        EmptyCohort, ZeroWeight, Overflow: see there. UpdateError: arrays that have no mean.
    """
    if not sources:
        raise EmptyCohort
    layout = (base or sources[min(range(len(positions)), key=positions.__getitem__)]).layout
    check_layout(layout)
    check_model(layout, kind, base, update, states, state_outs)
    cohort = check_cohort(sources, positions, weights, layout, plan_size=plan_size, needs_weight=not is_select(rule))
    if is_gather(rule):
        if stretches is not None:
            raise ValueError("expected the whole range for a Gather, found a part")
        if kind == "values" and base is not None:
            cohort = replace(cohort, sources=tuple(Deltas(source, base) for source in cohort.sources))
            kind, update = "delta", from_values(update) if update else None
        cohort, rule = _weigh(cohort, rule, layout, threads, allow_nonfinite)
    reduce: Reduce
    if is_select(rule):
        reduce = _Select(cohort, rule, allow_nonfinite)
        default = reduce.block_elements
    else:
        reduce = _Fold(cohort, rule)
        default = getattr(rule, "block_elements", BLOCK_ELEMENTS)
    step = Step(
        layout,
        cohort,
        reduce,
        out,
        kind,
        base,
        update,
        states,
        state_outs,
        scalars or {},
        allow_nonfinite,
    )
    size = default if block_elements is None else block_elements
    todo = ((at,) for at in ranges(layout, size)) if stretches is None else (tuple(cut(s, size)) for s in stretches)
    run_side_by_side(todo, step.stretch, threads)
    if step.refused:
        raise UpdatesRefused(step.refused)
    return cohort.total_weight


# What may be reduced


def check_cohort(
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
    places = tuple(int(positions[i]) for i in order)
    if len(set(places)) < len(places) or places[0] < 0 or (plan_size is not None and places[-1] >= plan_size):
        raise ValueError(f"expected distinct positions below plan_size={plan_size}, found {list(places[:16])}")
    cohort = Cohort(tuple(sources[i] for i in order), places, tuple(float(weights[i]) for i in order), 0.0)
    reasons: dict[int, str] = {}
    for source, position, weight in zip(cohort.sources, cohort.positions, cohort.weights, strict=True):
        if reason := wrong_update(source.layout, weight, layout):
            reasons[position] = reason
    if reasons:
        raise UpdatesRefused(reasons)
    total = total_weight(cohort.positions, cohort.weights)
    if needs_weight and total == 0:
        raise ZeroWeight
    if not math.isfinite(total):
        raise Overflow("the total", "the weights")
    return replace(cohort, total_weight=total)


def wrong_update(found: Layout, weight: float, expected: Layout) -> str | None:
    """Why an update cannot be reduced, before its values are looked at; None if it can."""
    if found is not expected and (difference := expected.difference(found)):
        return f"layout: {difference}"
    if not math.isfinite(weight):
        return "weight: expected a finite number, found one that is not"
    if weight < 0:
        return "weight: expected >= 0, found a negative number"
    return None


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


def check_model(
    layout: Layout,
    kind: Kind,
    base: Source | None,
    update: Update | None,
    states: Sequence[Source],
    state_outs: Sequence[Sink],
) -> None:
    """Refuse a base or an optimiser's state that is missing or does not lie on the model's ranges.

    Raises:
        ValueError: which one.
    """
    if (kind == "delta" or update is not None) and base is None:
        raise ValueError("expected a base for kind='delta' or an update, found none")
    if base is not None and (difference := layout.difference(base.layout)):
        raise ValueError(f"base: {difference}")
    if len(states) != len(state_outs):
        raise ValueError(f"expected one state_out for each of {len(states)} states, found {len(state_outs)}")
    expected = [(spec.name, spec.shape) for spec in layout.specs]
    for state in states:
        if [(spec.name, spec.shape) for spec in state.layout.specs] != expected:
            raise ValueError("expected states with the names and shapes of the model, found others")


# Walking


def ranges(layout: Layout, block_elements: int) -> Iterator[Range]:
    """Every element of every array once, in blocks that lie within one array."""
    if block_elements < 1:
        raise ValueError(f"expected block_elements >= 1, found {block_elements}")
    for index, spec in enumerate(layout.specs):
        for start in range(0, spec.size, block_elements):
            yield Range(index, start, min(start + block_elements, spec.size))


def cut(parts: Sequence[Range], block_elements: int) -> Iterator[Range]:
    """The elements of these ranges, in blocks."""
    for at in parts:
        for start in range(at.start, at.stop, block_elements):
            yield Range(at.index, start, min(start + block_elements, at.stop))


def select_elements(num_updates: int) -> int:
    """Elements of one block so that a `Select`'s matrix stays near `SELECT_BYTES`."""
    return max(SELECT_LEAST_ELEMENTS, SELECT_BYTES // (8 * num_updates))


def run_side_by_side(todo: Iterator[Item], step: Callable[[Item], None], threads: int) -> None:
    """Call `step` for every item, `threads` side by side; the caller's own thread is one of them.

    Raises:
        Whatever `step` raised first; items not yet begun are left out then.
    """
    lock, errors = threading.Lock(), list[BaseException]()

    def work() -> None:
        with np.errstate(all="ignore"):  # what is not finite is found and named
            while not errors:
                with lock:
                    item = next(todo, None)
                if item is None:
                    return
                try:
                    step(item)
                except BaseException as error:
                    errors.append(error)

    helpers = [threading.Thread(target=work, name=f"aggregate-{i}") for i in range(1, threads)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    if errors:
        raise errors[0]


class _Scratch(threading.local):
    """Float64 blocks by name, one set per thread, used again and again."""

    def take(self, name: str, n: int) -> Wide:
        held = self.__dict__
        if name not in held or len(held[name]) < n:
            held[name] = np.empty(n)
        block: Wide = held[name][:n]
        return block


def _read(cohort: Cohort, members: Sequence[int], at: Range, *, coded: bool = False) -> list[Any]:
    """That range of some updates, as blocks, or with `coded` as they were received where a source offers that.

    Raises:
        _BlockRefused: a blob that is not there, or whose content does not verify.
    """
    blocks, reasons = [], {}
    for i in members:
        try:
            source: Any = cohort.sources[i]
            read = getattr(source, "coded", source.block) if coded else source.block
            blocks.append(read(at.index, at.start, at.stop))
        except (RefusedError, NotFoundError) as error:
            reasons[cohort.positions[i]] = f"cannot be read: {type(error).__name__}: {error}"
    if reasons:
        raise _BlockRefused(reasons)
    return blocks


class Reduce(Protocol):
    """Reduces one range of the cohort."""

    def __call__(self, at: Range, out: Wide) -> None:
        """Write the result in float64."""
        ...

    def rounded(self, at: Range, out: Block) -> bool | None:
        """Write it rounded to out's dtype: whether it is finite; None (and nothing done) if it cannot do that."""
        ...


class _Fold:
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
        trees: list[Tree[Any] | _BlockRefused] = [Tree(self._rule.merge) for _ in stretch]
        for group in self._groups:
            for number, (at, tree) in enumerate(zip(stretch, trees, strict=True)):
                if isinstance(tree, Tree):
                    try:
                        self._add(tree, at, *group)
                    except _BlockRefused as error:
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
        if isinstance(tree, _BlockRefused):
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
        blocks = _read(self._cohort, members, at, coded=self._coded)
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


class _Rows(threading.local):
    """A float64 matrix of one range: a row per update, in order of position. Memory is kept per thread."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._held = np.empty(0)

    def read(self, at: Range) -> Rows:
        num = len(self._cohort.sources)
        if self._held.size < num * at.size:
            self._held = np.empty(num * at.size)
        rows: Rows = self._held[: num * at.size].reshape(num, at.size)
        for row, block in zip(rows, _read(self._cohort, range(num), at), strict=True):
            widen_into(row, block)
        return rows


class _Select:
    """One range through a select."""

    def __init__(self, cohort: Cohort, rule: Select, allow_nonfinite: bool) -> None:
        self._cohort = cohort
        self._rule = rule
        self._rows = _Rows(cohort)
        self._scratch = _Scratch()
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
            _refuse_nonfinite(self._cohort, rows)  # here, since a median would hide it
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
        blocks = _read(self._cohort, range(len(self._cohort.sources)), at)
        return self._sorter.mean_of(blocks, self._window, out)


def _refuse_nonfinite(cohort: Cohort, blocks: Rows) -> None:
    """Name the updates whose block is not finite.

    Raises:
        _BlockRefused: there are some.
    """
    reasons = {
        position: "values that are not finite"
        for block, position in zip(blocks, cohort.positions, strict=True)
        if not all_finite(block)
    }
    if reasons:
        raise _BlockRefused(reasons)


@dataclass
class Step:
    """What is done with one range: reduce, apply the optimiser, round, check, write. Fields as in `aggregate`."""

    layout: Layout
    cohort: Cohort
    reduce: Reduce
    out: Sink
    kind: Kind = "values"
    base: Source | None = None
    update: Update | None = None
    states: Sequence[Source] = ()
    state_outs: Sequence[Sink] = ()
    scalars: Mapping[str, float] = field(default_factory=dict)
    allow_nonfinite: bool = False
    refused: dict[int, str] = field(default_factory=dict)
    _scratch: _Scratch = field(default_factory=_Scratch)
    _doubtful: dict[Range, bool] = field(default_factory=dict)
    """Ranges with a result that is not finite: whether the sum is not."""

    def __call__(self, at: Range) -> None:
        self.stretch((at,))

    def stretch(self, stretch: Sequence[Range]) -> None:
        """Do these ranges; then look whose fault it is what is not finite, update by update.

        Raises:
            Overflow: every update is finite.
        """
        if isinstance(self.reduce, _Fold) and len(stretch) > 1:
            self.reduce.read_together(stretch)
        for at in stretch:
            try:
                self._do(at)
            except _BlockRefused as found:  # go on: every culprit of the model is named, not only the first
                self._blame(found, at)
        if self._doubtful:
            self._explain({at: self._doubtful.pop(at) for at in stretch if at in self._doubtful})

    def _blame(self, found: _BlockRefused, at: Range) -> None:
        what = describe(self.layout.specs[at.index])
        for position, reason in found.reasons.items():
            self.refused.setdefault(position, f"{reason} in {what}")

    def _do(self, at: Range) -> None:
        spec = self.layout.specs[at.index]
        optimised = self.update is not None and is_float(spec.dtype)
        if not optimised:
            for state, sink in zip(self.states, self.state_outs, strict=True):
                sink.write(at.index, at.start, state.block(at.index, at.start, at.stop))
            if self.kind == "values" and spec.dtype in (np.float32, np.float64):
                out = self._scratch.take("rounded", at.size).view(spec.dtype)[: at.size]
                finite = self.reduce.rounded(at, out)
                if finite is not None:
                    self._write(self.out, at, out if finite or self.allow_nonfinite else None, None)
                    return
        reduced = self._scratch.take("reduced", at.size)
        self.reduce(at, reduced)
        model = self._optimised(at, reduced) if optimised else self._moved(at, reduced)
        self._write(self.out, at, self._round(model, spec.dtype), reduced)

    def _moved(self, at: Range, reduced: Wide) -> Wide:
        if self.kind == "values" or self.base is None:
            return reduced.copy()
        model = self._wide("model", self.base, at)
        np.add(model, reduced, out=model)
        return model

    def _optimised(self, at: Range, reduced: Wide) -> Wide:
        assert self.base is not None
        assert self.update is not None
        if not (self.allow_nonfinite or all_finite(reduced)):
            self._doubt(at, reduced)
            return reduced
        states = [self._wide(f"state {i}", state, at) for i, state in enumerate(self.states)]
        model = self.update(self._wide("model", self.base, at), reduced, states, self.scalars)
        for wide, source, sink in zip(states, self.states, self.state_outs, strict=True):
            self._write(sink, at, self._round(wide, source.layout.specs[at.index].dtype), reduced)
        return model

    def _wide(self, name: str, source: Source, at: Range) -> Wide:
        wide = self._scratch.take(name, at.size)
        widen_into(wide, source.block(at.index, at.start, at.stop))
        return wide

    def _round(self, values: Wide, dtype: np.dtype[Any]) -> Block | None:
        return round_to(values, dtype, allow_nonfinite=self.allow_nonfinite)

    def _write(self, sink: Sink, at: Range, rounded: Block | None, reduced: Wide | None) -> None:
        if rounded is None:
            self._doubt(at, reduced)
        elif not self.refused:  # otherwise only looking for more culprits now
            sink.write(at.index, at.start, rounded)

    def _doubt(self, at: Range, reduced: Wide | None) -> None:
        self._doubtful.setdefault(at, reduced is None or not all_finite(reduced))

    def _explain(self, doubtful: Mapping[Range, bool]) -> None:
        floats = [at for at in doubtful if is_float(self.layout.specs[at.index].dtype)]
        for i, position in enumerate(self.cohort.positions):  # one at a time: memory stays a few blocks
            for at in floats:
                try:
                    if not all_finite(_read(self.cohort, [i], at)[0]):
                        what = describe(self.layout.specs[at.index])
                        self.refused.setdefault(position, f"values that are not finite in {what}")
                except _BlockRefused as found:
                    self._blame(found, at)
        for at, summed in doubtful.items():
            if not self.refused:
                raise Overflow("the sum" if summed else "the result", describe(self.layout.specs[at.index]))


# Gathers: the first pass


def _weigh(
    cohort: Cohort, rule: Gather, layout: Layout, threads: int, allow_nonfinite: bool
) -> tuple[Cohort, WeightedMean | Select]:
    """The cohort with the weights that the rule chose, and what reduces it.

    Raises:
        UpdatesRefused: values that are not finite, or that cannot be read.
    """
    choice = _choose_surely(cohort, rule, layout, threads) if isinstance(rule, ByNearness) else None
    if choice is None:
        choice = rule.choose(_measured(cohort, rule, layout, threads, allow_nonfinite), cohort.weights)
    kept = [(i, float(weight)) for i, weight in enumerate(choice.weights) if weight is not None]
    if not kept:
        raise EmptyCohort
    positions = tuple(cohort.positions[i] for i, _ in kept)
    chosen = tuple(weight for _, weight in kept)
    divisor = total_weight(positions, chosen) if choice.total is None else choice.total
    if divisor == 0:
        raise ZeroWeight
    picked = Cohort(tuple(cohort.sources[i] for i, _ in kept), positions, chosen, divisor)
    return picked, WeightedMean() if choice.rule is None else choice.rule


def _choose_surely(cohort: Cohort, rule: ByNearness, layout: Layout, threads: int) -> Choice | None:
    """The choice, if bounds on the distances leave one; None also where something is wrong with an update."""
    floats = [i for i, spec in enumerate(layout.specs) if is_float(spec.dtype)]
    if sum(layout.specs[i].size for i in floats) < LEAST_ELEMENTS:
        return None
    num = len(cohort.sources)
    kernel = pick_kernel(rule.kernel, num * layout.nbytes)
    for precision in PRECISIONS:
        near = Nearness(num, precision, kernel)

        def look(at: Range, near: Nearness = near) -> None:
            near.add(_read(cohort, range(num), at))

        try:
            run_side_by_side((at for at in ranges(layout, NEARNESS_ELEMENTS) if at.index in floats), look, threads)
        except _BlockRefused:
            return None
        bounds = near.bounds()
        choice = None if bounds is None else rule.choose_surely(bounds, cohort.weights)
        if choice is not None:
            return choice
    return None


def _measured(cohort: Cohort, rule: Gather, layout: Layout, threads: int, allow_nonfinite: bool) -> Stats:
    """Statistics of all arrays of floats.

    Raises:
        UpdatesRefused: see `_weigh`. UpdateError: there are no such arrays.
    """
    pieces = [at for at in ranges(layout, MEASURE_ELEMENTS) if is_float(layout.specs[at.index].dtype)]
    rows, total, refused = _Rows(cohort), _InOrder(), dict[int, str]()

    def measure(item: tuple[int, Range]) -> None:
        number, at = item
        try:
            blocks = rows.read(at)
            if not allow_nonfinite:
                _refuse_nonfinite(cohort, blocks)
            total.add(number, rule.measure(blocks))
        except _BlockRefused as found:
            for position, reason in found.reasons.items():
                refused.setdefault(position, f"{reason} in {describe(layout.specs[at.index])}")
            total.add(number, None)

    run_side_by_side(iter(enumerate(pieces)), measure, threads)
    if refused:
        raise UpdatesRefused(refused)
    if total.value is None:
        raise UpdateError(f"expected at least one array of floats for {type(rule).__name__}, found none")
    return total.value


class _InOrder:
    """Adds up statistics in the order of their numbers, in whichever order they come."""

    def __init__(self) -> None:
        self.value: Stats | None = None
        self._waiting: dict[int, Stats | None] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, number: int, stats: Stats | None) -> None:
        with self._lock:
            self._waiting[number] = stats
            while self._next in self._waiting:
                found = self._waiting.pop(self._next)
                self._next += 1
                if found is not None:
                    self.value = found if self.value is None else self.value + found


def from_values(update: Update) -> Update:
    """An optimiser that wants values, called with deltas."""

    def on_deltas(model: Wide, reduced: Wide, states: Sequence[Wide], scalars: Mapping[str, float]) -> Wide:
        return update(model, model + reduced, states, scalars)

    return on_deltas
