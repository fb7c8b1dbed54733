"""Blobs between this site and the server, over as many connections as it takes.

A transfer that breaks goes on with the chunks that are missing, once there is a connection again.
"""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path

from hanse.core.blobs import Manifest
from hanse.core.errors import IntegrityError, NotFoundError, StorageError, UnavailableError
from hanse.core.records import BlobRef
from hanse.core.seams import BlobStore
from hanse.site.links import Carrier, Session

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 5.0


class Transfers:
    """Downloads into the site's cache, and uploads."""

    def __init__(self, session: Session, blobs: BlobStore) -> None:
        self._session = session
        self.blobs = blobs

    async def download(self, scope: str, manifest: Manifest) -> None:
        """Bring a blob into the cache.

        Raises:
            PolicyError, NotFoundError, IntegrityError: the server refuses it. StorageError: the disk here is full.
        """
        if await self.blobs.missing(scope, manifest):
            await self._persist(lambda connection: connection.download(self.blobs, scope, manifest))

    async def model(self, ref: BlobRef) -> bytes | Path:
        """A model as bytes or as a verified file; content that has rotted in the cache is fetched again."""
        if ref.content is not None:
            return ref.content
        await self.download(ref.scope, ref.manifest)
        try:
            path = await asyncio.to_thread(self.blobs.path, ref.scope, ref.id)
        except (IntegrityError, NotFoundError):
            await self.download(ref.scope, ref.manifest)
            path = await asyncio.to_thread(self.blobs.path, ref.scope, ref.id)
        return path if path is not None else bytes(self.blobs.read(ref.scope, ref.id, 0, ref.manifest.size))

    async def upload(self, path: Path, ref: BlobRef, *, task: str) -> None:
        """Send the content of `path`, which `ref` describes, to where `ref` says; also when the server's disk is full.

        Raises:
            PolicyError, TooLargeError, IntegrityError, NotFoundError: the server refuses it.
        """
        content = _Opened(path)

        async def send(connection: Carrier) -> None:
            await connection.upload(content, ref.scope, ref.manifest, place=ref.scope, task=task)  # type: ignore[arg-type]

        try:
            await self._persist(send, passing=(UnavailableError, StorageError))
        finally:
            content.close()

    async def _persist(
        self, move: Callable[[Carrier], Awaitable[None]], passing: tuple[type[Exception], ...] = (UnavailableError,)
    ) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            await self._session.connected.wait()
            connection = self._session.connection
            if connection is not None:
                try:
                    return await move(connection)
                except asyncio.CancelledError:
                    # gRPC cancels the calls of a channel that is closed; only our own cancelling is to end us
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise
                except passing:
                    pass
            if self._session.connected.is_set() and self._session.connection is connection:
                await asyncio.sleep(wait_s * (0.5 + random.random()))  # the session holds: back off
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)


class _Opened:
    """The reading side of a blob store with one file in it: what an upload needs.

    It reads and does not map: user code may still hold the file and cut it, and a map of what is gone ends a process.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, scope: str, id: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop); `bytes` of them copies nothing.

        Raises:
            IntegrityError: the file has become shorter.
        """
        content = os.pread(self._file, stop - start, start)
        if len(content) != stop - start:
            raise IntegrityError(f"the update's file: expected {stop - start} bytes at {start}, found {len(content)}")
        return content

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)
