"""One reduction with one strategy, whoever runs it: the server, a worker with an app's own strategy, a simulation.

What the strategy answers is checked (its weights, its reducer, the blocks of its `update`), since it may be an app's
own; what a site sent is refused by the ordinal of its task. Nothing here knows where updates are stored.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hanse.aggregation import (
    Fold,
    Gather,
    Kind,
    MeanAroundMedian,
    Median,
    Select,
    Sink,
    Source,
    TrimmedMean,
    Update,
    UpdatesRefused,
    Values,
    WeightedMean,
    Zeros,
    aggregate,
    from_values,
)
from hanse.aggregation.ranges import Range
from hanse.aggregation.rules import is_fold, is_gather, is_select
from hanse.core.arrays import ArraySpec, Layout
from hanse.core.errors import TaskError
from hanse.core.spec import RunSpec
from hanse.rounds.hosts.checking import checked_update, checked_weights
from hanse.rounds.hosts.items import Item, Refused, opened, update_kind
from hanse.rounds.hosts.whole import answer, arrays_of, combine, total
from hanse.strategies import Strategy
from hanse.strategies.strategy import NOTHING, Memory
from hanse.strategies.whole import Answers, Totals, WholeUpdates

MOVES_WITH_THE_BASE = (WeightedMean, Median, TrimmedMean, MeanAroundMedian)
"""Rules for which reducing deltas and then adding the base gives what reducing values gives, but for rounding."""


def fold(
    strategy: Strategy,
    spec: RunSpec,
    items: Sequence[Item],
    make_sink: Callable[[Layout], Sink],
    *,
    round_: int,
    size: int,
    base: Source | None,
    states: Sequence[Source] = (),
    memory: Memory = NOTHING,
    threads: int = 1,
    phase: str = "train",
    stretches: Sequence[Sequence[Range]] | None = None,
) -> Refused:
    """Reduce the replies of a closed phase into a new model and strategy state.

    Args:
        make_sink: asked once for the model, then once for each of the strategy's states; not at all where there is
            nothing to reduce. What the sinks hold after anything was refused is no result.
        size: number of positions in the plan.
        base: the model that the updates began from.
        states: as `Strategy.state_names`; none at first.
        memory: what `remembered` answered for these replies.
        stretches: what to reduce, and what of it together, where others reduce the rest; see `can_share`.

    Returns:
        What was refused; empty if it is done.

    Raises:
        TaskError: the strategy answered nonsense. UpdateError: there is no mean. Exception: what its code raises.
    """
    named = f"strategy {strategy.name or type(strategy).__name__}"
    model = None if base is None or not strategy.stepwise else arrays_of(base)
    if not strategy.needs_model:
        base = None
        if not any(item.source is not None or item.wrong for item in items):
            return {}
    elif base is None:
        raise TaskError("refused", f"{named}: there is no model to fold into; give hs.App(initial=...)")
    items, refused = opened(items, strategy, spec, base)
    if refused:
        return refused
    rule = strategy.reducer_of(phase, model)
    kind = update_kind(strategy, spec)
    if kind != strategy.update_kind and not (is_gather(rule) or type(rule) in MOVES_WITH_THE_BASE):
        assert base is not None
        items = [replace(item, source=Values(item.source, base)) for item in items if item.source is not None]
        kind = strategy.update_kind
    try:
        if isinstance(rule, Totals):
            total(rule, items, make_sink, named, size, threads)
        elif isinstance(rule, Answers):
            answer(rule, items, make_sink, named)
        elif isinstance(rule, WholeUpdates):
            combine(rule, items, base, make_sink, named, round_, spec.allow_nonfinite)
        elif is_fold(rule) or is_select(rule) or is_gather(rule):
            _walk(
                strategy,
                spec,
                rule,
                items,
                make_sink,
                named,
                kind,
                round_,
                size,
                base,
                states,
                memory,
                threads,
                stretches,
            )
        else:
            raise TaskError(
                "bad_reply",
                f"{named}: expected reducer() to return a Fold (zero, add, merge, finish), a Select (reduce), a "
                f"Gather (measure, choose), Totals or Answers, found {type(rule).__name__}",
            )
    except UpdatesRefused as error:
        ordinals = {item.position: item.ordinal for item in items}
        return {ordinals[position]: reason for position, reason in error.reasons.items()}
    return {}


def _walk(
    strategy: Strategy,
    spec: RunSpec,
    rule: Fold[Any] | Select | Gather,
    items: Sequence[Item],
    make_sink: Callable[[Layout], Sink],
    named: str,
    kind: str,
    round_: int,
    size: int,
    base: Source | None,
    states: Sequence[Source],
    memory: Memory,
    threads: int,
    stretches: Sequence[Sequence[Range]] | None,
) -> None:
    sources = [item.source for item in items if item.source is not None]
    weights = checked_weights(strategy, [item.about for item in items], named)
    layout = (base or sources[0]).layout
    moves = moving(
        strategy,
        layout,
        make_sink,
        kind=kind,
        round_=round_,
        base=base,
        states=states,
        memory=memory,
    )
    aggregate(
        sources,
        [item.position for item in items],
        weights,
        rule=rule,
        out=moves.out,
        kind=moves.kind,
        base=base,
        update=moves.update,
        states=moves.states,
        state_outs=moves.state_outs,
        scalars=moves.scalars,
        plan_size=size,
        threads=threads,
        allow_nonfinite=spec.allow_nonfinite,
        stretches=stretches,
    )


def can_share(strategy: Strategy, phase: str, kind: str) -> bool:
    """Whether several may reduce a part each: not where what is to be done depends on all of the updates at once."""
    if kind != "fold" or strategy.stepwise or not strategy.needs_model:
        return False
    rule = strategy.reducer_of(phase, None)
    return (is_fold(rule) or is_select(rule)) and not (
        is_gather(rule) or isinstance(rule, Totals | Answers | WholeUpdates)
    )


@dataclass(frozen=True, slots=True)
class Moves:
    """How what was reduced becomes the new model and strategy state; fields as in `aggregation.aggregate`."""

    out: Sink
    kind: Kind
    update: Update | None
    states: Sequence[Source]
    state_outs: Sequence[Sink]
    scalars: Mapping[str, float]


def moving(
    strategy: Strategy,
    layout: Layout,
    make_sink: Callable[[Layout], Sink],
    *,
    kind: str,
    round_: int,
    base: Source | None,
    states: Sequence[Source] = (),
    memory: Memory = NOTHING,
) -> Moves:
    """What a strategy does with reduced updates of `layout` and `kind`; other arguments as in `fold`.

    Raises:
        TaskError: the strategy answered nonsense.
    """
    named = f"strategy {strategy.name or type(strategy).__name__}"
    names = strategy.state_names()
    if states and len(states) != len(names):
        raise TaskError("bad_reply", f"{named}: expected as many state_names() as before, {len(states)}; found {names}")
    if names and base is None:
        raise TaskError("bad_reply", f"{named}: expected no state_names() without a model, found {names}")
    wide = wide_layout(layout) if names else layout
    update: Update | None = None
    if type(strategy).update is not Strategy.update and base is not None:
        update = checked_update(strategy, named)
        if kind != strategy.update_kind:
            update = from_values(update)
    return Moves(
        out=make_sink(layout),
        kind="delta" if kind == "delta" else "values",
        update=update,
        states=states or [Zeros(wide) for _ in names],
        state_outs=[make_sink(wide) for _ in names],
        scalars=strategy.scalars(round_, memory),
    )


def wide_layout(layout: Layout) -> Layout:
    """The same arrays in float64: what a server optimiser keeps."""
    return Layout(tuple(ArraySpec(spec.name, np.dtype(np.float64), spec.shape) for spec in layout.specs))
