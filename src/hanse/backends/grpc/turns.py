"""Turns for blobs on their way: few at one time, and none that stands still keeps the others waiting.

A transfer waits for its turn, one of `MAX_TRANSFERS`. One that hardly moves steps aside and goes on beside the others;
one that does not move at all ends, and resumes where it stopped. Nobody holds more than `PER_CALLER` turns, so that
one member that opens transfers and leaves them keeps nobody else from theirs. Who comes again for a blob has given up
the transfer of it that stands still, which the server may not know yet: it ends at once, and leaves its turn.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Hashable
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import TypeVar

from hanse.core.errors import UnavailableError

MAX_TRANSFERS = 4
"""Blobs on their way at one time: more are no faster and cost memory."""
PER_CALLER = 2
MAX_WAITING = 16
"""Transfers of one caller, those that wait for their turn included."""
MAX_ASIDE = 32
"""Slow transfers beside those that have a turn; each may hold one chunk in memory."""
STILL_S = 1.0
"""A transfer that has waited so long for the network ends when its caller comes again for the same blob."""
PATIENCE_S = 5.0
PATIENCE_BYTES = 1 << 20
"""A transfer that moves less than this in `PATIENCE_S` of waiting for the network steps aside."""
IDLE_S = 30.0
LEAST_BYTES = 1 << 16
"""A transfer that moves less than this in `IDLE_S` of waiting for the network is over; it resumes where it stopped."""

T = TypeVar("T")


class Turns:
    """Who may move blobs now."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(MAX_TRANSFERS)
        self._mine: dict[str, asyncio.Semaphore] = {}
        self._open: dict[str, set[Turn]] = {}
        self.aside = 0

    @asynccontextmanager
    async def enter(self, caller: str) -> "AsyncIterator[Turn]":
        """Be counted, before anything is read; `Turn.begin` waits for the turn itself.

        Raises:
            UnavailableError: the caller has too many transfers open.
        """
        mine = self._mine.setdefault(caller, asyncio.Semaphore(PER_CALLER))
        open_ones = self._open.setdefault(caller, set())
        if len(open_ones) >= MAX_WAITING:
            raise UnavailableError(f"{caller}: expected at most {MAX_WAITING} transfers at one time; try again later")
        turn = Turn(self, self._slots, mine, open_ones)
        open_ones.add(turn)
        try:
            yield turn
        finally:
            turn.end()
            open_ones.remove(turn)
            if not open_ones:
                del self._open[caller], self._mine[caller]


class Turn:
    """One transfer's.

    Args:
        beside: the open transfers of the same caller, itself among them.
    """

    def __init__(
        self, turns: Turns, slots: asyncio.Semaphore, mine: asyncio.Semaphore, beside: "AbstractSet[Turn]"
    ) -> None:
        self._turns, self._slots, self._mine, self._beside = turns, slots, mine, beside
        self._blob: Hashable = None
        self._has_mine = self._has_slot = self._is_aside = False
        self._timer: asyncio.TimerHandle | None = None
        self._timeout: asyncio.Timeout | None = None
        self._waits_since = 0.0
        self._left_s = IDLE_S
        self._moved = self._moved_lately = 0

    async def begin(self, blob: Hashable) -> None:
        """Wait for the turn.

        Args:
            blob: what is moved and in which direction.
        """
        self._blob = blob
        for other in self._beside:
            if other is not self and other._blob == blob and other._stands_still():
                other._leave()
        await self._mine.acquire()
        self._has_mine = True
        await self._slots.acquire()
        self._has_slot = True
        self._timer = asyncio.get_running_loop().call_later(PATIENCE_S, self._look)

    async def wait(self, step: Awaitable[T]) -> T:
        """Await one step of the network: a piece that comes or goes.

        Raises:
            UnavailableError: it takes too long.
        """
        loop = asyncio.get_running_loop()
        start = loop.time()
        try:
            async with asyncio.timeout(self._left_s) as self._timeout:
                self._waits_since = start
                return await step
        except TimeoutError:
            raise UnavailableError("the transfer hardly moves; it resumes where it stopped") from None
        finally:
            self._timeout = None
            self._left_s -= loop.time() - start

    def moved(self, size: int) -> None:
        """So many bytes came or went."""
        self._moved_lately += size
        self._moved += size
        if self._moved >= LEAST_BYTES:
            self._moved, self._left_s = 0, IDLE_S

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        slow = self._timeout is not None and self._moved_lately < PATIENCE_BYTES
        self._moved_lately = 0
        if not slow:
            self._timer = loop.call_later(PATIENCE_S, self._look)
            return
        self._release()
        if self._turns.aside >= MAX_ASIDE:
            self._wake()
            return
        self._is_aside = True
        self._turns.aside += 1

    def end(self) -> None:
        """Give everything back. Harmless when repeated."""
        if self._timer is not None:
            self._timer.cancel()
        if self._is_aside:
            self._is_aside = False
            self._turns.aside -= 1
        self._release()
        if self._has_mine:
            self._has_mine = False
            self._mine.release()

    def _stands_still(self) -> bool:
        return self._timeout is not None and asyncio.get_running_loop().time() - self._waits_since >= STILL_S

    def _leave(self) -> None:
        """Another takes over: give everything back now, and let whoever waits know."""
        self.end()
        self._left_s = 0.0
        self._wake()

    def _wake(self) -> None:
        if self._timeout is not None and not self._timeout.expired():
            self._timeout.reschedule(asyncio.get_running_loop().time())

    def _release(self) -> None:
        if self._has_slot:
            self._has_slot = False
            self._slots.release()
