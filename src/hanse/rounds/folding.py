"""One reduction with one strategy, whoever runs it: the server, a worker with an app's own strategy, a simulation.

What the strategy answers is checked here (its weights, its reducer, the blocks of its `update`), since it may be an
app's own; what a site sent is refused by the ordinal of its task. Nothing here knows where updates are stored.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.aggregation import Fold, Gather, Kind, Select, Sink, Source, Update, UpdatesRefused, Zeros, aggregate
from hanse.aggregation.rounding import Wide, all_finite, is_float, round_to, widen_into
from hanse.core.arrays import Array, ArraySpec, Layout, describe
from hanse.core.errors import TaskError, UpdateError
from hanse.core.spec import RunSpec
from hanse.strategies import Strategy
from hanse.strategies.strategy import FoldInput
from hanse.strategies.whole import WholeUpdates

Refused = dict[int, str]
"""The ordinal of a task → what is wrong with its update."""


@dataclass(frozen=True, slots=True)
class Item:
    """One reply to fold.

    Args:
        position: its place in the plan.
        about: what the strategy may know of it.
        source: its arrays, or None.
        wrong: why there are none, if something arrived that cannot be read.
    """

    ordinal: int
    position: int
    about: FoldInput
    update_kind: str
    source: Source | None
    wrong: str = ""


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
    threads: int = 1,
) -> Refused:
    """Reduce the replies of a closed phase into a new model and strategy state.

    Args:
        make_sink: asked once for the model, then once for each of the strategy's states; not at all where there is
            nothing to reduce. What the sinks hold after anything was refused is no result.
        size: number of positions in the plan.
        base: the model that the updates began from.
        states: as `Strategy.state_names`; none at first.

    Returns:
        What was refused; empty if it is done.

    Raises:
        TaskError: the strategy answered nonsense. UpdateError: there is no mean. Exception: what its code raises.
    """
    named = f"strategy {strategy.name or type(strategy).__name__}"
    if not strategy.needs_model:
        base = None
        if not any(item.source is not None or item.wrong for item in items):
            return {}
    elif base is None:
        raise TaskError("refused", f"{named}: there is no model to fold into; give hs.App(initial=...)")
    refused = wrong_updates(items, strategy)
    if refused:
        return refused
    rule = strategy.reducer()
    try:
        if isinstance(rule, WholeUpdates):
            _combine(rule, items, base, make_sink, named, round_, spec.allow_nonfinite)
        elif isinstance(rule, Fold | Select | Gather):
            _walk(strategy, spec, rule, items, make_sink, named, round_, size, base, states, threads)
        else:
            raise TaskError(
                "bad_reply",
                f"{named}: expected reducer() to return a Fold (zero, add, merge, finish), a Select (reduce) or a "
                f"Gather (measure, choose), found {type(rule).__name__}",
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
    round_: int,
    size: int,
    base: Source | None,
    states: Sequence[Source],
    threads: int,
) -> None:
    sources = [item.source for item in items if item.source is not None]
    weights = checked_weights(strategy, [item.about for item in items], named)
    moves = moving(strategy, (base or sources[0]).layout, make_sink, round_=round_, base=base, states=states)
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
    round_: int,
    base: Source | None,
    states: Sequence[Source] = (),
) -> Moves:
    """What a strategy does with reduced updates of `layout`; arguments as in `fold`.

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
    own_update = type(strategy).update is not Strategy.update
    return Moves(
        out=make_sink(layout),
        kind="delta" if strategy.update_kind == "delta" else "values",
        update=checked_update(strategy, named) if own_update and base is not None else None,
        states=states or [Zeros(wide) for _ in names],
        state_outs=[make_sink(wide) for _ in names],
        scalars=strategy.scalars(round_),
    )


def wrong_updates(items: Sequence[Item], strategy: Strategy) -> Refused:
    """Replies that cannot be folded whatever their arrays hold."""
    refused: Refused = {}
    for item in items:
        if item.wrong or item.source is None:
            refused[item.ordinal] = item.wrong or "expected arrays, found none"
        elif item.update_kind != strategy.update_kind:
            refused[item.ordinal] = f"expected {strategy.update_kind}, found {item.update_kind}"
        elif why := strategy.wrong(item.about):
            refused[item.ordinal] = why
    return refused


def checked_weights(strategy: Strategy, replies: Sequence[FoldInput], named: str) -> list[float]:
    """What the strategy weighs each reply with.

    Raises:
        TaskError: another number of weights, or one that is no finite number ≥ 0: the strategy's fault, no site's.
    """
    weights: Any = strategy.weigh(replies)
    if not isinstance(weights, Sequence | np.ndarray) or len(weights) != len(replies):
        found = f"{len(weights)}" if isinstance(weights, Sequence | np.ndarray) else type(weights).__name__
        raise TaskError("bad_reply", f"{named}: expected weigh() to return {len(replies)} weights, found {found}")
    checked: list[float] = []
    for reply, weight in zip(replies, weights, strict=True):
        is_number = isinstance(weight, int | float | np.integer | np.floating)
        if not is_number or not 0 <= weight < math.inf:
            found = f"{float(weight):g}" if is_number else type(weight).__name__
            raise TaskError(
                "bad_reply", f"{named}: expected weigh() to give finite numbers ≥ 0, found {found} for {reply.site}"
            )
        checked.append(float(weight))
    return checked


def checked_update(strategy: Strategy, named: str) -> Callable[[Wide, Wide, Sequence[Wide], Mapping[str, float]], Wide]:
    """`Strategy.update` whose answer is looked at: one block, float64, as long as the one it was given."""

    def update(model: Wide, reduced: Wide, state: Sequence[Wide], scalars: Mapping[str, float]) -> Wide:
        made: Any = strategy.update(model, reduced, state, scalars)
        if not isinstance(made, np.ndarray) or made.shape != reduced.shape or made.dtype != np.float64:
            found = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
            raise TaskError("bad_reply", f"{named}: expected update() to return float64 {reduced.shape}, found {found}")
        return made

    return update


def wide_layout(layout: Layout) -> Layout:
    """The same arrays in float64: what a server optimiser keeps."""
    return Layout(tuple(ArraySpec(spec.name, np.dtype(np.float64), spec.shape) for spec in layout.specs))


# ---- every update at once ----


def _combine(
    rule: WholeUpdates,
    items: Sequence[Item],
    base: Source | None,
    make_sink: Callable[[Layout], Sink],
    named: str,
    round_: int,
    allow_nonfinite: bool,
) -> None:
    """Call `rule.combine`, check and round what it answers.

    Raises:
        UpdatesRefused, UpdateError, TaskError.
    """
    sources = [(item, item.source) for item in items if item.source is not None]
    layout = (base or sources[0][1]).layout
    wrong = {item.position: f"layout: {why}" for item, source in sources if (why := layout.difference(source.layout))}
    if wrong:
        raise UpdatesRefused(wrong)
    total = layout.nbytes * len(items)
    if total > rule.max_bytes:
        raise UpdateError(
            f"{named}: {len(items)} updates are {total} bytes together, more than max_bytes={rule.max_bytes}; write a "
            "Fold (hs.Strategy.reducer), which needs none of them whole, or raise max_bytes"
        )
    results: list[tuple[str, list[Array], int]] = []
    for item, source in sources:
        arrays = [source.block(i, 0, spec.size).reshape(spec.shape).copy() for i, spec in enumerate(layout.specs)]
        if not allow_nonfinite and (where := _nonfinite(arrays, layout)):
            wrong[item.position] = f"values that are not finite in {where}"
        results.append((item.about.site, arrays, item.about.num_examples))
    if wrong:
        raise UpdatesRefused(wrong)
    made: Any = rule.combine(round_, results)
    if not isinstance(made, Sequence) or len(made) != len(layout.specs):
        found = f"{len(made)}" if isinstance(made, Sequence) else type(made).__name__
        raise TaskError(
            "bad_reply",
            f"{named}: expected aggregate_fit() to return a list of {len(layout.specs)} arrays, found {found}",
        )
    rounded = [_rounded(array, spec, named, allow_nonfinite) for array, spec in zip(made, layout.specs, strict=True)]
    sink = make_sink(layout)
    for index, block in enumerate(rounded):
        sink.write(index, 0, block)


def _nonfinite(arrays: Sequence[Array], layout: Layout) -> str:
    for array, spec in zip(arrays, layout.specs, strict=True):
        if is_float(spec.dtype) and not all_finite(array.reshape(-1)):
            return describe(spec)
    return ""


def _rounded(made: Any, spec: ArraySpec, named: str, allow_nonfinite: bool) -> Array:
    array = np.asarray(made)
    if array.shape != spec.shape or array.dtype.kind not in "biufV":
        raise TaskError(
            "bad_reply",
            f"{named}: expected aggregate_fit() to return {describe(spec)}, found {array.dtype} {array.shape}",
        )
    flat = array.reshape(-1)
    if flat.dtype == spec.dtype and (allow_nonfinite or not is_float(spec.dtype) or all_finite(flat)):
        return flat
    wide = np.empty(flat.size)
    widen_into(wide, flat)
    rounded = round_to(wide, spec.dtype, allow_nonfinite=allow_nonfinite)
    if rounded is None:
        raise TaskError(
            "bad_reply", f"{named}: aggregate_fit() gave values for {describe(spec)} that are not finite or do not fit"
        )
    return rounded
