"""Content-addressed blobs: a manifest of 8 MiB chunks, each with its BLAKE3; the id is the manifest's BLAKE3.

Readers verify chunk by chunk as they use them; resuming is sending the chunks that the other side lacks. Equal
content gives the equal id, so doing anything twice is harmless.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from blake3 import blake3

from hanse.core.errors import CodecError, IntegrityError

CHUNK_BYTES = 8 * 1024 * 1024
HASH_BYTES = 32
INLINE_BYTES = 64 * 1024
"""A blob up to this size travels inside its message (over gRPC)."""
MAX_BLOB_BYTES = 1 << 40

Buffer = bytes | bytearray | memoryview
Chunk = Buffer | list[bytes]
"""A chunk's content, whole or in the pieces in which it came: putting them together would be one more copy."""


def content_hash(content: Chunk) -> bytes:
    """BLAKE3, 32 bytes."""
    hasher = blake3()
    for piece in pieces_of(content):
        hasher.update(piece)
    return hasher.digest()


def pieces_of(content: Chunk) -> Sequence[Buffer]:
    """A chunk's pieces, in order."""
    return content if isinstance(content, list) else (content,)


def whole(content: Chunk) -> bytes:
    """A small chunk in one piece."""
    return b"".join(pieces_of(content))


@dataclass(frozen=True)
class Manifest:
    """What a blob must be: its size in bytes and the 32-byte BLAKE3 of each chunk, one after another."""

    size: int
    hashes: bytes

    def __post_init__(self) -> None:
        expected = -(-self.size // CHUNK_BYTES) * HASH_BYTES
        if not 0 <= self.size <= MAX_BLOB_BYTES or len(self.hashes) != expected:
            raise CodecError(
                f"manifest: expected 0 to {MAX_BLOB_BYTES} bytes and {max(expected, 0)} bytes of hashes, "
                f"found size={self.size} and {len(self.hashes)}"
            )

    @cached_property
    def id(self) -> str:
        """The blob's id: BLAKE3 of the canonical manifest, 64 hexadecimal digits."""
        return blake3(b"hanse-blob-1\n" + self.size.to_bytes(8, "little") + self.hashes).hexdigest()

    @property
    def num_chunks(self) -> int:
        """Number of chunks; an empty blob has none."""
        return len(self.hashes) // HASH_BYTES

    def span(self, index: int) -> tuple[int, int]:
        """Start and stop of chunk `index` in bytes."""
        start = index * CHUNK_BYTES
        return start, min(start + CHUNK_BYTES, self.size)

    def hash_of(self, index: int) -> bytes:
        """The expected BLAKE3 of chunk `index`."""
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def verify(self, index: int, content: Chunk) -> None:
        """Check chunk `index`.

        Raises:
            IntegrityError: other length or other hash than promised.
        """
        start, stop = self.span(index)
        size = sum(map(len, pieces_of(content)))
        if not 0 <= index < self.num_chunks or size != stop - start:
            raise IntegrityError(f"blob {self.id[:12]}: chunk {index} has {size} bytes, not {stop - start}")
        if content_hash(content) != self.hash_of(index):
            raise IntegrityError(f"blob {self.id[:12]}: chunk {index} does not match its hash")


def manifest_of(content: Buffer) -> Manifest:
    """The manifest of content that is in memory (or mapped)."""
    view = memoryview(content).cast("B")
    return Manifest(len(view), b"".join(content_hash(chunk) for _, chunk in split(view)))


def split(content: Buffer) -> Iterator[tuple[int, memoryview]]:
    """Chunks of `content` with their index; views, not copies."""
    view = memoryview(content).cast("B")
    for index, start in enumerate(range(0, len(view), CHUNK_BYTES)):
        yield index, view[start : start + CHUNK_BYTES]


def rechunk(parts: Iterable[Buffer]) -> Iterator[tuple[int, Buffer]]:
    """Turn parts of any size into chunks with their index; copies only where a chunk spans parts."""
    index, pending, filled = 0, bytearray(), 0
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view):
            if not filled and len(view) >= CHUNK_BYTES:
                yield index, view[:CHUNK_BYTES]
                index, view = index + 1, view[CHUNK_BYTES:]
                continue
            taken = view[: CHUNK_BYTES - filled]
            pending += taken
            filled, view = filled + len(taken), view[len(taken) :]
            if filled == CHUNK_BYTES:
                yield index, pending
                index, pending, filled = index + 1, bytearray(), 0
    if filled:
        yield index, pending
