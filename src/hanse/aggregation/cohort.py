"""The updates to reduce: what they must be before their values are looked at, and in which order they lie."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hanse.aggregation.canonical import total_weight
from hanse.aggregation.refusals import EmptyCohort, Overflow, UpdatesRefused, ZeroWeight
from hanse.aggregation.rounding import is_reducible
from hanse.aggregation.sources import Source
from hanse.core.arrays import Layout, describe
from hanse.core.errors import UpdateError


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
