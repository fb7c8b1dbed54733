"""What an app's own strategy answers in a reduction, checked before anything is made of it."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hanse.aggregation.rounding import Wide
from hanse.core.errors import TaskError
from hanse.core.spec import RunSpec
from hanse.strategies import Strategy
from hanse.strategies.strategy import FoldInput, Memory

MEMORY_BYTES = 16 << 20
"""A site takes 50 bytes of it, such as its name and how long it takes."""


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
