"""The fault-injecting shell: one life of a driver, whose seams are slow, fail, or are its last.

What is killed never runs on: the call hangs for ever, and so does every later one of that life.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hanse.backends.memory import Chunks, Grants
from hanse.core.blobs import Manifest
from hanse.core.errors import StorageError
from hanse.core.records import Envelope
from hanse.core.seams import BlobWriter, Delivery
from hanse.rounds.driver import Seams

if TYPE_CHECKING:
    from tests.faults.explorer.world import World

T = TypeVar("T")
EPOCH_MS = 1_700_000_000_000


class Shell:
    """One life of a driver.

    Args:
        gone: done with `killed` or `paused` once the others should count it out.
    """

    def __init__(self, world: "World") -> None:
        self.world = world
        self.life = world.lives
        self.gone: asyncio.Future[str] = world.loop.create_future()
        self.dead = False
        self.is_up = False
        self.links = Grants(world.blobs)
        self._thawed: asyncio.Future[None] | None = None

    def seams(self) -> Seams:
        overlap = self.world.case.seed % 2 == 1
        return Seams(_Ledger(self), _Blobs(self), _Inbox(self), self.links, overlap=overlap)

    async def call(self, what: str, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """One seam call, before and after which something may happen."""
        world = self.world
        await self._gate()
        fault, after = world.draw_fault()
        if fault == "slow":
            await asyncio.sleep(world.rng.random() * 0.2)
            await self._gate()
        elif fault and not after:
            await self._strike(fault, what)
        result = await work(*args)
        if fault and fault != "slow" and after:
            await self._strike(fault, what)
        return result

    async def _gate(self) -> None:
        if self._thawed is not None:
            await self._thawed
        if self.dead:
            await self.world.loop.create_future()

    async def _strike(self, fault: str, what: str) -> None:
        world = self.world
        if fault == "disk":
            raise StorageError(f"{what}: no room")
        if self.gone.done():
            return
        if fault == "kill":
            self.dead = True
            self.gone.set_result("killed")
        else:
            self._thawed = world.loop.create_future()
            world.loop.call_later(world.rng.choice((0.5, 3.0, 30.0)), self._thaw)
            self.gone.set_result("paused")
        await self._gate()

    def _thaw(self) -> None:
        thawed, self._thawed = self._thawed, None
        assert thawed is not None
        self.dead = not self.is_up  # one that comes back while it loads would rightly take over
        thawed.set_result(None)

    # ---- time ----

    def now_ms(self) -> int:
        return EPOCH_MS + round(self.world.loop.time() * 1000)

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        self.world.loop.call_at((at_ms - EPOCH_MS) / 1000, lambda: None if self.dead else callback())


class _Ledger:
    def __init__(self, shell: Shell) -> None:
        self._shell, self._real = shell, shell.world.ledger

    async def create(self, key: str, value: bytes) -> bool:
        world = self._shell.world
        try:
            return await self._shell.call(f"create {key}", self._create, key, value)
        except StorageError:
            world.row_unsure(key)
            raise

    async def _create(self, key: str, value: bytes) -> bool:
        created = await self._real.create(key, value)
        if created:
            self._shell.world.row_created(self._shell, key)
        return created

    async def create_many(self, rows: Sequence[tuple[str, bytes]]) -> list[bool]:
        return [await self.create(key, value) for key, value in rows]

    async def get(self, key: str) -> tuple[bytes, int]:
        return await self._shell.call(f"get {key}", self._real.get, key)

    async def query(self, prefix: str, after: str | None = None, limit: int = 1000) -> list[tuple[str, bytes, int]]:
        return await self._shell.call(f"query {prefix}", self._real.query, prefix, after, limit)

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        return await self._shell.call(f"set {key}", self._set, key, value, version)

    async def _set(self, key: str, value: bytes, version: int) -> bool:
        done = await self._real.compare_and_set(key, value, version)
        if done and key.startswith("run/"):
            self._shell.world.run_written(self._shell, value)
        return done

    async def delete(self, prefix: str) -> None:
        await self._shell.call(f"delete {prefix}", self._real.delete, prefix)


class _Blobs:
    def __init__(self, shell: Shell) -> None:
        self._shell, self._real = shell, shell.world.blobs

    async def put(self, scope: str, manifest: Manifest, chunks: Chunks) -> None:
        await self._shell.call(f"put {scope}", self._put, scope, manifest, chunks)

    async def _put(self, scope: str, manifest: Manifest, chunks: Chunks) -> None:
        self._shell.world.blob_put(self._shell, scope)
        await self._real.put(scope, manifest, chunks)

    async def missing(self, scope: str, manifest: Manifest) -> list[int]:
        return await self._shell.call(f"missing {scope}", self._real.missing, scope, manifest)

    async def manifest(self, scope: str, id: str) -> Manifest:
        return await self._shell.call(f"manifest {scope}", self._real.manifest, scope, id)

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        return self._real.read(scope, id, start, stop)

    def create(self, scope: str, size: int) -> BlobWriter:
        return self._real.create(scope, size)

    def path(self, scope: str, id: str) -> Path | None:
        return None

    async def delete_scope(self, scope: str) -> None:
        await self._shell.call(f"delete_scope {scope}", self._real.delete_scope, scope)


class _Inbox:
    def __init__(self, shell: Shell) -> None:
        self._shell, self._real = shell, shell.world.inbox

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        await self._shell.call(f"send {envelope.id}", self._send, to, envelope, durable)

    async def _send(self, to: str, envelope: Envelope, durable: bool) -> None:
        self._shell.world.task_sent(self._shell, envelope)
        await self._real.send(to, envelope, durable=durable)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        raise NotImplementedError

    async def extend(self, receipts: Sequence[str], seconds: float) -> None:
        raise NotImplementedError

    async def ack(self, receipts: Sequence[str]) -> None:
        raise NotImplementedError
