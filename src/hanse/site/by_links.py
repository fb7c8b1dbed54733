"""Blobs through links: what a site asks the functions for, and how it uses what it gets.

A link is the right to read or write one object for a while. The site's agent follows it to AWS and nowhere else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from hanse.backends.aws.https import AT_ONCE, Fetch
from hanse.backends.objectstore.blobs import read_head
from hanse.core.blobs import INLINE_BYTES, Chunk, Manifest, manifest_of
from hanse.core.errors import CodecError, UnavailableError
from hanse.core.seams import BlobStore
from hanse.site.queue_streams import QueueStream, Streams
from hanse.trust.membership import Renewed

MAX_LINKS = 64


class LinkCarrier:
    """Blobs through links: a `Carrier` without a connection."""

    def __init__(
        self, ask: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]], fetch: Fetch, streams: Streams
    ) -> None:
        self._ask = ask
        self._fetch = fetch
        self._streams = streams

    async def download(self, store: BlobStore, scope: str, manifest: Manifest, *, into: str | None = None) -> None:
        """See `Carrier.download`."""
        target = into or scope
        while missing := await store.missing(target, manifest):
            links = await self._links("get", scope, manifest, missing[:MAX_LINKS])
            await store.put(target, manifest, self._arriving(manifest, links))

    async def upload(self, store: BlobStore, scope: str, manifest: Manifest, *, place: str, task: str = "") -> None:
        """See `Carrier.upload`. It is complete for the server when the answer that names it comes."""

        async def put(index: int, url: str, headers: Sequence[tuple[str, str]]) -> None:
            await self._fetch.put(url, headers, bytes(store.read(scope, manifest.id, *manifest.span(index))))

        for first in range(0, manifest.num_chunks, MAX_LINKS):
            chunks = range(first, min(first + MAX_LINKS, manifest.num_chunks))
            links = await self._links("put", place, manifest, chunks)
            for start in range(0, len(links), AT_ONCE):
                await asyncio.gather(*(put(*link) for link in links[start : start + AT_ONCE]))

    async def renew(self, signing_request: bytes) -> Renewed:
        """Only the operator can.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError("no server renews certificates here; ask the federation's operator for a new one")

    async def relay(self, session: str, role: str, sites: Mapping[str, str]) -> QueueStream:
        """See `Carrier.relay`."""
        return self._streams.open(session, role, sites)

    async def put_content(self, scope: str, content: bytes) -> Manifest:
        """Put a blob that is in memory.

        Raises:
            HanseError: what the server answered. UnavailableError: not now.
        """
        manifest = manifest_of(content)
        for index, url, headers in await self._links("put", scope, manifest, range(manifest.num_chunks)):
            await self._fetch.put(url, headers, content[slice(*manifest.span(index))])
        return manifest

    async def get_content(self, manifest: Manifest, links: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> bytes:
        """A blob of one chunk or a few, from links that came with the word on it.

        Raises:
            IntegrityError: it is another content. UnavailableError: not now, or the links have expired.
        """
        if len(links) != manifest.num_chunks:
            raise CodecError("links: expected one for each chunk")
        parts = []
        for index, (url, headers) in enumerate(links):
            start, stop = manifest.span(index)
            parts.append(await self._fetch.get(url, headers, stop - start))
            manifest.verify(index, parts[-1])
        return b"".join(parts)

    async def _links(
        self, op: str, scope: str, manifest: Manifest, chunks: Sequence[int]
    ) -> list[tuple[int, str, list[tuple[str, str]]]]:
        about = {"scope": scope, "size": manifest.size, "hashes": manifest.hashes.hex()}
        answer = await self._ask({"op": op, **about, "chunks": list(chunks)})
        try:
            headers = [(str(name), str(value)) for name, value in answer["headers"]]
            links = [(int(n), str(url), headers) for n, url in zip(answer["chunks"], answer["urls"], strict=True)]
        except (KeyError, TypeError, ValueError):
            raise CodecError("links: expected chunks, urls and headers") from None
        if not {n for n, _, _ in links} <= set(chunks):
            raise CodecError("links: expected those of the chunks that were asked for")
        return links

    async def _arriving(
        self, manifest: Manifest, links: list[tuple[int, str, list[tuple[str, str]]]]
    ) -> AsyncIterator[tuple[int, Chunk]]:
        async def get(index: int, url: str, headers: Sequence[tuple[str, str]]) -> tuple[int, Chunk]:
            start, stop = manifest.span(index)
            if manifest.size <= INLINE_BYTES:  # it travels in its head
                found = await self._fetch.get(url, headers, INLINE_BYTES + 4096)
                return index, read_head(manifest.id, found)[1]
            return index, await self._fetch.get(url, headers, stop - start)

        for first in range(0, len(links), AT_ONCE):
            for pair in await asyncio.gather(*(get(*link) for link in links[first : first + AT_ONCE])):
                yield pair
