"""Files that hold large blobs: writing, syncing, reading, and the pool of spare files.

Overwriting a file whose pages are in the page cache is several times as fast as writing a new one, so deleted blobs'
files wait in a small pool. A spare's old content can never pass for new: a blob under way counts only chunks that were
marked after they were written and verified, and a writer seals only what was written whole.
"""

import errno
import fcntl
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hanse.core.blobs import Chunk, pieces_of
from hanse.core.errors import StorageError, in_folder

MIN_SPARE_BYTES = 1024 * 1024


@contextmanager
def disk_errors(doing: str, folder: Path) -> Iterator[None]:
    """Turn the system's errors into `StorageError`, with the store's folder beside the message and not in it."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, doing, folder) from None


def disk_error(error: OSError, doing: str, folder: Path) -> StorageError:
    """`error` as a `StorageError`."""
    name = errno.errorcode.get(error.errno or 0, "EIO")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "free space and try again; what was taken before stays" if full else "what was taken before stays"
    said = f"disk: it refuses while {doing} ({name}: {os.strerror(error.errno or errno.EIO)}); {hint}"
    return in_folder(StorageError(said), folder)


def write_all(file: int, content: Chunk, start: int) -> None:
    """Write `content` at byte `start`, also where the system takes less at a time."""
    for piece in pieces_of(content):
        view = memoryview(piece).cast("B")
        while len(view):
            written = os.pwrite(file, view, start)
            view, start = view[written:], start + written


def sync_content(file: int) -> None:
    """Bring a file's content to the medium."""
    if sys.platform == "darwin":
        fcntl.fcntl(file, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(file)


def sync_directory(directory: Path) -> None:
    """Bring a directory's entries to the medium."""
    file = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def make_directory(directory: Path) -> list[Path]:
    """Make a private directory with its parents; returns the directories that got a new entry."""
    if directory.is_dir():
        return []
    changed = make_directory(directory.parent)
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    return [*changed, directory.parent]


def free_bytes(directory: Path) -> int:
    """What is left on the disk for us."""
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize


class Spares:
    """The pool. Thread-safe. At most `max_files`, and at most a quarter of the disk's free space.

    A process that maps a blob's file must either be done before the blob's scope is deleted or hold a shared
    `flock` on the file meanwhile: a file that somebody holds is not recycled.
    """

    def __init__(self, directory: Path, *, max_files: int = 8) -> None:
        self._directory = directory
        self._max_files = max_files
        self._sizes: dict[Path, int] = {}
        self._number = 0
        self._lock = threading.Lock()
        make_directory(directory)
        # Whoever used them before may still map them.
        for left in directory.iterdir():
            left.unlink()

    def give(self, path: Path) -> None:
        """Take a file that is no longer needed into the pool, or remove it."""
        with self._lock, suppress(FileNotFoundError):
            size = path.stat().st_size
            if self._wants(path, size):
                self._number += 1
                spare = self._directory / str(self._number)
                path.rename(spare)
                self._sizes[spare] = size
            else:
                path.unlink()

    def take(self, path: Path, size: int) -> int:
        """Open a file of exactly `size` bytes at `path`, of unknown content; the descriptor is the caller's."""
        with self._lock:
            fitting = [spare for spare, found in self._sizes.items() if size // 2 <= found <= size * 2]
            if fitting:
                spare = min(fitting, key=lambda spare: abs(self._sizes[spare] - size))
                del self._sizes[spare]
                spare.rename(path)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, size)
        except OSError:
            os.close(file)
            raise
        return file

    def clear(self) -> bool:
        """Give the pool's space back to the disk; whether there was any."""
        with self._lock:
            had = bool(self._sizes)
            for spare in self._sizes:
                spare.unlink(missing_ok=True)
            self._sizes.clear()
        return had

    def write(self, file: int, content: Chunk, start: int) -> None:
        """`write_all`, which gives the pool up before it lets a full disk win."""
        try:
            write_all(file, content, start)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.clear():
                raise
            write_all(file, content, start)

    def _wants(self, path: Path, size: int) -> bool:
        if size < MIN_SPARE_BYTES or len(self._sizes) >= self._max_files:
            return False
        if sum(self._sizes.values()) + size > free_bytes(self._directory) // 4:
            return False
        return not _held_elsewhere(path)


def _held_elsewhere(path: Path) -> bool:
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False
