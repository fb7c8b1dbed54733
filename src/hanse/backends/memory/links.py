"""Rights to blobs, in memory: for every store that the transport itself reads and writes."""

from collections.abc import Iterable

from hanse.core.blobs import MAX_BLOB_BYTES, Manifest
from hanse.core.errors import PolicyError, TooLargeError
from hanse.core.ids import check_scope
from hanse.core.seams import BlobStore, Link, UploadTicket


def below(scope: str, prefix: str) -> bool:
    """Whether `scope` is `prefix` or lies below it."""
    return scope == prefix or scope.startswith(prefix + "/")


class Grants:
    """`Links` for stores that the transport itself reads and writes: rights in memory, links without URLs.

    Whoever resumes grants anew. `max_bytes` is the largest blob that anybody may put.
    """

    def __init__(self, blobs: BlobStore, *, max_bytes: int = MAX_BLOB_BYTES) -> None:
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._read: dict[str, set[tuple[str, str]]] = {}
        self._write: dict[str, set[str]] = {}

    def grant(self, who: str, *, read: Iterable[tuple[str, str]] = (), write: Iterable[str] = ()) -> None:
        """Add rights."""
        self._read.setdefault(who, set()).update(read)
        self._write.setdefault(who, set()).update(map(check_scope, write))

    def revoke(self, who: str, *, scope_prefix: str) -> None:
        """End every right of `who` in `scope_prefix` and below it."""
        read, write = self._read.get(who), self._write.get(who)
        if read:
            read.difference_update([pair for pair in read if below(pair[0], scope_prefix)])
        if write:
            write.difference_update([scope for scope in write if below(scope, scope_prefix)])

    async def get(self, who: str, scope: str, id: str) -> Link:
        """A link for reading what was granted, if it exists."""
        if (scope, id) not in self._read.get(who, ()):
            raise PolicyError(f"{who}: not allowed to read blob {id[:12]} in {scope[:80]}")
        await self._blobs.manifest(scope, id)
        return Link(scope, id)

    async def put(self, who: str, scope: str, manifest: Manifest) -> UploadTicket:
        """A ticket that names the chunks which are still missing."""
        if scope not in self._write.get(who, ()):
            raise PolicyError(f"{who}: not allowed to write into {scope[:80]}")
        if manifest.size > self._max_bytes:
            raise TooLargeError(f"blob: expected at most {self._max_bytes} bytes, found {manifest.size}")
        return UploadTicket(scope, manifest, tuple(await self._blobs.missing(scope, manifest)))
