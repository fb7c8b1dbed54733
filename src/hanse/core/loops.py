"""The event loop of a server or a site: uvloop where it is installed (extra `fast`), asyncio's own elsewhere.

Nothing depends on which: uvloop only spends less of a processor on each message.

What is imported when it begins lives as long as the process, and nearly everything that a message makes is gone when it
has been dealt with: Python's collector is not to look at the former, and at the latter less often.
"""

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

YOUNG_OBJECTS = 10_000
"""Python's own 700 are there several times in every round of many sites."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on the fastest loop there is, of a process that does nothing else."""
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])
    try:
        import uvloop
    except ImportError:
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
