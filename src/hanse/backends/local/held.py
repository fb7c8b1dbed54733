"""A complete blob's file: its manifest beside it, its content mapped at the first read and verified when touched."""

import mmap
import os
import threading
from pathlib import Path

from hanse.backends.local.files import disk_errors
from hanse.core.blobs import CHUNK_BYTES, Manifest
from hanse.core.errors import CodecError, IntegrityError, NotFoundError


class Held:
    """A complete blob's file, mapped at the first read and verified chunk by chunk as it is touched."""

    def __init__(self, manifest: Manifest, path: Path, *, verified: bool) -> None:
        self.manifest = manifest
        self.path = path
        self._verified = bytearray(bytes([verified]) * manifest.num_chunks)
        self._view: memoryview | None = None
        self._mapping: mmap.mmap | None = None
        self._is_released = False
        self._lock = threading.Lock()

    def read(self, start: int, stop: int) -> memoryview:
        """A view of [start, stop) after verifying what it touches first."""
        try:
            view = self._view or self._map()
            for index in range(start // CHUNK_BYTES, -(-stop // CHUNK_BYTES)):
                if not self._verified[index]:
                    first, last = self.manifest.span(index)
                    self.manifest.verify(index, view[first:last])
                    self._verified[index] = 1
            return view[start:stop]
        except ValueError:
            raise NotFoundError(f"blob {self.manifest.id[:12]}: it was deleted") from None

    def verify_all(self) -> None:
        """Verify every chunk that this process has not seen."""
        for index in range(self.manifest.num_chunks):
            if not self._verified[index]:
                self.read(*self.manifest.span(index)).release()

    def release(self) -> bool:
        """Unmap for good; False if views of it are still alive."""
        with self._lock:
            self._is_released = True
            if self._view is None or self._mapping is None:
                return True
            self._view.release()
            try:
                self._mapping.close()
            except BufferError:
                return False
            return True

    def _map(self) -> memoryview:
        with self._lock:
            if self._view is not None:
                return self._view
            if self._is_released:
                raise ValueError
            with disk_errors("reading a blob", self.path.parent):
                file = _open_existing(self.path)
                try:
                    size = os.fstat(file).st_size
                    if size != self.manifest.size:
                        raise IntegrityError(
                            f"blob {self.manifest.id[:12]}: expected {self.manifest.size} bytes, found {size}"
                        )
                    self._mapping = mmap.mmap(file, size, prot=mmap.PROT_READ)
                finally:
                    os.close(file)
            self._view = memoryview(self._mapping)
            return self._view


def save_manifest(path: Path, manifest: Manifest, *, durable: bool) -> None:
    """Write a manifest: size (8 bytes, little-endian), then the hashes."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(file, manifest.size.to_bytes(8, "little") + manifest.hashes)
        if durable:
            os.fsync(file)
    finally:
        os.close(file)


def load_manifest(path: Path, id: str) -> Manifest | None:
    """The manifest if it is there and whole; a torn one has another id."""
    try:
        content = path.read_bytes()
        manifest = Manifest(int.from_bytes(content[:8], "little"), content[8:])
    except (OSError, CodecError):
        return None
    return manifest if manifest.id == id else None


def _open_existing(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError("blob: its file is gone") from None
