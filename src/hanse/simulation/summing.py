"""The sum that an engine makes of the updates inside one aligned subtree of positions, and who is in it.

What must not be summed there is answered with its arrays (`engine.py`, 4): failures, refusals, and every update before
somebody has counted an example, as long as weights are numbers of examples. Those wait here as copies.
"""

from collections.abc import Iterator

from hanse.aggregation import RunningMean, Subtree
from hanse.clients.execute import Outcome
from hanse.core.arrays import Arrays
from hanse.core.records import Reply
from hanse.core.tracked import Tracked
from hanse.simulation.engine import Answered, Item, Summed, Summing, refusal

TELL_S = 0.05
"""Seconds of work after which those who are summed are told, so that somebody who watches sees it move."""


class SubtreeSum:
    """Takes the outcomes of a subtree in order of position.

    Args:
        model: what every update must look like.
    """

    def __init__(self, subtree: Subtree, summing: Summing, model: Arrays) -> None:
        self.stop = subtree.positions.stop
        """The first position behind it."""
        self._summing, self._layout = summing, model.layout
        self._kind, self._wants = summing.update_kind, summing.wants
        self._by_examples = summing.weights == "examples"
        self._running = RunningMean(model.layout, rule=summing.reducer(), within=subtree, checked=True)
        self._counted = not self._by_examples
        self._uncounted: list[Answered] = []
        self._positions: list[int] = []
        self._replies: list[Reply] = []
        self._states: list[bytes | None] = []
        self._tracked: dict[int, tuple[Tracked, ...]] = {}
        self._untold_s = 0.0

    def take(self, position: int, outcome: Outcome) -> Item | None:
        """Take one outcome; who is to be told of now, which is seldom somebody."""
        reply, arrays, state, tracked = outcome
        if arrays is None or reply.error_kind or not arrays.fits(self._layout):
            return Answered(position, outcome)
        if (self._wants or reply.update_kind != self._kind) and refusal(self._summing, reply, arrays):
            return Answered(position, outcome)
        weight = float(reply.num_examples) if self._by_examples else 1.0
        if not self._counted:
            if not weight:
                self._uncounted.append(Answered(position, Outcome(reply, arrays.copy(), state, tracked)))
                return None
            self._begin()
        self._running.fold(position, arrays.flat(), weight)
        self._positions.append(position)
        self._replies.append(reply)
        self._states.append(state)
        if tracked:
            self._tracked[position] = tracked
        self._untold_s += reply.seconds
        return self._told() if self._untold_s > TELL_S else None

    def _begin(self) -> None:
        """Somebody has counted an example, so those who have not weigh nothing."""
        self._counted = True
        for early in self._uncounted:
            reply, arrays, state, tracked = early.outcome
            assert arrays is not None
            self._running.fold(early.position, arrays.flat(), 0.0)
            self._positions.append(early.position)
            self._replies.append(reply)
            self._states.append(state)
            if tracked:
                self._tracked[early.position] = tracked
        self._uncounted = []

    def _told(self) -> Summed:
        told = Summed(self._positions, self._replies, self._states, self._tracked)
        self._positions, self._replies, self._states, self._tracked, self._untold_s = [], [], [], {}, 0.0
        return told

    def end(self) -> Iterator[Item]:
        """Those whose weights only the whole phase can know, with their arrays; then the sum, if there is one."""
        yield from self._uncounted
        if self._positions:
            yield self._told()
        partial = self._running.partial()
        if partial is not None:
            yield partial
