"""Queues, ledger and bucket of one schedule, in memory, whose every call may be a function's last."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from hanse.backends.memory import Grants, MemoryBlobs, MemoryInbox
from hanse.core.blobs import Manifest
from hanse.core.errors import IntegrityError, NotFoundError
from hanse.core.records import Envelope
from hanse.core.seams import Delivery, Link, UploadTicket

if TYPE_CHECKING:
    from tests.faults.explorer.functions import World

T = TypeVar("T")


class Bucket(MemoryBlobs):
    """Blobs whose chunks others put."""

    async def commit(self, scope: str, manifest: Manifest, content: bytes = b"") -> None:
        if await self.missing(scope, manifest):
            raise IntegrityError("chunks are missing")

    def hold(self, chunks: int) -> None:
        pass

    def reading_ahead(self, order: Sequence[Any], ahead: int) -> nullcontext[None]:
        return nullcontext()


class Signer(Grants):
    """Links that are names of chunks, and used up by nobody else."""

    def fresh(self) -> "Signer":
        return Signer(self._blobs, max_bytes=self._max_bytes)

    async def get(self, who: str, scope: str, id: str, *, only: Sequence[int] | None = None) -> Link:
        link = await super().get(who, scope, id)
        return replace(link, urls=tuple(f"{scope} {id} {n}" for n in only or ()))

    async def put(self, who: str, scope: str, manifest: Manifest, *, only: Sequence[int] | None = None) -> UploadTicket:
        ticket = await super().put(who, scope, manifest)
        missing = tuple(n for n in ticket.missing if n in (only or ()))
        urls = tuple(f"{scope} {manifest.id} {n}" for n in missing)
        return replace(ticket, missing=missing, urls=urls)


class Queues(MemoryInbox):
    """Queues replace nothing, as this process's inbox does: what is sent twice, or forged, comes beside the other."""

    _copies = 0

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        self._copies += 1
        await super().send(to, replace(envelope, id=f"{envelope.id}#{self._copies}"), durable=durable)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        found = await super().receive(who, max, wait_s)
        return [replace(d, envelope=replace(d.envelope, id=d.envelope.id.rpartition("#")[0])) for d in found]


class Shelf:
    """Objects of the bucket."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    async def get(self, key: str) -> tuple[bytes, str]:
        if key not in self.content:
            raise NotFoundError(key)
        return self.content[key], ""

    async def put(self, key: str, content: bytes) -> None:
        self.content[key] = content

    async def list(self, folder: str, after: str = "") -> AsyncIterator[Any]:
        for key in sorted(self.content):
            if key.startswith(folder + "/") and key > after:
                yield type("Found", (), {"key": key})

    async def delete(self, *keys: str) -> None:
        for key in keys:
            self.content.pop(key, None)


class Invocation:
    """One function's life. What is killed never runs on: its call hangs for ever."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.gone: asyncio.Future[None] = world.loop.create_future()

    def wrap(self, target: Any) -> Any:
        return _Wrapped(self, target)

    async def call(self, work: Callable[..., Awaitable[T]], *args: Any, **more: Any) -> T:
        await self._gate()
        dice = self.world.rng.random() if self.world.disturbed else 1.0
        kill = self.world.case.kill
        if dice < kill / 2:
            self._die()
            await self._gate()
        result = await work(*args, **more)
        if kill / 2 <= dice < kill:
            self._die()
            await self._gate()
        return result

    def _die(self) -> None:
        self.world.killed += 1
        self.gone.set_result(None)

    async def _gate(self) -> None:
        if self.gone.done():
            await self.world.loop.create_future()


class _Wrapped:
    """A seam whose every call may be the last."""

    def __init__(self, invocation: Invocation, target: Any) -> None:
        self._invocation = invocation
        self._target = target

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **more: Any) -> Any:
            return await self._invocation.call(found, *args, **more)

        return call


class Told:
    """The ledger, whose stream tells of new rows."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.ledger, name)

    async def create(self, key: str, value: bytes) -> bool:
        created = await self._world.ledger.create(key, value)
        if created and self._world.case.watched and key.startswith(("reply/", "decision/")):
            await self._world.stream(key)
        return created


class Unsure:
    """Queues: late, repeated, in any order."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._world.inbox, name)

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        world = self._world
        for _ in range(2 if world.happens(world.case.repeat) else 1):
            if world.happens(world.case.late):
                world.loop.create_task(self._later(to, envelope, world.rng.random() * 5))
            else:
                await world.inbox.send(to, envelope)

    async def _later(self, to: str, envelope: Envelope, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._world.inbox.send(to, envelope)
