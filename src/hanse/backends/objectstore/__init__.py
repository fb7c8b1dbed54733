"""Any S3-like store as the four seams: objects with conditional puts, and nothing else.

    from obstore.store import S3Store
    store = ObjectStore.open(S3Store("bucket", region="eu-central-1"), "federations/north")
    store.ledger, store.blobs, store.inbox, store.links

It needs a store that refuses a put when the object exists (`If-None-Match: *`) or has changed (`If-Match`): AWS S3,
MinIO, Ceph, Google, Azure. There is no push in an object store, so a receiver polls, ever more slowly; a federation
with queues uses `backends.aws`, which shares the blobs of this one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hanse.backends.memory import VISIBILITY_S, Grants
from hanse.backends.objectstore.blobs import ObjectBlobs
from hanse.backends.objectstore.inbox import ObjectInbox, wall_ms
from hanse.backends.objectstore.ledger import ObjectLedger
from hanse.backends.objectstore.objects import Objects
from hanse.core.blobs import MAX_BLOB_BYTES

__all__ = ["ObjectBlobs", "ObjectStore", "Objects"]


@dataclass(slots=True)
class ObjectStore:
    """The four seams of one prefix in an object store; the same shape as `LocalStore`."""

    ledger: ObjectLedger
    blobs: ObjectBlobs
    inbox: ObjectInbox
    links: Grants

    @classmethod
    def open(
        cls,
        store: Any,
        prefix: str,
        *,
        visibility_s: float = VISIBILITY_S,
        now_ms: Callable[[], int] = wall_ms,
        max_blob_bytes: int = MAX_BLOB_BYTES,
    ) -> "ObjectStore":
        """The seams below `prefix` of an obstore store.

        Args:
            store: an `obstore.store` object with conditional puts.
            prefix: names joined by '/', such as `federations/north`.

        Raises:
            ConfigError: a prefix that is not names joined by '/'.
        """
        objects = Objects(store, prefix)
        blobs = ObjectBlobs(objects)
        inbox = ObjectInbox(objects, visibility_s=visibility_s, now_ms=now_ms)
        return cls(ObjectLedger(objects), blobs, inbox, Grants(blobs, max_bytes=max_blob_bytes))

    def close(self) -> None:
        """Nothing to do; here for the sake of one shape."""
