"""What user code raised in a simulation, for the person whose code it is: each traceback once, and who failed alike.

A site's tracebacks stay in its own log. A simulation's sites are all the person's own, and thirty of them that fail at
one line, each as often as it is asked again, would be ninety times the same text.
"""

from types import TracebackType
from typing import Self

from hanse.clients.failures import Failure
from hanse.rounds.causes import names
from hanse.simulation.sites import to_stderr


class Tracebacks:
    """A context in which failures are shown when they come, and counted when it is left."""

    def __init__(self) -> None:
        self._alike: dict[tuple[str, ...], dict[str, None]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sites in self._alike.values():
            first, *others = sites
            if others:
                count = f"{len(others)} other site{'s' * (len(others) > 1)}"
                to_stderr(f"{count} failed as {first} did (traceback above): {names(others)}")

    def take(self, failure: Failure) -> None:
        """Show a traceback, unless one by the same lines was shown."""
        lines = [line.strip() for line in failure.text.splitlines() if line.lstrip().startswith('File "')]
        key = (failure.message, *lines)
        if key not in self._alike:
            to_stderr(f"site {failure.site}, {failure.where}:\n{failure.text}")
        self._alike.setdefault(key, {})[failure.site] = None
