"""What happens to a run, told to those who watch it: values for people, never arrays or payloads."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hanse.core.records import Reply
from hanse.core.tracked import Tracked

Observer = Callable[[dict[str, Any]], None]


class Telling:
    """Those who watch one run.

    Args:
        job: whose run it is; every event names it.
        observers: who watches from the beginning.
    """

    def __init__(self, job: str, observers: Iterable[Observer] = ()) -> None:
        self.observers = list(observers)
        self._job = job

    def tell(self, what: str, **facts: Any) -> None:
        """Tell everybody, in the order in which they came to watch."""
        for observer in self.observers:
            observer({"what": what, "job": self._job, **facts})

    def reply(self, reply: Reply, tracked: Sequence[Tracked] = ()) -> None:
        """A reply was received.

        Args:
            tracked: what the site's code told its own tracker, where site and observers are one process.
        """
        self.tell(
            "reply",
            round=reply.task.round,
            phase=reply.task.phase,
            site=reply.site,
            error=reply.error,
            metrics={name: value for name, value in reply.metrics.items() if not isinstance(value, bytes)},
            num_examples=reply.num_examples,
            seconds=reply.seconds,
            **({"tracked": tracked} if tracked else {}),
        )
