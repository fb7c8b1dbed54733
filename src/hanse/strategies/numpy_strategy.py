"""`NumPyStrategy`: a strategy in the habit of one function that gets a list of all results.

The habit is Flower's (`aggregate_fit`). It needs every update in memory at once, so there is a guard on their size; a
Fold does the same for models of any size, and side by side.
"""

from typing import ClassVar

from hanse.core.arrays import Array
from hanse.strategies.strategy import Strategy
from hanse.strategies.whole import Result, WholeUpdates


class NumPyStrategy(Strategy):
    """Subclass it and write `aggregate_fit`; all the rest is FedAvg.

    It keeps nothing between rounds: the object may be made anew for any of them, so what one call stores in `self`
    may be gone in the next. A strategy that remembers (momentum…) names its `state_names` and writes `update`.

    Attributes:
        max_bytes: what all updates of a round may weigh together; set another number on the class.

    Example:
        >>> import numpy as np
        >>> class Middle(NumPyStrategy):
        ...     def aggregate_fit(self, round, results):
        ...         return [np.median(layer, axis=0) for layer in zip(*(arrays for _, arrays, _ in results))]
        >>> Middle().aggregate_fit(1, [("a", [np.array([1.0])], 1), ("b", [np.array([3.0])], 9)])
        [array([2.])]
    """

    max_bytes: ClassVar[int] = 256 * 1024 * 1024

    def aggregate_fit(self, round: int, results: list[Result]) -> list[Array]:
        """The new model from every update of a round.

        Args:
            round: counts from 1.
            results: (site, arrays, num_examples) in order of position in the plan; the arrays are copies, in the
                model's order, dtypes and shapes.

        Returns:
            As many arrays, of the same shapes; each is rounded once to its dtype.
        """
        raise NotImplementedError("write aggregate_fit(self, round, results) -> list of arrays")

    def reducer(self) -> WholeUpdates:
        """See `Strategy.reducer`."""
        return WholeUpdates(self.aggregate_fit, self.max_bytes)
