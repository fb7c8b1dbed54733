"""Following links: what a presigned URL lets one read or put, and nowhere else than to AWS.

Whoever writes links must not send this machine to addresses within its own network, nor make it tell them headers.
"""

import asyncio
from collections.abc import Sequence
from typing import Protocol

from hanse.backends.aws.addresses import is_storage
from hanse.core.errors import CodecError, IntegrityError, UnavailableError

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
