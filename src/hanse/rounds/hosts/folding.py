"""One reduction with one strategy, whoever runs it: the server, a worker with an app's own strategy, a simulation.

What the strategy answers is checked here (its weights, its reducer, the blocks of its `update`), since it may be an
app's own; what a site sent is refused by the ordinal of its task. Nothing here knows where updates are stored.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hanse.aggregation import (
    ArraySink,
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
    WeightedSum,
    Zeros,
    aggregate,
    codec_named,
    decoded,
    from_values,
)
from hanse.aggregation.ranges import Range
from hanse.aggregation.rounding import Wide, all_finite, is_float, round_to, widen_into
from hanse.aggregation.rules import is_fold, is_gather, is_select
from hanse.core.arrays import Array, Arrays, ArraySpec, Layout, describe
from hanse.core.errors import NotFoundError, RefusedError, TaskError, UpdateError
from hanse.core.spec import RunSpec
from hanse.strategies import Strategy
from hanse.strategies.strategy import NOTHING, FoldInput, Memory
from hanse.strategies.whole import Answers, Totals, WholeUpdates

MEMORY_BYTES = 16 << 20
"""A site takes 50 bytes of it, such as its name and how long it takes."""

Refused = dict[int, str]
"""The ordinal of a task → what is wrong with its update."""
MOVES_WITH_THE_BASE = (WeightedMean, Median, TrimmedMean, MeanAroundMedian)
"""Rules for which reducing deltas and then adding the base gives what reducing values gives, but for rounding."""


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
    model = None if base is None or not strategy.stepwise else _arrays(base)
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
            _total(rule, items, make_sink, named, size, threads)
        elif isinstance(rule, Answers):
            _answers(rule, items, make_sink, named)
        elif isinstance(rule, WholeUpdates):
            _combine(rule, items, base, make_sink, named, round_, spec.allow_nonfinite)
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


def update_kind(strategy: Strategy, spec: RunSpec) -> str:
    """What sites are asked for: what is compressed is always a delta."""
    return "delta" if spec.compression and strategy.needs_model else strategy.update_kind


def opened(items: Sequence[Item], strategy: Strategy, spec: RunSpec, base: Source | None) -> tuple[list[Item], Refused]:
    """The replies, decoded where the run compresses them, and what is refused before a sum is begun."""
    refused = wrong_updates(items, strategy, update_kind(strategy, spec))
    if not spec.compression or base is None:
        return list(items), refused
    codec, made = codec_named(spec.compression), list[Item]()
    for item in items:
        if item.ordinal in refused or item.source is None:
            continue
        try:
            made.append(replace(item, source=decoded(item.source, base.layout, codec)))
        except (RefusedError, NotFoundError) as error:
            refused[item.ordinal] = str(error)
    return made, refused


def remembered(strategy: Strategy, spec: RunSpec, memory: Memory, replies: Sequence[FoldInput]) -> Memory:
    """What the strategy knows after these replies; what it was told comes back unchanged from most.

    Raises:
        TaskError: no plain JSON, or too much of it.
    """
    if (kept := strategy.remember(spec, memory, replies)) is memory:
        return memory
    given: Any = kept
    try:
        text = json.dumps(given, allow_nan=False)
    except (TypeError, ValueError):
        text = ""
    if not isinstance(given, Mapping) or not 0 < len(text) <= MEMORY_BYTES:
        named = f"strategy {strategy.name or type(strategy).__name__}"
        raise TaskError("bad_reply", f"{named}: expected remember() to return at most {MEMORY_BYTES} bytes of JSON")
    made: dict[str, Any] = json.loads(text)  # keys are strings wherever it runs
    return made


def wrong_updates(items: Sequence[Item], strategy: Strategy, kind: str) -> Refused:
    """Replies that cannot be folded whatever their arrays hold."""
    refused: Refused = {}
    for item in items:
        if item.wrong or item.source is None:
            refused[item.ordinal] = item.wrong or "expected arrays, found none"
        elif item.update_kind != kind:
            refused[item.ordinal] = f"expected {kind}, found {item.update_kind}"
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


# ---- protocols of phases: the model is what is known so far ----

EXACT = 2.0**53
"""Whole numbers below this are exact in float64, and so is any sum that stays below it."""


def _total(
    rule: Totals, items: Sequence[Item], make_sink: Callable[[Layout], Sink], named: str, size: int, threads: int
) -> None:
    """Raises UpdatesRefused, UpdateError, TaskError."""
    sources = [(item, item.source) for item in items if item.source is not None]
    wrong = {item.position: why for item, source in sources if (why := rule.layout.difference(source.layout))}
    if wrong:
        raise UpdatesRefused(wrong)
    if rule.layout.nbytes > rule.max_bytes:
        raise UpdateError(f"{named}: totals of {rule.layout.nbytes} bytes, expected at most {rule.max_bytes}; ask less")
    sink = ArraySink(rule.layout)
    positions = [item.position for item, _ in sources]
    weights = [1.0] * len(sources)
    aggregate(
        [s for _, s in sources], positions, weights, rule=WeightedSum(), out=sink, plan_size=size, threads=threads
    )
    for name, array in sink.arrays.items():
        # abs of the smallest int64 is itself negative, hence both ends
        if array.dtype.kind in "iu" and array.size and not (array.min() > -EXACT and array.max() < EXACT):
            raise UpdateError(
                f"{named}: a total in array {name[:60]!r} is 2**53 or more, which cannot be added exactly"
            )
    _write(rule.advance(sink.arrays), make_sink, named)


def _answers(rule: Answers, items: Sequence[Item], make_sink: Callable[[Layout], Sink], named: str) -> None:
    """Raises UpdatesRefused, UpdateError, TaskError."""
    sources = [(item, item.source) for item in items if item.source is not None]
    share = rule.max_bytes // max(1, len(sources))
    wrong: dict[int, str] = {}
    read: list[tuple[str, Arrays]] = []
    for item, source in sources:
        if source.layout.nbytes > share:
            wrong[item.position] = f"expected an answer of at most {share} bytes, found {source.layout.nbytes}"
            continue
        try:
            arrays = _arrays(source)
        except RefusedError as error:
            wrong[item.position] = str(error)
            continue
        if why := rule.wrong(arrays):
            wrong[item.position] = why
        read.append((item.about.site, arrays))
    if wrong:
        raise UpdatesRefused(wrong)
    _write(rule.combine(read), make_sink, named)


def _arrays(source: Source) -> Arrays:
    """All of a source, copied: small by the guards above."""
    specs = source.layout.specs
    return Arrays((s.name, source.block(i, 0, s.size).reshape(s.shape).copy()) for i, s in enumerate(specs))


def _write(model: Any, make_sink: Callable[[Layout], Sink], named: str) -> None:
    if not isinstance(model, Arrays):
        raise TaskError("bad_reply", f"{named}: expected a phase to end with hs.Arrays, found {type(model).__name__}")
    sink = make_sink(model.layout)
    for index, array in enumerate(model.to_list()):
        if array.size:
            sink.write(index, 0, array.reshape(-1))


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
        with np.errstate(over="ignore"):  # what is not finite is found below
            blocks = (source.block(i, 0, spec.size).astype(spec.dtype) for i, spec in enumerate(layout.specs))
            arrays = [block.reshape(spec.shape) for block, spec in zip(blocks, layout.specs, strict=True)]
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
