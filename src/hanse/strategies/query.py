"""Query: ask the sites a question without a model (federated analytics), as an app with only `@app.query` does.

No paper: metrics are their mean weighted by `num_examples` and stay readable by site; arrays, where a site answers
any, are added up, since counts, sums and histograms add up to those of all sites together.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hanse.aggregation import WeightedMean, WeightedSum
from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies.strategy import Context, FoldInput, PhasePlan, Strategy

ARRAYS = ("sum", "mean")


@dataclass(frozen=True)
class Query(Strategy):
    """One phase `query` a round; what the arrays of its last round came to is the result's `arrays`.

    Either every site answers arrays, of one layout, or none does: one that answers none where others do is refused.
    Sums are taken in float64 and rounded once to the arrays' dtype, so whole numbers are exact below 2**53.

    Args:
        arrays: `sum` (every site once), or `mean` (weighted by examples; all the same where nobody counted any).

    Raises:
        ConfigError: another word.
    """

    arrays: str = "sum"

    name: ClassVar[str] = "query"
    needs_model: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.arrays not in ARRAYS:
            raise ConfigError(f"query.arrays: expected {' or '.join(ARRAYS)}, found {str(self.arrays)[:60]!r}")

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """Only `query`."""
        return ("query",)

    def folds(self, phase: str) -> bool:
        """Arrays are folded where there are any."""
        return True

    def plan(self, context: Context) -> PhasePlan:
        """The sampled sites, without a model."""
        plan = self._sampled(context, "query")
        return replace(plan, asks=tuple(replace(ask, with_model=False) for ask in plan.asks))

    @property
    def weighs_by(self) -> str:
        """See `Strategy.weighs_by`."""
        return ("equal" if self.arrays == "sum" else "examples") if type(self).weigh is Query.weigh else ""

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """1 for a sum, examples for a mean."""
        return [1.0] * len(replies) if self.arrays == "sum" else super().weigh(replies)

    def reducer(self) -> WeightedSum:
        """The plain sum, or the weighted mean."""
        return WeightedSum() if self.arrays == "sum" else WeightedMean()
