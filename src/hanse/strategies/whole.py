"""`WholeUpdates`: the one reduction that holds every update in memory at once, for small models only.

It stands behind `NumPyStrategy`. Everything else should be a Fold, a Select or a Gather of `aggregation`, which are
shown blocks and so work for models of any size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanse.core.arrays import Array

Result = tuple[str, list[Array], int]
"""One update as habit has it: site, arrays in the model's order, number of examples."""
Combine = Callable[[int, list[Result]], Sequence[Array]]
"""`f(round, results) -> arrays`, one for each of the model's arrays."""


@dataclass(frozen=True, slots=True)
class WholeUpdates:
    """Call `combine` with all updates of a round.

    Args:
        max_bytes: of all updates together; above it the job fails before anything is read.
    """

    combine: Combine
    max_bytes: int
