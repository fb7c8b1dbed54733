"""Blobs through links: what a site asks the functions for, and how it uses what it gets.

A link is the right to read or write one object for a while. The site's agent follows it to AWS and nowhere else.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from hanse.backends.aws.addresses import is_storage
from hanse.backends.objectstore.blobs import read_head
from hanse.core.blobs import INLINE_BYTES, Chunk, Manifest, manifest_of
from hanse.core.errors import CodecError, IntegrityError, UnavailableError
from hanse.core.seams import BlobStore
from hanse.site.queue_streams import QueueStream, Streams
from hanse.trust.membership import Renewed

AT_ONCE = 4
MAX_LINKS = 64
_LINK_HEADERS = frozenset({"if-none-match"})


class Fetch(Protocol):
    """Uses links."""

    async def get(self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int) -> bytes:
        """What lies behind a link.

        Raises:
            UnavailableError: not now, or the link has expired.
        """
        ...

    async def put(self, url: str, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        """Put an object; that there is one already is as good.

        Raises:
            UnavailableError: not now, or the link has expired.
        """
        ...


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


class Https:
    """`Fetch` over HTTPS, to AWS and nowhere else: whoever signs messages as the server must not send this site's agent
    to addresses within the site's own network.

    Args:
        endpoint: of an emulator: links may go there too, and be plain HTTP if it is.
    """

    def __init__(self, *, endpoint: str = "") -> None:
        import urllib3

        self._pool = urllib3.PoolManager(
            maxsize=AT_ONCE, timeout=urllib3.Timeout(connect=5.0, read=60.0), retries=False
        )
        self._endpoint = endpoint

    async def get(self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int) -> bytes:
        """See `Fetch.get`."""
        return await asyncio.to_thread(self._request, "GET", url, dict(headers), None, max_bytes)

    async def put(self, url: str, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        """See `Fetch.put`."""
        await asyncio.to_thread(self._request, "PUT", url, dict(headers), content, 0)

    def _request(self, method: str, url: str, headers: dict[str, str], content: bytes | None, max_bytes: int) -> bytes:
        import urllib3.exceptions

        if not is_storage(url, self._endpoint) or not {name.lower() for name in headers} <= _LINK_HEADERS:
            raise CodecError("links: expected https:// addresses of AWS, and no headers of another kind")
        try:
            answer = self._pool.request(
                method, url, body=content, headers=headers, preload_content=False, redirect=False
            )
            try:
                found: bytes = answer.read(max_bytes + 1) if answer.status == 200 else answer.read(1024)
            finally:
                answer.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise UnavailableError(f"link not reached: {type(error).__name__}") from None
        if method == "PUT" and answer.status in (200, 412):  # 412: it is there already
            return b""
        if answer.status != 200:
            raise UnavailableError(f"link refused with status {answer.status}; another is asked for")
        if len(found) > max_bytes:
            raise IntegrityError(f"link: expected at most {max_bytes} bytes")
        return found
