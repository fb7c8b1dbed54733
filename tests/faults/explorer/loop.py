"""An event loop with its own time: deterministic, and it never sleeps.

Callbacks run in the order in which they were called for; when none is ready, time jumps to the next timer. There are
no sockets, files or threads.
"""

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar

T = TypeVar("T")
MAX_STEPS = 500_000
"""A schedule takes some hundreds of callbacks."""


class Stalled(Exception):
    """Nothing will happen any more, or not within the time that was given."""


class Handle:
    """A callback that waits for its turn: of asyncio's handles, what a schedule uses of them."""

    __slots__ = ("_args", "_callback", "_context", "_when", "is_cancelled")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], context: Context | None, when: float):
        self._callback, self._args, self._when = callback, args, when
        self._context = copy_context() if context is None else context
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True
        self._callback, self._args = _nothing, ()

    def cancelled(self) -> bool:
        return self.is_cancelled

    def when(self) -> float:
        return self._when

    def run(self, loop: "VirtualLoop") -> None:
        try:
            self._context.run(self._callback, *self._args)
        except Exception as error:
            loop.call_exception_handler({"message": f"in {self._callback!r}", "exception": error})


def _nothing() -> None:
    pass


class VirtualLoop(asyncio.AbstractEventLoop):
    """The part of an event loop that tasks, futures, events and timeouts use."""

    def __init__(self) -> None:
        self.errors: list[dict[str, Any]] = []
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._now = 0.0
        self._number = 0

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context, self._now)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        return self.call_at(self._now + max(delay, 0.0), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> Handle:
        handle = Handle(callback, args, context, when)
        self._number += 1
        heapq.heappush(self._timers, (when, self._number, handle))
        return handle

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> "asyncio.Task[T]":
        task = asyncio.Task(coro, loop=self, name=name or "task", context=context)
        self._tasks.add(task)  # what hangs for ever is not collected before the end
        task.add_done_callback(self._tasks.discard)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    def run(self, work: Coroutine[Any, Any, T], until_s: float) -> T:
        """Run to the end of `work`; what else is at work then is cancelled.

        Raises:
            Stalled: `work` has not ended by `until_s`, or never will.
        """
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            task, ready = self.create_task(work), self._ready
            for _ in range(MAX_STEPS):
                if task.done():
                    break
                if not ready:
                    self._jump(until_s)
                handle = ready.popleft()
                if not handle.is_cancelled:
                    handle.run(self)
            else:
                raise Stalled(f"busy for ever at {self._now:g} s")
            self._cancel_all()
            return task.result()
        finally:
            asyncio._set_running_loop(before)

    def _jump(self, until_s: float) -> None:
        """To the next timer; cancelled ones have their time, too."""
        if not self._timers:
            raise Stalled("nothing is left to happen")
        when, _, timer = heapq.heappop(self._timers)
        if when > until_s:
            raise Stalled(f"not at its end after {until_s:g} s")
        self._now = max(self._now, when)
        self._ready.append(timer)

    def _cancel_all(self) -> None:
        for _ in range(3):  # a `finally` may wait once more
            for task in sorted(self._tasks, key=id):
                task.cancel()
            while self._ready:
                handle = self._ready.popleft()
                if not handle.is_cancelled:
                    handle.run(self)
