"""Following links: what a presigned URL lets one read or put, and nowhere else than to AWS.

Whoever writes links must not send this machine to addresses within its own network, nor make it tell them headers.
Where the way out is a proxy (`HTTPS_PROXY`, `NO_PROXY`), it is taken, as by boto3.
"""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from hanse.backends.aws.addresses import is_storage
from hanse.core.errors import CodecError, IntegrityError, UnavailableError

if TYPE_CHECKING:
    import urllib3

AT_ONCE = 4
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


class Https:
    """`Fetch` over HTTPS, to AWS and nowhere else.

    Args:
        endpoint: of an emulator: links may go there too, and be plain HTTP if it is.
    """

    def __init__(self, *, endpoint: str = "") -> None:
        self._pools: dict[str, urllib3.PoolManager] = {}
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
            answer = self._pool(proxy_of(url)).request(
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

    def _pool(self, proxy: str) -> "urllib3.PoolManager":
        if proxy not in self._pools:
            import urllib3

            timeout = urllib3.Timeout(connect=5.0, read=60.0)
            if not proxy:
                self._pools[proxy] = urllib3.PoolManager(maxsize=AT_ONCE, timeout=timeout, retries=False)
            else:
                parts = urlsplit(proxy)
                known = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
                self._pools[proxy] = urllib3.ProxyManager(
                    proxy,
                    maxsize=AT_ONCE,
                    timeout=timeout,
                    retries=False,
                    proxy_headers=urllib3.make_headers(proxy_basic_auth=known),
                )
        return self._pools[proxy]


def proxy_of(url: str) -> str:
    """The proxy by which a link is reached; empty for none, as to an emulator without TLS."""
    parts = urlsplit(url)
    found = getproxies().get("https", "") if parts.scheme == "https" else ""
    if not found or proxy_bypass(parts.hostname or ""):
        return ""
    return found if "://" in found else f"http://{found}"
