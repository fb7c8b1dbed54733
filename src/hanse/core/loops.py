"""The event loop of a server or a site: uvloop where it is installed (extra `fast`), asyncio's own elsewhere.

Nothing depends on which: uvloop only spends less of a processor on each message. Whoever has such a loop moves blobs,
and keeps the memory for it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hanse.core.heap import keep_freed_memory

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the fastest loop there is."""
    keep_freed_memory()
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
