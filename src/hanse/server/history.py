"""What has happened to a job since the server started: kept for those who come late, awaited by those who follow."""

import asyncio
from collections import deque
from typing import Any

EVENTS_KEPT = 2000


class History:
    """What has happened to a job, for those who watch: the last `EVENTS_KEPT` events and a way to await more."""

    def __init__(self) -> None:
        self._events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._total = 0
        self._more = asyncio.Event()

    def add(self, event: dict[str, Any]) -> None:
        """Append."""
        self._events.append(event)
        self._total += 1
        self._more.set()
        self._more = asyncio.Event()

    async def since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """Events from `position` on (waiting for the first), and the position behind them."""
        while self._total <= position:
            await self._more.wait()
        missed = max(position, self._total - len(self._events))
        return list(self._events)[missed - self._total + len(self._events) :], self._total

    @property
    def complete(self) -> bool:
        """Whether nothing has been dropped yet."""
        return self._total == len(self._events)
