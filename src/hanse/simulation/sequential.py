"""The sequential engine: one site after another in this process, arrays lent to the shell without a copy.

Everything else is measured against it: its bits are those of the other exact engines and of real sites.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from hanse.simulation.engine import Answered, Batch, Item, whole_subtrees
from hanse.simulation.sites import Places
from hanse.simulation.summing import SubtreeSum


class Sequential:
    """See `engine.Engine`."""

    name: ClassVar[str] = "sequential"
    exact: ClassVar[bool] = True

    def __init__(self, places: Places) -> None:
        self._places = places

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Engine.settings`."""
        return {}

    def run(self, batch: Batch) -> Iterator[Item]:
        """See `Engine.run`; in order of position."""
        runtime, model, summing = self._places.runtime, batch.model, batch.summing
        self._places.make_room(0 if model is None else model.nbytes)
        whole = iter(whole_subtrees(batch))
        subtree = next(whole, None)
        total: SubtreeSum | None = None
        for position, task, state in zip(batch.positions, batch.tasks, batch.states, strict=True):
            if total is not None and position >= total.stop:
                yield from total.end()
                total = None
            if total is None and subtree is not None and summing is not None and model is not None:
                while subtree is not None and subtree.positions.stop <= position:
                    subtree = next(whole, None)
                if subtree is not None and position >= subtree.positions.start:
                    total = SubtreeSum(subtree, summing, model)
            outcome = runtime(task.site).execute(task, model, state, lend=True)
            if total is None:
                yield Answered(position, outcome)
            else:
                told = total.take(position, outcome)
                if told is not None:
                    yield told
            if batch.stop_at_failure and outcome.reply.error_kind:
                return
        if total is not None:
            yield from total.end()

    def close(self) -> None:
        """See `Engine.close`."""
