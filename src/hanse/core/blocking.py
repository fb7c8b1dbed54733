"""Asynchronous work from plain code, also where a notebook's event loop runs already."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_to_end(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine from plain code, also where a notebook's event loop runs already."""
    if asyncio._get_running_loop() is None:  # not get_running_loop: its error would be the context of every other
        return asyncio.run(work)
    outcome: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=target, name="hanse-work")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return outcome[0]
