"""What a driver that stays does when a disk refuses: it waits and asks again, as nothing else may happen before."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from hanse.core.errors import StorageError, UnavailableError
from hanse.rounds.driver.clock import Clock
from hanse.rounds.driver.life import Life, Work

RETRY_MS = 2000
"""How long to wait before the disk is asked again."""

T = TypeVar("T")


class Patience:
    """Asking again, for one life of a driver."""

    def __init__(self, clock: Clock, life: Life, log: structlog.stdlib.BoundLogger) -> None:
        self._clock = clock
        self._life = life
        self._log = log
        self.put_off = 0
        """How much was begun and is not under way now: it waits for its next try."""

    def later(self, what: str, why: Exception, work: Work) -> None:
        """Do it in a while."""
        self._log.error(f"cannot {what}; trying again", reason=str(why))

        def again() -> None:
            self._life.spawn(work)

        self._clock.call_at(self._clock.now_ms() + RETRY_MS, again)

    async def insist(self, what: str, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Call until the disk takes it."""
        while True:
            try:
                return await call(*args)
            except (StorageError, UnavailableError) as error:
                self._log.error(f"cannot {what}; trying again", reason=str(error))
                ready = asyncio.Event()
                self._clock.call_at(self._clock.now_ms() + RETRY_MS, ready.set)
                self.put_off += 1
                try:
                    await ready.wait()
                finally:
                    self.put_off -= 1
