"""Reductions that hold whole updates in memory, for small models only; each has a guard on their size.

`Totals` and `Answers` stand behind protocols of several phases (statistics, trees), whose model is what is known so far
and changes its shape from phase to phase; `WholeUpdates` stands behind `NumPyStrategy`. Everything else should be a
Fold, a Select or a Gather of `aggregation`, which are shown blocks and so work for models of any size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanse.core.arrays import Array, Arrays, Layout

Result = tuple[str, list[Array], int]
"""One update as habit has it: site, arrays in the model's order, number of examples."""
Combine = Callable[[int, list[Result]], Sequence[Array]]
"""`f(round, results) -> arrays`, one for each of the model's arrays."""

SMALL_MODEL_BYTES = 256 * 1024 * 1024
"""What a phase's totals may weigh, and what all its `Answers` may together, unless a strategy says otherwise."""


@dataclass(frozen=True, slots=True)
class WholeUpdates:
    """Call `combine` with all updates of a round.

    Args:
        max_bytes: of all updates together; above it the job fails before anything is read.
    """

    combine: Combine
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """Add up arrays of the layout that the phase asks for, then make the new model of the sums.

    The sum is the canonical float64 one, so whole numbers are exact; a total of 2**53 or more is refused, not rounded.
    Nothing here sees what a single site answered.

    Args:
        layout: what every site must answer; one that answers another is refused by name.
        advance: `f(totals) -> model`, pure; the totals have that layout.
        max_bytes: of the layout.
    """

    layout: Layout
    advance: Callable[[Arrays], Arrays]
    max_bytes: int = SMALL_MODEL_BYTES


@dataclass(frozen=True, slots=True)
class Answers:
    """Read every site's arrays, each of a layout of its own, then make the new model of them.

    Args:
        wrong: `f(arrays) -> reason`, empty for what can be combined; asked of each site before `combine`.
        combine: `f([(site, arrays), ...]) -> model`, pure; in order of position.
        max_bytes: of all answers together; what exceeds an equal share of it is refused.
    """

    wrong: Callable[[Arrays], str]
    combine: Callable[[Sequence[tuple[str, Arrays]]], Arrays]
    max_bytes: int = SMALL_MODEL_BYTES
