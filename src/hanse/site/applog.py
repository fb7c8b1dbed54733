"""What one job's user code prints: a file at the site, bounded, which never leaves it."""

import os
import time
from contextlib import suppress
from pathlib import Path

LIMIT_BYTES = 4 * 1024 * 1024
"""Of the file and of the one before it, each."""


class AppLog:
    """Lines of one job's workers. A disk that refuses loses lines, never a task."""

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self.path = path
        self._limit = limit_bytes
        self._file = -1
        self._size = 0

    def line(self, text: str) -> None:
        """Add a line with the time."""
        with suppress(OSError):
            if self._file < 0:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                self._size = os.fstat(self._file).st_size
            content = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n".encode()
            self._size += os.write(self._file, content)
            if self._size > self._limit:
                self.close()
                os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
