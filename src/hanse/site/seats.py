"""How many jobs of a site have a worker at a time."""

import asyncio
from typing import Protocol


class Seated(Protocol):
    """A job, as far as places for workers go."""

    @property
    def is_busy(self) -> bool:
        """Whether its worker is needed now."""
        ...

    def drop_worker(self) -> None:
        """Give the worker's place to another job."""
        ...


class Seats:
    """So many places. A job that waits for tasks gives way: its worker holds nothing."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seated: dict[Seated, None] = {}  # least recently used first
        self._freed = asyncio.Event()

    async def take(self, job: Seated) -> None:
        """Wait for a place."""
        while job not in self._seated and len(self._seated) >= self._limit:
            idle = next((other for other in self._seated if not other.is_busy), None)
            if idle is not None:
                idle.drop_worker()
                del self._seated[idle]
            else:
                self._freed.clear()
                await self._freed.wait()
        self._seated.pop(job, None)
        self._seated[job] = None

    def at_rest(self) -> None:
        """Some job has nothing to do now."""
        self._freed.set()

    def leave(self, job: Seated) -> None:
        """The job is over."""
        self._seated.pop(job, None)
        self._freed.set()
