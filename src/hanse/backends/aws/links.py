"""Links as presigned URLs: each is the right to read one object, or to write one name once, for an hour at most.

A site that holds nothing but its queue and these needs no other right. A PUT is bound to the object's name (the chunk's
hash), its length and `If-None-Match: *`: a link that leaks can neither overwrite nor put something larger. Rights are
decided as everywhere (`Grants`); whoever holds a URL keeps it until it expires.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from hanse.backends.aws.errors import aws_errors
from hanse.backends.memory import Grants
from hanse.backends.objectstore.blobs import ObjectBlobs, chunk_key, head_key
from hanse.core.blobs import INLINE_BYTES, MAX_BLOB_BYTES, Manifest
from hanse.core.seams import Link, UploadTicket

LIFE_S = 3600
WRITE_ONCE = ("If-None-Match", "*")


class PresignedLinks:
    """`Links` whose tickets carry URLs.

    Args:
        client: a boto3 client of S3; its credentials sign.
        bucket, prefix: where the objects lie.
        blobs: the same objects as blobs.
        max_bytes: the largest blob that anybody may put.
    """

    def __init__(
        self, client: Any, bucket: str, prefix: str, blobs: ObjectBlobs, *, max_bytes: int = MAX_BLOB_BYTES
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._grants = Grants(blobs, max_bytes=max_bytes)

    def fresh(self) -> "PresignedLinks":
        """The same without any right: for one question, so that a process that lives on keeps none."""
        return PresignedLinks(self._client, self._bucket, self._prefix, self._blobs, max_bytes=self._max_bytes)

    def grant(self, who: str, *, read: Iterable[tuple[str, str]] = (), write: Iterable[str] = ()) -> None:
        """Add rights."""
        self._grants.grant(who, read=read, write=write)

    def revoke(self, who: str, *, scope_prefix: str) -> None:
        """End rights; URLs given out before end by themselves."""
        self._grants.revoke(who, scope_prefix=scope_prefix)

    async def get(self, who: str, scope: str, id: str, *, only: Sequence[int] | None = None) -> Link:
        """URLs of the head and of every chunk, in that order; with `only`, of these chunks."""
        link = await self._grants.get(who, scope, id)
        manifest = await self._blobs.manifest(scope, id)
        keys = [head_key(scope, id)] if only is None or manifest.size <= INLINE_BYTES else []
        if manifest.size > INLINE_BYTES:
            wanted = range(manifest.num_chunks) if only is None else only
            keys += [chunk_key(scope, manifest.hash_of(n)) for n in wanted if 0 <= n < manifest.num_chunks]
        urls = tuple(self._sign("get_object", key, {}) for key in keys)
        return Link(link.scope, link.id, urls, expires_s=LIFE_S)

    async def put(self, who: str, scope: str, manifest: Manifest, *, only: Sequence[int] | None = None) -> UploadTicket:
        """A URL for each missing chunk, or of those the ones in `only`.

        The head is written by the server when it sees them all (`commit`).
        """
        ticket = await self._grants.put(who, scope, manifest)
        missing = ticket.missing if only is None else tuple(n for n in ticket.missing if n in set(only))
        urls: list[str] = []
        for index in missing:
            start, stop = manifest.span(index)
            key = chunk_key(scope, manifest.hash_of(index))
            urls.append(self._sign("put_object", key, {"ContentLength": stop - start, "IfNoneMatch": "*"}))
        return UploadTicket(scope, manifest, missing, tuple(urls), (WRITE_ONCE,), LIFE_S)

    def _sign(self, call: str, key: str, extra: dict[str, Any]) -> str:
        parameters = {"Bucket": self._bucket, "Key": f"{self._prefix}/{key}", **extra}
        with aws_errors("signing a link"):
            url: str = self._client.generate_presigned_url(call, Params=parameters, ExpiresIn=LIFE_S)
        return url
