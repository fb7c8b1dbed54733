"""`Tracker`: where runs are to be seen, as plain data; `Sink`: the open way there; `Tracking`: what a runtime holds.

Training never waits for a tracking server. A record is written to the buffer (`outbox.py`), and a thread delivers what
waits there: in order, again after a failure, and once, since every sink treats a second delivery of a record as none.
"""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from hanse.core.errors import RefusedError, StorageError
from hanse.tracking.outbox import Outbox
from hanse.tracking.records import Plain, Record

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0
CLOSE_S = 10.0
"""How long the end of a program waits for a tracking server that takes nothing; what is left is delivered the next
time."""
LONGEST_CLOSE_S = 60.0
"""And for one that takes something, or whose client is still being loaded: on a busy machine that takes seconds."""
LAST_TRIES = 2
BUFFER = "tracking.db"

Say = Callable[[str], None]


class Sink(Protocol):
    """An open way to a backend. Used by one thread."""

    def deliver(self, records: Sequence[Record]) -> None:
        """Store records, in order; a record that it has already changes nothing.

        Raises:
            RefusedError: it will never take the first record. Whatever else it raises: later, perhaps.
        """
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Tracker(Protocol):
    """Where runs are to be seen. Frozen plain data: making one connects to nothing."""

    @property
    def prefix(self) -> str:
        """Groups what belongs together."""
        ...

    @property
    def params(self) -> Mapping[str, Plain]:
        """Further parameters of every run."""
        ...

    @property
    def place(self) -> str:
        """What names the backend in the buffer; the same whenever the same is meant."""
        ...

    def open(self) -> Sink:
        """Connect.

        Raises:
            MissingExtraError: what it needs is not installed.
        """
        ...


class Tracking:
    """A tracker at work. Nothing here raises: what cannot be kept is said in the log, and training goes on.

    Args:
        tracker: where to.
        buffer: the file in which records wait; by default one in the user's cache folder.
        say: told what a person should know, one line each.
    """

    def __init__(self, tracker: Tracker, buffer: Path | None = None, *, say: Say) -> None:
        self.tracker = tracker
        self._tell = say
        self._path = buffer if buffer is not None else default_buffer(tracker.place)
        self._outbox: Outbox | None = None
        self._more = threading.Event()
        self._closing = False
        self._opening = False
        self._thread: threading.Thread | None = None
        self._said = ""
        try:
            self._outbox = Outbox(self._path, tracker.place)
        except StorageError as error:
            say(f"nothing is tracked: {error}")
            return
        if self._waiting(self._outbox):
            self._start()

    def add(self, records: Iterable[Record]) -> None:
        """Keep records and see to their delivery."""
        if self._outbox is None:
            return
        try:
            if not self._outbox.add(records):
                return
        except StorageError as error:
            self._say(f"records of a run are lost: {error}")
            return
        self._start()
        self._more.set()

    def add_if_begun(self, record: Record) -> None:
        """As `add`, where something of its run was kept before."""
        if self._outbox is None:
            return
        try:
            is_begun = self._outbox.knows(record.run)
        except StorageError as error:
            self._say(f"records of a run are lost: {error}")
            return
        if is_begun:
            self.add([record])

    def close(self, timeout_s: float = CLOSE_S) -> int:
        """Deliver what waits, until nothing has gone out for `timeout_s`.

        Returns:
            How many records are left for the next time.
        """
        outbox, self._outbox = self._outbox, None
        if outbox is None:
            return 0
        self._closing = True
        self._more.set()
        if self._thread is not None:
            self._join(self._thread, outbox, timeout_s)
        left = self._waiting(outbox)
        if left:
            self._tell(f"{left} records wait in {self._path} for {self.tracker.place}, and are delivered the next time")
        if self._thread is None or not self._thread.is_alive():  # else the process's end takes both
            outbox.close()
        return left

    def _join(self, thread: threading.Thread, outbox: Outbox, timeout_s: float) -> None:
        begun = since = time.monotonic()
        left = self._waiting(outbox)
        while thread.is_alive():
            thread.join(min(0.1, timeout_s))
            now, before, left = time.monotonic(), left, self._waiting(outbox)
            if self._opening or left < before:
                since = now
            if now - since >= timeout_s or now - begun >= LONGEST_CLOSE_S:
                return

    # ---- the thread ----

    def _start(self) -> None:
        if self._thread is None and self._outbox is not None:
            work = partial(self._work, self._outbox)
            self._thread = threading.Thread(target=work, name="hanse-tracking", daemon=True)
            self._thread.start()

    def _work(self, outbox: Outbox) -> None:
        """Until closed: deliver, or wait for more; longer after each failure. At the end, one more try."""
        sink: Sink | None = None
        wait_s, last_tries = 0.0, 0
        while True:
            self._more.wait(wait_s if self._waiting(outbox) else None)
            self._more.clear()
            wait_s = wait_s or FIRST_WAIT_S
            try:
                if sink is None:
                    self._opening = True
                    try:
                        sink = self.tracker.open()
                    finally:
                        self._opening = False
                while outbox.take_turn() and (batch := outbox.waiting()):
                    deliver(sink, outbox, batch, self._tell)
                    wait_s, self._said = FIRST_WAIT_S, ""
            except Exception as error:  # a tracking server's failure, of whatever kind, is no failure of training
                self._say(f"tracking waits for {self.tracker.place}: {type(error).__name__}: {str(error)[:300]}")
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                _let_go(sink)
                sink = None
            if self._closing:
                last_tries += 1
                if sink is not None or last_tries == LAST_TRIES or not self._waiting(outbox):
                    _let_go(sink)
                    return
                wait_s = FIRST_WAIT_S

    def _waiting(self, outbox: Outbox) -> int:
        """How many records wait; none that could be delivered where the file cannot be read."""
        try:
            return len(outbox)
        except StorageError as error:
            self._say(str(error))
            return 0

    def _say(self, line: str) -> None:
        if line != self._said:
            self._said = line
            self._tell(line)


def _let_go(sink: Sink | None) -> None:
    with contextlib.suppress(Exception):
        if sink is not None:
            sink.close()


def deliver(sink: Sink, outbox: Outbox, batch: Sequence[tuple[int, Record]], say: Say) -> None:
    """One batch; where the backend refuses it, record by record, so that only what it never takes is set aside."""
    taken = [number for number, _ in batch]
    try:
        sink.deliver([record for _, record in batch])
    except RefusedError:
        for number, record in batch:
            try:
                sink.deliver([record])
            except RefusedError as error:
                say(f"{record.run.name}: {record.key} is refused: {str(error)[:300]}")
                outbox.refuse(number, str(error))
                taken.remove(number)
    outbox.delivered(taken, time.time_ns() // 1_000_000)


def default_buffer(place: str) -> Path:
    """Where records wait if nobody says: `$HANSE_CACHE/tracking`, or `~/.cache/hanse/tracking`."""
    cache = Path(os.environ.get("HANSE_CACHE") or Path.home() / ".cache" / "hanse")
    return cache / "tracking" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.db"
