"""The four small seams that carry everything. Protocols only; backends/ implements them by place.

`BlobStore` keeps content, `Inbox` carries messages, `Ledger` decides who was first, `Links` says who may touch
which blob. Every backend passes the one conformance suite in tests/conformance.

A site touches its own inbox, the server's inbox (where replies go), and blobs through links. Only shells touch
the ledger. No seam offers multi-record transactions and none is needed: a step of a machine is one write.
"""

from collections.abc import AsyncIterable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hanse.core.blobs import Buffer, Chunk, Manifest
from hanse.core.records import Envelope

MAX_RECORD_BYTES = 64 * 1024
"""What one ledger record may hold; longer lists are blobs."""


class BlobWriter(Protocol):
    """A blob that is being made, in any order of ranges, by any number of threads; sealed once."""

    def write(self, start: int, content: Buffer) -> None:
        """Put `content` at byte `start`. Thread-safe for disjoint ranges.

        Raises:
            StorageError: the disk refuses.
        """

    async def seal(self) -> Manifest:
        """Hash what was written and make it readable under its id; durable as the store promises."""

    def abort(self) -> None:
        """Forget it. Harmless after `seal`."""


class BlobStore(Protocol):
    """Content by (scope, id). Equal content in one scope is stored once. Nothing is readable before it verifies."""

    async def put(
        self,
        scope: str,
        manifest: Manifest,
        chunks: Iterable[tuple[int, Chunk]] | AsyncIterable[tuple[int, Chunk]],
    ) -> None:
        """Take chunks (any order, repeats harmless), verify each and keep it, also when the sender stops half-way.

        Complete when no chunk is missing. Durable before it returns, as the store promises.

        Raises:
            IntegrityError: a chunk that does not match its hash; those before it stay.
            StorageError: the disk refuses; what was taken stays.
        """

    async def missing(self, scope: str, manifest: Manifest) -> list[int]:
        """The chunks that the store lacks, in order; empty when the blob can be read."""

    async def manifest(self, scope: str, id: str) -> Manifest:
        """The manifest of a complete blob.

        Raises:
            NotFoundError: there is none, or it is not complete.
        """

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of a complete blob; read-only, possibly a view of a mapped file. Thread-safe.

        Raises:
            NotFoundError: no such complete blob. IntegrityError: what lies there has changed.
        """

    def create(self, scope: str, size: int) -> BlobWriter:
        """Begin a blob of `size` bytes whose content is not known yet."""

    def path(self, scope: str, id: str) -> Path | None:
        """The file that holds exactly the content, for a worker to map; None where there is no such file."""

    async def delete_scope(self, scope: str) -> None:
        """Forget every blob in `scope` and in scopes below it. Harmless when there is none."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as received. Not acknowledged, it comes again after its time, with a higher `count`."""

    receipt: str
    envelope: Envelope
    count: int


class Inbox(Protocol):
    """Messages to a named recipient, at least once, in no promised order."""

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        """Put a message into `to`'s inbox. An (id, kind) that lies there unacknowledged is replaced, not doubled.

        `durable=False` may be lost when the process that holds the inbox ends.
        """

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        """Wait until there is a message, at most `wait_s` seconds; then up to `max` of them, perhaps none."""

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        """Keep messages from coming again for `seconds` from now."""

    async def ack(self, receipts: Sequence[str]) -> None:
        """These need not come again. Unknown or repeated receipts are ignored."""


class Ledger(Protocol):
    """Small records (≤ 64 KiB) by key, each with a version that counts up from 1. Durable before it returns.

    Writing raises TooLargeError for a longer record and ConfigError for an impossible key.
    """

    async def create(self, key: str, value: bytes) -> bool:
        """Write a record that must be new; False if the key exists (and nothing is changed)."""

    async def create_many(self, rows: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`create` for each row, committed together where the backend can."""

    async def get(self, key: str) -> tuple[bytes, int]:
        """Value and version.

        Raises:
            NotFoundError: no such key.
        """

    async def query(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[tuple[str, bytes, int]]:
        """(key, value, version) of keys that begin with `prefix` and come after `after`, by the key's bytes."""

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        """Write if the record's version is still `version`; False if it is not (and nothing is changed)."""

    async def delete(self, prefix: str) -> None:
        """Forget every record whose key begins with `prefix`."""

    async def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget these records and no others. Harmless where there is none."""


@dataclass(frozen=True, slots=True)
class Link:
    """The right to read one blob. `urls` (head, then chunks) is empty where the transport itself carries the blob."""

    scope: str
    id: str
    urls: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    expires_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """The right to write one blob: the chunks still missing and, for stores with URLs, where to put each."""

    scope: str
    manifest: Manifest
    missing: tuple[int, ...]
    urls: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    expires_s: float = 0.0


class Links(Protocol):
    """Who may touch which blob. A site reads exactly the blobs named in its tasks and writes only its own scope."""

    def grant(self, who: str, *, read: Iterable[tuple[str, str]] = (), write: Iterable[str] = ()) -> None:
        """Let `who` read these (scope, id) and write into these scopes until `revoke`."""

    def revoke(self, who: str, *, scope_prefix: str) -> None:
        """End every right of `who` below `scope_prefix`."""

    async def get(self, who: str, scope: str, id: str) -> Link:
        """A link for reading.

        Raises:
            PolicyError: not granted. NotFoundError: no such blob.
        """

    async def put(self, who: str, scope: str, manifest: Manifest) -> UploadTicket:
        """A ticket for writing; asked when the bytes exist. Asking again tells what is still missing.

        Raises:
            PolicyError: not granted. TooLargeError: over the limit.
        """
