"""Descriptors that travel to a worker with a request, so that it needs no path and no right of its own."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Self

from hanse.core.errors import StorageError
from hanse.workers.assignment import Model


class Handed:
    """Descriptors to hand over, closed on our side when the answer is there."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    @property
    def fds(self) -> tuple[int, ...]:
        """In the order in which they were added."""
        return tuple(self._fds)

    def add(self, content: Model) -> tuple[str, tuple[bytes, ...]]:
        """Where arrays are, and their bytes where they go inline."""
        if content is None:
            return "none", ()
        if isinstance(content, Path):
            self.open(content, os.O_RDONLY)
            return "file", ()
        return "inline", (content,)

    def hand_over(self, sock: socket.socket) -> None:
        """A socket, which is no longer the caller's."""
        self._fds.append(sock.detach())

    def open(self, path: Path, flags: int) -> None:
        """A file, never through a symbolic link.

        Raises:
            StorageError: it cannot be opened.
        """
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._fds.append(fd)
            if flags == os.O_RDONLY:
                # the worker's map inherits it: a store does not use the file again while user code may look at it
                fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError as error:
            raise StorageError(f"{path.name}: cannot be opened: {os.strerror(error.errno or 0)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)
