"""Time as the driver sees it: the wall clock on an event loop, or a test's own."""

import asyncio
import time
from collections.abc import Callable, Sequence
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


class Alarms:
    """The timers of one run, served by one call of the clock; a timer of one kind replaces the one before.

    Args:
        due: told the ids of timers whose time has come.
        is_over: whether nobody waits for timers any more.
    """

    def __init__(self, clock: Clock, due: Callable[[Sequence[str]], None], is_over: Callable[[], bool]) -> None:
        self._clock = clock
        self._due = due
        self._is_over = is_over
        self._timers: dict[str, tuple[int, str]] = {}
        self._calls: set[int] = set()

    def set(self, id: str, at_ms: int) -> None:
        """Fire `id`, which begins with its kind and a slash, at `at_ms`."""
        self._timers[id.partition("/")[0]] = (at_ms, id)
        self._set_call()

    def _set_call(self) -> None:
        at_ms = min((at_ms for at_ms, _ in self._timers.values()), default=None)
        if at_ms is not None and not any(call <= at_ms for call in self._calls):
            self._calls.add(at_ms)
            self._clock.call_at(at_ms, lambda: self._called(at_ms))

    def _called(self, at_ms: int) -> None:
        self._calls.discard(at_ms)
        now_ms = self._clock.now_ms()
        due = [(kind, id) for kind, (at, id) in self._timers.items() if at <= now_ms]
        for kind, _ in due:
            del self._timers[kind]
        if due:
            self._due([id for _, id in due])
        if not self._is_over():
            self._set_call()
