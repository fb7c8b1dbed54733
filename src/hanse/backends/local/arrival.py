"""A blob on its way: `<id>.part` with the chunks that came, and `<id>.marks` that says which they are."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from hanse.backends.local.files import Spares, disk_errors, sync_content
from hanse.core.blobs import CHUNK_BYTES, Chunk, Manifest, content_hash
from hanse.core.errors import NotFoundError

FLUSH_BYTES = 64 * 1024 * 1024
"""With durability `power`, writing to the medium starts whenever so much has come, not only at the end."""


class Arrival:
    """A blob of which chunks are missing. Files are open while somebody puts; marks are kept between puts."""

    def __init__(
        self,
        manifest: Manifest,
        part: Path,
        marks_path: Path,
        spares: Spares,
        flush: "Callable[[int], Future[None]] | None",
    ) -> None:
        self.manifest = manifest
        self.part = part
        self.marks_path = marks_path
        self.marks = bytearray(manifest.num_chunks)
        self.users = 0
        self.is_done = False
        self.is_gone = False
        self.lock = threading.Lock()
        self._spares = spares
        self._flush = flush
        self._flushes: list[Future[None]] = []
        self._unflushed = 0
        self._was_loaded = False
        self._file = -1
        self._marks_file = -1

    @property
    def is_whole(self) -> bool:
        """Whether every chunk was written."""
        return self.is_done or all(self.marks)

    @property
    def num_missing(self) -> int:
        """Chunks that were not written yet."""
        return 0 if self.is_done else self.marks.count(0)

    def open(self) -> None:
        """Open the files; the first time, believe of an earlier process only what can be verified."""
        with self.lock:
            if self._file >= 0 or self.is_done:
                return
            if self.part.exists() and self.marks_path.exists():
                self._file = os.open(self.part, os.O_RDWR | os.O_CLOEXEC)
                os.ftruncate(self._file, self.manifest.size)
                if not self._was_loaded:
                    self._load_marks()
            else:
                # No old mark may meet a file whose old content is somebody else's.
                self.marks_path.unlink(missing_ok=True)
                self.part.unlink(missing_ok=True)
                self.marks[:] = bytes(len(self.marks))
                self._file = self._spares.take(self.part, self.manifest.size)
            self._was_loaded = True
            self._marks_file = os.open(self.marks_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.pwrite(self._marks_file, self.marks, 0)

    def check_wanted(self) -> None:
        """Raise NotFoundError if the scope was deleted meanwhile."""
        if self.is_gone:
            raise NotFoundError(f"blob {self.manifest.id[:12]}: its scope was deleted while it came")

    def take(self, index: int, chunk: Chunk) -> None:
        """Verify, write, mark."""
        self.check_wanted()
        if self.is_done or (0 <= index < len(self.marks) and self.marks[index]):
            return
        self.manifest.verify(index, chunk)
        start, stop = self.manifest.span(index)
        with disk_errors("writing a blob", self.part.parent):
            self._spares.write(self._file, chunk, start)
            os.pwrite(self._marks_file, b"\1", index)
        self.marks[index] = 1
        self._unflushed += stop - start
        if self._flush is not None and self._unflushed >= FLUSH_BYTES:
            self._unflushed = 0
            self._flushes.append(self._flush(os.dup(self._file)))

    def sync(self) -> None:
        """Bring everything that was written to the medium."""
        for flush in self._flushes:
            flush.result()
        sync_content(self._file)

    def close(self) -> None:
        """Close the files; what was written stays."""
        self._flushes.clear()
        for file in (self._file, self._marks_file):
            if file >= 0:
                os.close(file)
        self._file = self._marks_file = -1

    def _load_marks(self) -> None:
        found = self.marks_path.read_bytes()[: len(self.marks)]
        buffer = bytearray(min(CHUNK_BYTES, self.manifest.size))
        for index, mark in enumerate(found):
            start, stop = self.manifest.span(index)
            view = memoryview(buffer)[: stop - start]
            if mark == 1 and os.preadv(self._file, [view], start) == stop - start:
                self.marks[index] = content_hash(view) == self.manifest.hash_of(index)
