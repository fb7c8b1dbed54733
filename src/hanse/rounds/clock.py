"""Time as the driver sees it: the wall clock on an event loop, or a test's own."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Milliseconds of wall time, and calls at a time."""

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        ...

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        """Call back at `at_ms` or soon after. Nothing is cancelled: a machine ignores timers that no longer apply."""
        ...


class LoopClock:
    """The wall clock, on the running event loop."""

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        """See `Clock.call_at`."""
        asyncio.get_running_loop().call_later(max(0.0, (at_ms - self.now_ms()) / 1000), callback)
