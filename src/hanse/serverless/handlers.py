"""The functions as a platform invokes them; see `contract`. A warm function keeps its place, and nothing else."""

import asyncio
import functools
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.core.logs import configure
from hanse.serverless import functions
from hanse.serverless.contract import SIGNING
from hanse.serverless.place import Place, on_aws

if TYPE_CHECKING:
    from hanse.serverless.apps import Apps

Event = Mapping[str, Any]
_runner = asyncio.Runner()
"""One loop for the life of a warm function: an app's worker outlives the call that needed it first."""


@functools.cache
def _place(signs: bool) -> Place:
    configure("hanse.serverless")
    return on_aws(signs=signs)


@functools.cache
def _apps() -> "Apps":
    from hanse.serverless.apps import Apps
    from hanse.workers.launcher import Launcher

    # A fresh process, before this one holds keys. A platform tells only its own process where the package lies.
    launcher = Launcher.start(environment={"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    return Apps(launcher, Path(tempfile.gettempdir()) / "hanse-apps")


def _run(function: Callable[[Place, Event], Awaitable[dict[str, Any]]], event: Event) -> dict[str, Any]:
    async def work() -> dict[str, Any]:
        return await function(_place(function.__name__ in SIGNING), event)

    return _runner.run(work())


def collect(event: Event, context: Any) -> dict[str, Any]:
    """A batch of the server's queue."""
    return _run(functions.collect, event)


def step(event: Event, context: Any) -> dict[str, Any]:
    """The state machine's next instruction, or records of the table's stream."""
    return _run(functions.step, event)


def timer(event: Event, context: Any) -> dict[str, Any]:
    """The state machine waits."""
    return _run(functions.timer, event)


def reduce(event: Event, context: Any) -> dict[str, Any]:
    """One shard of a reduction."""
    return _run(functions.reduce, event)


def evaluate(event: Event, context: Any) -> dict[str, Any]:
    """The state machine's next instruction, where the app's own server side may run."""

    async def work() -> dict[str, Any]:
        apps = _apps()
        return await functions.evaluate(_place(True), event, apps)

    return _runner.run(work())
