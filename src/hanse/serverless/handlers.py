"""The functions as a platform invokes them; see `contract`. A warm function keeps its place, and nothing else."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from hanse.core.logs import configure
from hanse.serverless import functions
from hanse.serverless.place import Place, on_aws

Event = Mapping[str, Any]


@functools.cache
def _place() -> Place:
    configure("hanse.serverless")
    return on_aws()


def _run(function: Callable[[Place, Event], Awaitable[dict[str, Any]]], event: Event) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        return await function(_place(), event)

    return asyncio.run(work())


def collect(event: Event, context: Any) -> dict[str, Any]:
    """A batch of the server's queue."""
    return _run(functions.collect, event)


def step(event: Event, context: Any) -> dict[str, Any]:
    """The state machine's next instruction, or records of the table's stream."""
    return _run(functions.step, event)


def timer(event: Event, context: Any) -> dict[str, Any]:
    """The state machine waits."""
    return _run(functions.timer, event)
