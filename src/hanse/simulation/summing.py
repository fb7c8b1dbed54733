"""The sum that an engine makes of the updates inside one aligned subtree of positions, and who is in it.

What must not be summed there is answered with its arrays (`engine.py`, 4): failures, refusals, and every update before
somebody has counted an example, as long as weights are numbers of examples. Those wait here as copies.
"""

from collections.abc import Iterator, Sequence

from hanse.aggregation import Partial, RunningMean, Subtree
from hanse.clients.execute import Outcome
from hanse.core.arrays import Arrays
from hanse.simulation.engine import Answered, Summing, refusal


class SubtreeSum:
    """Takes the outcomes of a subtree in order of position.

    Args:
        model: what every update must look like.
    """

    def __init__(self, subtree: Subtree, summing: Summing, model: Arrays) -> None:
        self.stop = subtree.positions.stop
        """The first position behind it."""
        self._summing, self._layout = summing, model.layout
        self._by_examples = summing.weights == "examples"
        self._running = RunningMean(model.layout, rule=summing.reducer(), within=subtree, checked=True)
        self._counted = not self._by_examples
        self._uncounted: list[Answered] = []

    def take(self, position: int, outcome: Outcome) -> Sequence[Answered]:
        """Answer one task; with the first that has counted an example, those before it, too."""
        reply, arrays = outcome.reply, outcome.arrays
        summing = self._summing
        if reply.error_kind or refusal(summing, reply, arrays) or arrays is None or not arrays.fits(self._layout):
            return (Answered(position, outcome),)
        weight = float(reply.num_examples) if self._by_examples else 1.0
        if not self._counted:
            if not weight:
                self._uncounted.append(Answered(position, outcome._replace(arrays=arrays.copy())))
                return ()
            return (*self._begin(), self.take(position, outcome)[0])
        self._running.fold(position, arrays.flat(), weight)
        return (Answered(position, Outcome(reply, None, outcome.state, outcome.tracked), True),)

    def _begin(self) -> list[Answered]:
        """Somebody has counted an example, so those who have not weigh nothing."""
        self._counted = True
        answers = []
        for early in self._uncounted:
            arrays = early.outcome.arrays
            assert arrays is not None
            self._running.fold(early.position, arrays.flat(), 0.0)
            answers.append(Answered(early.position, early.outcome._replace(arrays=None), True))
        self._uncounted = []
        return answers

    def end(self) -> Iterator[Answered | Partial]:
        """Those whose weights only the whole phase can know, with their arrays; then the sum, if there is one."""
        yield from self._uncounted
        partial = self._running.partial()
        if partial is not None:
            yield partial
