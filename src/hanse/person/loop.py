"""One event loop for everything a person's process asks of servers, in a thread of its own.

gRPC keeps one poller for all loops of a process and complains when one of them has been closed; so there is one, for
as long as the process lives. It also serves where a notebook's loop runs already.
"""

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def wait_for(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the loop and wait for its result; Ctrl-C cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _running())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def begin(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on the loop without waiting."""
    asyncio.run_coroutine_threadsafe(work, _running())


def _running() -> asyncio.AbstractEventLoop:
    global _loop
    with _lock:
        if _loop is None:
            loop = _loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="hanse-person", daemon=True)
            thread.start()
            atexit.register(_end, loop, thread)
        return _loop


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(2.0)
