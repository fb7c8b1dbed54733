"""The sum of one phase, taken as its updates come: in canonical order, whatever the order of arrival.

An update is added at once when nobody before it in the plan can still come; until then it is kept. So a cohort that
answers in order needs the memory of a few models, and one that answers in any order at most that of its updates.

Where weights are numbers of examples, nothing is added before somebody has counted one: if nobody does, every update
counts 1 (`Strategy.weigh`).
"""

from collections.abc import Sequence

from hanse.aggregation import Partial, RunningMean, Source
from hanse.core.arrays import Arrays, Layout
from hanse.rounds.hosts.folding import Moves
from hanse.simulation.engine import Summing


class PhaseSum:
    """Takes the updates of one phase. Every position is settled once: by `add`, `add_partial` or `leave_out`.

    Args:
        layout: what every update has; the engine has seen to it.
    """

    def __init__(self, summing: Summing, layout: Layout, *, allow_nonfinite: bool) -> None:
        self._summing = summing
        self._running = RunningMean(layout, rule=summing.reducer(), allow_nonfinite=allow_nonfinite, checked=True)
        self._counted = summing.weights == "equal"
        self._front = 0  # no position below it can still come
        self._gone: set[int] = set()  # settled positions above it
        self._kept: dict[int, tuple[Arrays, float] | Partial] = {}
        self.layout = layout
        self.taken: set[int] = set()
        """Positions whose update is in the sum, or will be."""

    def add(self, position: int, arrays: Arrays, num_examples: int) -> None:
        """Take one update, which may be reused afterwards."""
        self._counted = self._counted or num_examples > 0
        self.taken.add(position)
        weight = self._summing.weight(num_examples)
        if position == self._front and self._counted and not self._kept:
            self._running.fold(position, arrays.flat(), weight)
            self._front += 1
            if self._gone:
                self._skip()
            return
        self._kept[position] = arrays.copy(), weight
        self._settle(position)
        self._flow()

    def add_partial(self, partial: Partial, members: Sequence[int]) -> None:
        """Take a sum over a subtree. `members`: the positions that are in it."""
        self._counted = self._counted or partial.weight > 0
        self.taken.update(members)
        self._kept[partial.subtree.positions.start] = partial
        for position in members:
            self._settle(position)
        self._flow()

    def leave_out(self, position: int) -> None:
        """Nothing comes from this position."""
        self._settle(position)
        self._flow()

    def finish(self, moves: Moves, base: Source | None) -> float:
        """Write the new model.

        Raises:
            UpdateError: there is no mean; see `aggregation.refusals`.
        """
        self._flow(to_the_end=True)
        return self._running.finish(
            moves.out,
            kind=moves.kind,
            base=base,
            update=moves.update,
            states=moves.states,
            state_outs=moves.state_outs,
            scalars=moves.scalars,
        )

    def _settle(self, position: int) -> None:
        if position > self._front:
            self._gone.add(position)
        elif position == self._front:
            self._front += 1
            self._skip()

    def _skip(self) -> None:
        while self._front in self._gone:
            self._gone.remove(self._front)
            self._front += 1

    def _flow(self, *, to_the_end: bool = False) -> None:
        """Add what was kept, as far as its turn has come."""
        if not self._kept or not (self._counted or to_the_end):
            return
        ready = sorted(position for position in self._kept if to_the_end or position < self._front)
        for position in ready:
            item = self._kept.pop(position)
            if isinstance(item, Partial):
                self._running.merge(item)
            else:
                arrays, weight = item
                self._running.fold(position, arrays.flat(), weight if self._counted else 1.0)
