"""A driver on a bench: the real `Run` over memory, sites played by the test, time turned by hand."""

import asyncio
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hanse.backends.memory import MemoryStore
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import decode, encode
from hanse.core.errors import StorageError
from hanse.core.ids import model_scope, upload_scope
from hanse.core.records import BlobRef, Envelope, Reply, Task
from hanse.core.seams import Delivery
from hanse.core.spec import RunSpec
from hanse.rounds import machine
from hanse.rounds.driver.run import Run
from hanse.rounds.hosts.local import LocalHost
from hanse.rounds.record import RoundRecord
from hanse.rounds.seams import Seams
from hanse.strategies import Strategy

START = Arrays([("w", np.array([1.0, -2.0, 0.5])), ("n", np.array([2.0], np.float32))])


class HandClock:
    """Time that goes on when the test says so."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0

    def now_ms(self) -> int:
        return self.ms

    def call_at(self, at_ms: int, callback: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self.waiting, (at_ms, self._number, callback))

    async def forward(self, seconds: float) -> None:
        """Call what is due until then, in order."""
        until = self.ms + round(seconds * 1000)
        while self.waiting and self.waiting[0][0] <= until:
            at_ms, _, callback = heapq.heappop(self.waiting)
            self.ms = max(self.ms, at_ms)
            callback()
            await rest()
        self.ms = until


async def rest() -> None:
    """Let everything that can happen now happen."""
    for _ in range(50):
        await asyncio.sleep(0)


@dataclass
class Sent:
    """An inbox that keeps what is sent; it may be told to refuse."""

    envelopes: list[Envelope] = field(default_factory=list)
    refuse: int = 0

    async def send(self, to: str, envelope: Envelope, *, durable: bool = True) -> None:
        if self.refuse:
            self.refuse -= 1
            raise StorageError("no room")
        self.envelopes.append(envelope)

    async def receive(self, who: str, max: int = 1, wait_s: float = 20.0) -> list[Delivery]:
        raise NotImplementedError

    async def extend(self, receipts: object, seconds: float) -> None:
        raise NotImplementedError

    async def ack(self, receipts: object) -> None:
        raise NotImplementedError


class Bench:
    """One run and everything around it."""

    def __init__(self, strategy: Strategy, spec: RunSpec) -> None:
        self.strategy, self.spec = strategy, spec
        self.store = MemoryStore.open()
        self.clock = HandClock()
        self.sent = Sent()
        self.run: Run = None  # type: ignore[assignment]
        self.events: list[dict[str, Any]] = []

    def seams(self) -> Seams:
        return Seams(self.store.ledger, self.store.blobs, self.sent, self.store.links)

    def host(self) -> LocalHost:
        return LocalHost(self.strategy, self.spec, self.store.blobs, threads=1)

    async def start(self, *sites: str) -> "Bench":
        content = encode(START)
        key = (model_scope("j", "c", 0), manifest_of(content).id)
        await self.store.blobs.put(key[0], manifest_of(content), rechunk([content]))
        state = machine.begin("j", "c", self.spec, key)
        self.run = await Run.create(state, self.seams(), self.host(), self.clock)
        self.run.observers.append(self.events.append)
        await self.run.start()
        await self.run.sites_changed(sites)
        return self

    async def restart(self, *sites: str) -> Run:
        """Another driver takes over; the old one is returned, alive."""
        old = self.run
        self.run = await Run.load("j", "c", self.seams(), self.clock, lambda spec: self.host())
        self.run.observers.append(self.events.append)
        await self.run.resume(sites)
        return old

    # ---- sites ----

    def tasks(self) -> dict[int, Task]:
        """Every task that was ever sent, by ordinal."""
        found = [Task.unpack(envelope.body) for envelope in self.sent.envelopes if envelope.kind == "task"]
        return {task.id.ordinal: task for task in found}

    def model(self, ordinal: int) -> Arrays:
        """What a task brings to its site."""
        ref = self.tasks()[ordinal].model
        assert ref is not None
        assert ref.content is not None
        return decode(ref.content)

    def reply(self, ordinal: int, *values: float, stored: bool = False, **options: Any) -> Reply:
        task = self.tasks()[ordinal]
        update = None
        if values:
            content = encode(Arrays([("w", np.array(values[:3])), ("n", np.array(values[3:], np.float32))]))
            update = BlobRef.inline(content)
            if stored:
                update = BlobRef(update.manifest, upload_scope(task.id, task.site))
        return Reply(task.id, task.site, update=update, update_kind=task.update_kind, **{"num_examples": 1, **options})

    async def answer(self, ordinal: int, *values: float, **options: Any) -> str:
        outcome, _ = await self.run.take(self.reply(ordinal, *values, **options))
        await self.run.settle()
        await rest()
        return outcome

    # ---- results ----

    async def records(self) -> list[RoundRecord]:
        return list((await self.run.result()).rounds)

    def rows(self, prefix: str) -> list[str]:
        return [key for key in self.store.ledger._rows if key.startswith(prefix)]

    def scopes(self, part: str) -> list[str]:
        return sorted(scope for scope in self.store.blobs._scopes if part in scope)
