"""The sequential engine: one site after another in this process, arrays lent to the shell without a copy.

Everything else is measured against it: its bits are those of the other exact engines and of real sites.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from hanse.aggregation import Partial
from hanse.simulation.engine import Answered, Batch
from hanse.simulation.sites import Places


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

    def run(self, batch: Batch) -> Iterator[Answered | Partial]:
        """See `Engine.run`; in order of position."""
        runtime, model = self._places.runtime, batch.model
        self._places.make_room(0 if model is None else model.nbytes)
        for position, task, state in zip(batch.positions, batch.tasks, batch.states, strict=True):
            outcome = runtime(task.site).execute(task, model, state, lend=True)
            yield Answered(position, outcome)
            if batch.stop_at_failure and outcome.reply.error_kind:
                return

    def close(self) -> None:
        """See `Engine.close`."""
