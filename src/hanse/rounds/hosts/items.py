"""`Item`: one reply to fold; which are read, and which are refused before a sum is begun."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hanse.aggregation import (
    Source,
    codec_named,
    decoded,
)
from hanse.core.errors import NotFoundError, RefusedError
from hanse.core.spec import RunSpec
from hanse.strategies import Strategy
from hanse.strategies.strategy import FoldInput

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
