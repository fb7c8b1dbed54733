"""What a worker prints: lines for the site's own log, bounded, so that no app can fill its memory or disk.

It never leaves the site. Everything is read, so a worker that prints never waits for long; past the limit of a task
it is thrown away and counted.
"""

import os
import re
from collections.abc import Callable

LIMIT_BYTES = 256 * 1024
"""Kept of what one task prints."""
LINE_BYTES = 4000
_READ_BYTES = 1 << 18

# A log that is looked at in a terminal must not be able to steer it.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class LogPipe:
    """The reading end of a worker's stdout and stderr.

    Args:
        on_line: gets each line, without its end.
        limit_bytes: kept from one `begin` to the next.
    """

    def __init__(self, on_line: Callable[[str], None], limit_bytes: int = LIMIT_BYTES) -> None:
        self.fd, self.write_end = os.pipe()
        os.set_blocking(self.fd, False)
        self._on_line = on_line
        self._limit = limit_bytes
        self._left = limit_bytes
        self._dropped = 0
        self._pending = b""

    def begin(self) -> None:
        """A task begins: the limit starts afresh."""
        self._note()
        self._left = self._limit

    def pump(self) -> bool:
        """Read once; False when there is nothing (more)."""
        if self.fd < 0:
            return False
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return False
        self._take(data)
        return bool(data)

    def drain(self) -> None:
        """Read what is there, at most a pipe's worth several times over: others may still write."""
        for _ in range(8):
            if not self.pump():
                return

    def close(self) -> None:
        """Give out what is pending and close both ends."""
        self.drain()
        if self._pending:
            self._give(self._pending)
            self._pending = b""
        self._note()
        os.close(self.fd)
        self.fd = -1
        self.close_write_end()

    def close_write_end(self) -> None:
        """Close our copy of the end that the worker writes."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def _take(self, data: bytes) -> None:
        kept, self._dropped = data[: self._left], self._dropped + max(0, len(data) - self._left)
        self._left -= len(kept)
        if not kept:
            return
        *lines, self._pending = (self._pending + kept).split(b"\n")
        for line in lines:
            self._give(line)
        while len(self._pending) > LINE_BYTES:
            self._give(self._pending[:LINE_BYTES])
            self._pending = self._pending[LINE_BYTES:]

    def _give(self, line: bytes) -> None:
        for start in range(0, max(len(line), 1), LINE_BYTES):
            text = line[start : start + LINE_BYTES].decode("utf-8", "replace")
            self._on_line(_CONTROLS.sub("�", text.rstrip("\r")))

    def _note(self) -> None:
        if self._dropped:
            if self._pending:
                self._give(self._pending)
                self._pending = b""
            self._on_line(f"… {self._dropped} more bytes were printed and not kept (limit {self._limit} a task)")
            self._dropped = 0
