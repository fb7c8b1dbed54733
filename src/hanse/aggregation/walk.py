"""The walk: block after block of the parameter range, every update's block reduced while it is in cache.

Memory is a few blocks per thread, whatever the model's size and the number of updates. Ranges are disjoint, so
threads (or Lambdas, or Ray tasks) take them side by side and no bit depends on who takes which.

Not here: what is reduced (`folds`, `selects`, `gathers`) and in which order (`canonical`); what may be (`cohort`); what
is done with one range (`step`, by `reducing`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hanse.aggregation.choosing import weigh
from hanse.aggregation.cohort import check_cohort, check_layout
from hanse.aggregation.folds import Fold
from hanse.aggregation.gathers import Gather
from hanse.aggregation.ranges import BLOCK_ELEMENTS, Range, cut, ranges, run_side_by_side
from hanse.aggregation.reducing import FoldReduce, Reduce, SelectReduce
from hanse.aggregation.refusals import EmptyCohort, UpdatesRefused
from hanse.aggregation.rules import is_gather, is_select
from hanse.aggregation.selects import Select
from hanse.aggregation.sources import Deltas, Sink, Source
from hanse.aggregation.step import Kind, Step, Update, check_model, from_values


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
        cohort, rule = weigh(cohort, rule, layout, threads, allow_nonfinite)
    reduce: Reduce
    if is_select(rule):
        reduce = SelectReduce(cohort, rule, allow_nonfinite)
        default = reduce.block_elements
    else:
        reduce = FoldReduce(cohort, rule)
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
