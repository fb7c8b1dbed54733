"""Ctrl-C that cannot get lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. Where that is a destructor or the callback of
a weak reference, as importlib's locks have them, the exception is reported ("Exception ignored in …") and dropped: the
command goes on as if nobody had pressed a key. Here such an interrupt is delivered again, until it is heard.
"""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

PAUSE_S = 0.02
"""Until an interrupt that was dropped is delivered again: the callback that dropped it is over by then."""


class Interrupted(KeyboardInterrupt):
    """A signal that ends the command as Ctrl-C would, where Ctrl-C itself is ignored; its number is the argument."""


@contextmanager
def dropped_interrupts_come_again() -> Iterator[None]:
    """While this is open, an interrupt that Python drops is sent to the main thread once more."""
    before = sys.unraisablehook

    def hook(dropped: "sys.UnraisableHookArgs") -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
            return
        number = dropped.exc_value.args[0] if isinstance(dropped.exc_value, Interrupted) else signal.SIGINT
        # From another thread and a moment later: what is raised in this hook would be dropped as well. Not a `Thread`,
        # whose start takes locks that the interrupted code may hold.
        _thread.start_new_thread(_send, (number,))

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def stopped_by(*numbers: int) -> Iterator[None]:
    """While this is open, these signals end the command as Ctrl-C does."""

    def interrupt(number: int, frame: "FrameType | None") -> None:
        as_ctrl_c = signal.getsignal(signal.SIGINT)  # asyncio's while a loop runs: it cancels the task that was run
        if callable(as_ctrl_c):
            as_ctrl_c(number, frame)
        else:  # a shell ignores it for what it starts in the background
            raise Interrupted(number)

    before = {each: signal.signal(each, interrupt) for each in numbers}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _send(number: int) -> None:
    time.sleep(PAUSE_S)
    main = threading.main_thread().ident
    if main is not None:
        signal.pthread_kill(main, number)  # this thread's signal, so that a wait of the main thread ends
