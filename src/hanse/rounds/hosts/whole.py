"""Reductions that look at all updates at once and are small: totals, answers, and whole updates in a list."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hanse.aggregation import (
    ArraySink,
    Sink,
    Source,
    UpdatesRefused,
    WeightedSum,
    aggregate,
)
from hanse.aggregation.rounding import all_finite, is_float, round_to, widen_into
from hanse.core.arrays import Array, Arrays, ArraySpec, Layout, describe
from hanse.core.errors import RefusedError, TaskError, UpdateError
from hanse.rounds.hosts.items import Item
from hanse.strategies.whole import Answers, Totals, WholeUpdates

EXACT = 2.0**53
"""Whole numbers below this are exact in float64, and so is any sum that stays below it."""


def total(
    rule: Totals, items: Sequence[Item], make_sink: Callable[[Layout], Sink], named: str, size: int, threads: int
) -> None:
    """Add up whole numbers, exactly, and let the phase go on from the sums.

    Raises:
        UpdatesRefused, UpdateError, TaskError.
    """
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


def answer(rule: Answers, items: Sequence[Item], make_sink: Callable[[Layout], Sink], named: str) -> None:
    """Read every site's answer, and let the phase go on from them.

    Raises:
        UpdatesRefused, UpdateError, TaskError.
    """
    sources = [(item, item.source) for item in items if item.source is not None]
    share = rule.max_bytes // max(1, len(sources))
    wrong: dict[int, str] = {}
    read: list[tuple[str, Arrays]] = []
    for item, source in sources:
        if source.layout.nbytes > share:
            wrong[item.position] = f"expected an answer of at most {share} bytes, found {source.layout.nbytes}"
            continue
        try:
            arrays = arrays_of(source)
        except RefusedError as error:
            wrong[item.position] = str(error)
            continue
        if why := rule.wrong(arrays):
            wrong[item.position] = why
        read.append((item.about.site, arrays))
    if wrong:
        raise UpdatesRefused(wrong)
    _write(rule.combine(read), make_sink, named)


def combine(
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
    num_bytes = layout.nbytes * len(items)
    if num_bytes > rule.max_bytes:
        raise UpdateError(
            f"{named}: {len(items)} updates are {num_bytes} bytes together, more than max_bytes={rule.max_bytes}; "
            "write a Fold (hs.Strategy.reducer), which needs none of them whole, or raise max_bytes"
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


def arrays_of(source: Source) -> Arrays:
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
