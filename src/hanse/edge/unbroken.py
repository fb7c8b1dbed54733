"""Work that goes on when who asked for it is let go: a job that is half submitted would be driven by nobody."""

import asyncio
from collections.abc import Awaitable, Callable


class Unbroken:
    """At most one piece of work at a time under each name."""

    def __init__(self) -> None:
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def do(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do it, or wait for the one that is being done. Who is cancelled waits no more, and it goes on.

        Raises:
            What the work raises.
        """
        task = self._at_work.get(name)
        if task is None:
            task = self._at_work[name] = asyncio.ensure_future(_of(work))
            task.add_done_callback(lambda done: self._done(name, done))
        await asyncio.shield(task)

    async def settled(self, name: str) -> None:
        """Return when nothing is being done under this name, however that has ended."""
        if (task := self._at_work.get(name)) is not None:
            await asyncio.wait([task])

    def close(self) -> None:
        """Cancel all of it."""
        for task in self._at_work.values():
            task.cancel()

    def _done(self, name: str, done: "asyncio.Task[None]") -> None:
        del self._at_work[name]
        if not done.cancelled():
            done.exception()  # whoever waited was told


async def _of(work: Callable[[], Awaitable[None]]) -> None:
    await work()
