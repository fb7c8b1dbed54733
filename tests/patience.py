"""How long tests wait for what must come: a limit is there so that a hang ends, and for nothing else.

A machine may stand still for half a minute just where a test waits, and whatever shares it may have gone first; no test
fails for that. Pytest's own limit in `pyproject.toml` is longer, so that a test that waits in vain can say for what.
"""

import asyncio
import time
from collections.abc import Callable

WAIT_S = 120.0
"""For an event, an answer, a process's start or its end. What is not to end by itself meanwhile takes `NEVER_S`."""

NEVER_S = 3600.0
"""How long something goes on that a test ends: longer than anybody waits."""


def wait_until(holds: Callable[[], object], told: Callable[[], object] = str) -> None:
    """Look again and again at what nothing announces, such as another process's file.

    Args:
        told: what to say where it never comes.
    """
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, told()
        time.sleep(0.02)


async def until(holds: Callable[[], object]) -> None:
    """Likewise, while the event loop goes on."""
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)
