"""What executes a job's tasks for the agent: worker processes, or, at an edge, the sites behind it."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from hanse.core.errors import TaskError
from hanse.core.records import Task
from hanse.workers.answers import Done, Model, State
from hanse.workers.load import Load

OnLine = Callable[[str], None]


class Executor(Protocol):
    """One job's. `hanse.workers.handle.Worker` is one; see there."""

    pid: int
    exited: asyncio.Future[TaskError]

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        ...

    async def load(self, load: Load, *, timeout_s: float | None = None) -> None:
        """Get ready for the job.

        Raises:
            ConfigError, TaskError: it cannot be had here.
        """
        ...

    async def execute(
        self,
        task: Task,
        *,
        packed: bytes | None = None,
        model: Model = None,
        state: State = None,
        after: Path | None = None,
        out: Path | None = None,
        channel: socket.socket | None = None,
        timeout_s: float | None = None,
    ) -> Done:
        """Execute one task.

        Raises:
            TaskError, StorageError: there is no answer.
        """
        ...

    def kill(self) -> None:
        """Let it go at once."""
        ...

    async def close(self) -> None:
        """Let it go, and wait until it is gone."""
        ...


class Executors(Protocol):
    """Makes them. `hanse.workers.pool.Workers` does."""

    async def spawn(self, *, threads: int = 1, on_log: OnLine = ...) -> Executor:
        """One more.

        Raises:
            UnavailableError: not now.
        """
        ...

    async def close(self) -> None:
        """Let all go."""
        ...
