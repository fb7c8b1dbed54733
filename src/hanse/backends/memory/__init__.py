"""The four seams in this process's memory: for simulation, for tests, and as the readable reference of each seam.

Everything runs on one event loop and takes no locks; only `MemoryBlobs.read` and writers are used from threads.
Nothing here outlives the process. `links` and `coverage` are shared with the other backends.
"""

from collections.abc import Callable
from dataclasses import dataclass

from hanse.backends.memory.blobs import MemoryBlobs, MemoryWriter
from hanse.backends.memory.coverage import EMPTY, Chunks, Coverage, check_range, puller
from hanse.backends.memory.inbox import VISIBILITY_S, MemoryInbox, Message, monotonic_ms
from hanse.backends.memory.ledger import MemoryLedger, check_record
from hanse.backends.memory.links import Grants, below
from hanse.core.blobs import MAX_BLOB_BYTES

__all__ = [
    "EMPTY",
    "VISIBILITY_S",
    "Chunks",
    "Coverage",
    "Grants",
    "MemoryBlobs",
    "MemoryInbox",
    "MemoryLedger",
    "MemoryStore",
    "MemoryWriter",
    "Message",
    "below",
    "check_range",
    "check_record",
    "monotonic_ms",
    "puller",
]


@dataclass(slots=True)
class MemoryStore:
    """The four seams of one place, in memory; the same shape as `LocalStore`."""

    ledger: MemoryLedger
    blobs: MemoryBlobs
    inbox: MemoryInbox
    links: Grants

    @classmethod
    def open(
        cls,
        *,
        visibility_s: float = VISIBILITY_S,
        now_ms: Callable[[], int] = monotonic_ms,
        max_blob_bytes: int = MAX_BLOB_BYTES,
    ) -> "MemoryStore":
        """Empty seams."""
        blobs = MemoryBlobs()
        inbox = MemoryInbox(visibility_s=visibility_s, now_ms=now_ms)
        return cls(MemoryLedger(), blobs, inbox, Grants(blobs, max_bytes=max_blob_bytes))

    def close(self) -> None:
        """Nothing to do; here for the sake of one shape."""
