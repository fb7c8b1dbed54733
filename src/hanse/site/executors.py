"""What executes a job's tasks for the agent: worker processes, or, at an edge, the sites behind it."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from hanse.core.errors import TaskError
from hanse.workers.answers import Done
from hanse.workers.assignment import Assignment
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

    async def execute(self, assignment: Assignment) -> Done:
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
