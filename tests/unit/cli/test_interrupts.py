"""An interrupt is heard, wherever it meets the main thread."""

import asyncio
import signal
import sys
import time
import weakref
from collections.abc import Iterator

import pytest

from hanse.cli.interrupts import Interrupted, dropped_interrupts_come_again, stopped_by
from tests.patience import WAIT_S


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Python's own handler, whatever the runner of the tests made of Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Thing:
    """Something that a weak reference may point to."""


def _interrupted_in_a_callback(number: int) -> None:
    """The signal arrives while Python runs a callback in which it drops every exception; then the program goes on."""
    thing = Thing()
    watch = weakref.ref(thing, lambda _: signal.raise_signal(number))
    del thing
    assert watch() is None
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        time.sleep(0.01)


def test_ctrl_c_in_a_callback_comes_again() -> None:
    with dropped_interrupts_come_again(), pytest.raises(KeyboardInterrupt):
        _interrupted_in_a_callback(signal.SIGINT)


def test_so_does_another_signal_even_where_ctrl_c_is_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a shell does so for what it starts in the background
    with (
        dropped_interrupts_come_again(),
        stopped_by(signal.SIGTERM),
        pytest.raises(Interrupted, match=str(int(signal.SIGTERM))),
    ):
        _interrupted_in_a_callback(signal.SIGTERM)


def test_another_signal_ends_a_loop_in_order() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
            await asyncio.sleep(WAIT_S)
        except asyncio.CancelledError:  # not an interrupt in the midst of a step
            ended.append("cancelled")
            raise

    with stopped_by(signal.SIGTERM), pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    assert ended == ["cancelled"]


def test_other_errors_are_reported_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: told.append(dropped.exc_type))
    here = sys.unraisablehook
    with dropped_interrupts_come_again():
        thing = Thing()
        watch = weakref.ref(thing, lambda _: 1 // 0)
        del thing
    assert watch() is None
    assert told == [ZeroDivisionError]
    assert sys.unraisablehook is here
