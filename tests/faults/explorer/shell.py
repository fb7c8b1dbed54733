"""The fault-injecting shell: one life of a driver, whose seams are slow, fail, or are its last.

What is killed never runs on: the call hangs for ever, and so does every later one of that life.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hanse.backends.memory import Chunks, Grants, MemoryWriter
from hanse.core.blobs import Manifest
from hanse.core.errors import StorageError
from hanse.core.records import Envelope
from hanse.core.seams import BlobWriter, Delivery
from hanse.rounds.seams import Seams

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
        self._seams: Seams | None = None

    def seams(self) -> Seams:
        """This life's, always the same."""
        if self._seams is None:
            self._seams = self._make_seams()
        return self._seams

    def _make_seams(self) -> Seams:
        seed = self.world.case.seed
        if seed % 8 not in (1, 7):
            return Seams(_Ledger(self), _Blobs(self), _Inbox(self), self.links, overlap=seed % 2 == 1)
        order = Order(self)
        ledger, unhurried = (_Ordered(self, order, fenced=fenced) for fenced in (True, False))
        blobs = _Early(self, order)
        return Seams(ledger, blobs, _Inbox(self), self.links, overlap=True, unhurried=unhurried)

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


class Order:
    """Writes in the order in which they were begun, as the local backend's database makes them.

    One that is fenced is refused if one before it has failed and whoever began that has not learned of it yet.
    """

    def __init__(self, shell: Shell) -> None:
        self._loop = shell.world.loop
        self._waiting: deque[tuple[Callable[[], Awaitable[Any]], bool, asyncio.Future[Any]]] = deque()
        self._broken: set[asyncio.Future[Any]] = set()
        self._is_at_work = False

    def begin(self, work: Callable[[], Awaitable[Any]], *, fenced: bool) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((work, fenced, future))
        if not self._is_at_work:
            self._is_at_work = True
            self._loop.create_task(self._work())
        return future

    async def write(self, work: Callable[[], Awaitable[T]], *, fenced: bool) -> T:
        future = self.begin(work, fenced=fenced)
        try:
            result: T = await future
        except StorageError:
            self.forgive(future)
            raise
        return result

    def forgive(self, failed: "asyncio.Future[Any]") -> None:
        async def discard() -> None:
            self._broken.discard(failed)

        self.begin(discard, fenced=False)

    async def _work(self) -> None:
        while self._waiting:
            work, fenced, future = self._waiting.popleft()
            try:
                if fenced and self._broken:
                    raise StorageError("what it stands on was refused")
                result = await work()
            except StorageError as error:
                self._broken.add(future)
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)
        self._is_at_work = False


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

    async def delete_keys(self, keys: Sequence[str]) -> None:
        await self._shell.call(f"delete {' '.join(keys)}", self._real.delete_keys, keys)


class _Ordered(_Ledger):
    def __init__(self, shell: Shell, order: Order, *, fenced: bool) -> None:
        super().__init__(shell)
        self._order, self._fenced = order, fenced

    async def create(self, key: str, value: bytes) -> bool:
        return await self._order.write(lambda: super(_Ordered, self).create(key, value), fenced=self._fenced)

    async def compare_and_set(self, key: str, value: bytes, version: int) -> bool:
        work = super().compare_and_set
        return await self._order.write(lambda: work(key, value, version), fenced=self._fenced)

    async def delete(self, prefix: str) -> None:
        work = super().delete
        await self._order.write(lambda: work(prefix), fenced=False)


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


class _Early(_Blobs):
    """What is made can be read at once, and is kept in its turn."""

    def __init__(self, shell: Shell, order: Order) -> None:
        super().__init__(shell)
        self._order = order
        self._unsaved: dict[tuple[str, str], tuple[Manifest, bytes]] = {}

    async def manifest(self, scope: str, id: str) -> Manifest:
        found = self._unsaved.get((scope, id))
        return await super().manifest(scope, id) if found is None else found[0]

    def read(self, scope: str, id: str, start: int, stop: int) -> memoryview:
        found = self._unsaved.get((scope, id))
        return super().read(scope, id, start, stop) if found is None else memoryview(found[1])[start:stop]

    def create(self, scope: str, size: int) -> BlobWriter:
        return MemoryWriter(size, lambda manifest, content: self._keep(scope, manifest, bytes(content)), scope)

    async def delete_scope(self, scope: str) -> None:
        for key in [key for key in self._unsaved if key[0] == scope]:
            del self._unsaved[key]
        work = super().delete_scope
        await self._order.write(lambda: work(scope), fenced=False)

    async def _keep(self, scope: str, manifest: Manifest, content: bytes) -> None:
        self._unsaved[scope, manifest.id] = manifest, content
        self._save(scope, manifest, content, None)

    def _save(self, scope: str, manifest: Manifest, content: bytes, failed: "asyncio.Future[None] | None") -> None:
        if (scope, manifest.id) in self._unsaved:
            put = self._order.begin(lambda: self.put(scope, manifest, [(0, content)]), fenced=False)
            put.add_done_callback(lambda done: self._saved(scope, manifest, content, done))
        if failed is not None:
            self._order.forgive(failed)

    def _saved(self, scope: str, manifest: Manifest, content: bytes, done: "asyncio.Future[None]") -> None:
        if done.exception() is None:
            self._unsaved.pop((scope, manifest.id), None)
        else:
            self._shell.world.loop.call_later(1.0, self._save, scope, manifest, content, done)


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
