"""The places that the seams' conformance suite runs in. A new backend adds one async context manager to `PLACES`.

A place need not offer everything: a seam that is None, or an ability that is missing, skips the tests that need it.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from hanse.backends.aws import AwsConfig, AwsStore
from hanse.backends.local import LocalStore
from hanse.backends.memory import MemoryStore
from hanse.backends.objectstore import ObjectBlobs, Objects, ObjectStore
from hanse.backends.objectstore.blobs import chunk_key
from hanse.core.blobs import CHUNK_BYTES
from hanse.core.seams import BlobStore, Inbox, Ledger, Links
from tests.conformance.account import in_account
from tests.conformance.account import session as account_session
from tests.conformance.emulator import SITES, Session, emulated
from tests.conformance.over_grpc import seams

MAX_BLOB_BYTES = 64 * 1024 * 1024
"""The limit that a place with `links` sets, so that the suite can go over it."""
VISIBILITY_S = 30.0


class Clock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


@dataclass
class Place:
    """The seams under test and what a test may do to them.

    Args:
        pass_time: let seconds go by for the inbox.
        reopen: close the store and open it again on what it kept; None where nothing is kept.
        damage: change one byte of a complete blob behind the store's back.
        replaces: whether a message that lies there is replaced by one with its id; otherwise both come.
        creates: whether `BlobStore.create` works here (a site over a network has no such need).
    """

    pass_time: Callable[[float], None]
    ledger: Ledger | None = None
    blobs: BlobStore | None = None
    inbox: Inbox | None = None
    links: Links | None = None
    reopen: Callable[[], None] | None = None
    damage: Callable[[str, str, int], None] | None = None
    creates: bool = True
    replaces: bool = True


Factory = Callable[[Path], AbstractAsyncContextManager[Place]]


@asynccontextmanager
async def memory(_directory: Path) -> AsyncIterator[Place]:
    """In this process."""
    clock = Clock()
    store = MemoryStore.open(visibility_s=VISIBILITY_S, now_ms=clock, max_blob_bytes=MAX_BLOB_BYTES)
    yield Place(lambda seconds: _advance(clock, seconds), store.ledger, store.blobs, store.inbox, store.links)
    store.close()


def local(durability: Literal["power", "process"]) -> Factory:
    """A directory and SQLite."""

    @asynccontextmanager
    async def place(directory: Path) -> AsyncIterator[Place]:
        clock = Clock()
        opened: list[LocalStore] = []

        def start() -> LocalStore:
            return LocalStore.open(
                directory / "store",
                durability,
                visibility_s=VISIBILITY_S,
                now_ms=clock,
                max_blob_bytes=MAX_BLOB_BYTES,
            )

        def reopen() -> None:
            opened.pop().close()
            store = start()
            opened.append(store)
            result.ledger, result.blobs, result.inbox, result.links = (
                store.ledger,
                store.blobs,
                store.inbox,
                store.links,
            )

        def damage(scope: str, id: str, offset: int) -> None:
            with (directory / "store" / "blobs" / scope / id).open("r+b") as file:
                file.seek(offset)
                byte = file.read(1)
                file.seek(offset)
                file.write(bytes([byte[0] ^ 1]))

        store = start()
        opened.append(store)
        result = Place(
            lambda seconds: _advance(clock, seconds),
            store.ledger,
            store.blobs,
            store.inbox,
            store.links,
            reopen=reopen,
            damage=damage,
        )
        yield result
        opened.pop().close()

    return place


def _advance(clock: Clock, seconds: float) -> None:
    clock.ms += round(seconds * 1000)


@asynccontextmanager
async def over_grpc(directory: Path) -> AsyncIterator[Place]:
    """A server on loopback and its sites, over mutual TLS."""
    clock = Clock()
    async with seams(directory, visibility_s=VISIBILITY_S, now_ms=clock, max_blob_bytes=MAX_BLOB_BYTES) as found:
        blobs, inbox, links = found
        yield Place(lambda seconds: _advance(clock, seconds), None, blobs, inbox, links, creates=False)


@asynccontextmanager
async def objects(_directory: Path) -> AsyncIterator[Place]:
    """Objects with conditional puts, in this process's memory. Its inbox has no owner that could restart."""
    store = pytest.importorskip("obstore.store", reason="needs the extra `objectstore`").MemoryStore()
    clock = Clock()
    opened = ObjectStore.open(
        store, "federations/f", visibility_s=VISIBILITY_S, now_ms=clock, max_blob_bytes=MAX_BLOB_BYTES
    )
    yield Place(lambda seconds: _advance(clock, seconds), opened.ledger, opened.blobs, opened.inbox, opened.links)


@asynccontextmanager
async def objects_again(_directory: Path) -> AsyncIterator[Place]:
    """The same, where another process opens what the first one wrote."""
    store = pytest.importorskip("obstore.store", reason="needs the extra `objectstore`").MemoryStore()

    def reopen() -> None:
        opened = ObjectStore.open(store, "federations/f")
        result.ledger, result.blobs = opened.ledger, opened.blobs

    def damage(scope: str, id: str, offset: int) -> None:
        manifest, _ = ObjectBlobs(Objects(store, "federations/f")).head(scope, id)
        index, within = divmod(offset, CHUNK_BYTES)
        key = f"federations/f/{chunk_key(scope, manifest.hash_of(index))}"
        content = bytearray(bytes(store.get(key).bytes()))
        content[within] ^= 1
        store.put(key, bytes(content))

    result = Place(lambda seconds: None, reopen=reopen, damage=damage)
    reopen()
    yield result


@asynccontextmanager
async def aws(_directory: Path) -> AsyncIterator[Place]:
    """S3, DynamoDB and SQS of an emulator on loopback. SQS keeps its own time, so its clock cannot be moved."""
    with emulated() as config:
        async with _on_aws(config, Session()) as place:
            yield place


@asynccontextmanager
async def aws_account(_directory: Path) -> AsyncIterator[Place]:
    """The same in a real account."""
    with in_account(SITES) as config:
        async with _on_aws(config, account_session()) as place:
            yield place


@asynccontextmanager
async def _on_aws(config: AwsConfig, session: Any) -> AsyncIterator[Place]:
    store = AwsStore.open(config, session, max_blob_bytes=MAX_BLOB_BYTES)

    def reopen() -> None:
        again = AwsStore.open(config, session, max_blob_bytes=MAX_BLOB_BYTES)
        result.ledger, result.blobs, result.links = again.ledger, again.blobs, again.links

    result = Place(_cannot_pass, store.ledger, store.blobs, store.inbox, store.links, reopen=reopen, replaces=False)
    yield result
    store.close()


def _cannot_pass(_seconds: float) -> None:
    pytest.skip("this place's clock cannot be moved")


PLACES: dict[str, Factory] = {
    "aws": aws,
    "aws-account": aws_account,
    "objectstore": objects,
    "objectstore-again": objects_again,
    "memory": memory,
    "local-power": local("power"),
    "local-process": local("process"),
    "grpc": over_grpc,
}
