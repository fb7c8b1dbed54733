"""The life of whoever drives a run: whether it is still in charge, and what it does in the background while it is."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from hanse.core.errors import ConflictError, UnavailableError

Work = Callable[[], Awaitable[None]]


class Life:
    """From taking a run up to its end, or to the moment when somebody else drives it.

    Args:
        job: whose run it is.
        log: told of what nobody expected.
        expected: what ends the driving and is no fault of the program.
    """

    def __init__(
        self,
        job: str,
        log: structlog.stdlib.BoundLogger,
        expected: tuple[type[Exception], ...] = (ConflictError,),
    ) -> None:
        self.finished: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """The run's status once it is over; the exception that ended the driving, if something did."""
        self.background: set[asyncio.Task[None]] = set()
        self._job = job
        self._log = log
        self._expected = expected
        self._is_closed = False

    @property
    def goes_on(self) -> bool:
        """Whether there is anything left to drive here."""
        return not self._is_closed and not self.finished.done()

    def check_in_charge(self, is_over: bool) -> None:
        """Refuse what only the one in charge may do.

        Args:
            is_over: whether the run is: then it may be answered for though nobody drives it any more.

        Raises:
            UnavailableError: it is driven elsewhere, or by nobody.
        """
        has_stopped = self.finished.done() and (self.finished.cancelled() or self.finished.exception() is not None)
        if has_stopped or (self._is_closed and not is_over):
            raise UnavailableError(f"job {self._job}: not driven here now; try again")

    def spawn(self, work: Work) -> "asyncio.Task[None] | None":
        """Do it in the background; None if this life is over and nothing will be done."""
        if not self.goes_on:
            return None
        task = asyncio.ensure_future(self.guard(work))
        self.background.add(task)
        task.add_done_callback(self.background.discard)
        return task

    async def guard(self, work: Work) -> None:
        """The top of all work: what it raises ends the driving by name, never silently.

        Raises:
            CancelledError: the work was cancelled; nothing else is raised.
        """
        try:
            await work()
        except asyncio.CancelledError:
            raise
        except self._expected as error:
            self.stop(error)
        except Exception as error:  # the top of a turn or a task
            self._log.exception("run stopped by an internal error")
            self.stop(error)

    def finish(self, status: str) -> None:
        """The run is over."""
        if not self.finished.done():
            self.finished.set_result(status)

    def stop(self, error: Exception) -> None:
        """Another shell has taken over, or this one cannot go on: the record stays as it is."""
        if not self.finished.done():
            self.finished.set_exception(error)

    @property
    def failure(self) -> Exception | None:
        """What ended the driving, if something did."""
        if not self.finished.done() or self.finished.cancelled():
            return None
        error = self.finished.exception()
        return error if isinstance(error, Exception) else None

    async def close(self) -> None:
        """Stop driving; the record stays and can be loaded. What is being cleaned up is let finish."""
        self._is_closed = True
        if not self.finished.done():
            for task in list(self.background):
                task.cancel()
        await asyncio.gather(*self.background, return_exceptions=True)
        if not self.finished.done():
            self.finished.cancel()
