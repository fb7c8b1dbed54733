"""A virtual site: it keeps a journal, trains once a task, and answers until it is heard; updates are pure functions."""

import asyncio
import random
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import decode, encode
from hanse.core.errors import PolicyError
from hanse.core.ids import upload_scope
from hanse.core.records import BlobRef, Reply, Task
from hanse.core.seams import Delivery
from tests.faults.explorer.case import INITIAL

if TYPE_CHECKING:
    from tests.faults.explorer.shell import Shell
    from tests.faults.explorer.world import World

RETRY_S = 1.0


@lru_cache(4096)
def noise(site: str, round_: int) -> tuple[np.ndarray, np.ndarray]:
    """What a site adds in a round; exponents are spread, so that another order of sums gives other bits."""
    rng = random.Random(f"{site} {round_}")
    wide = np.array([rng.uniform(-1, 1) * 2.0 ** rng.randint(-60, 60) for _ in range(5)])
    narrow = np.array([rng.uniform(-1, 1) * 2.0 ** rng.randint(-30, 30) for _ in range(3)], np.float32)
    return wide, narrow


def weight_of(site: str) -> int:
    """A site's number of examples."""
    return 1 + int(site.rpartition("-")[2]) * 3


def train(site: str, task: Task, model: Arrays) -> Arrays:
    """The update of an honest site."""
    wide, narrow = noise(site, task.id.round)
    if task.update_kind == "delta":
        return Arrays([("w", wide), ("b", narrow)])
    return Arrays([("w", model["w"] * 0.5 + wide), ("b", model["b"] * np.float32(0.5) + narrow)])


class Site:
    """One site at work."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.up = True
        self.back = asyncio.Event()
        self.back.set()
        self.journal: dict[str, Reply] = {}
        self.denied: Counter[str] = Counter()
        self.trainings: dict[str, int] = {}

    async def live(self) -> None:
        """Take what comes, for ever."""
        world = self.world
        while True:
            await self.back.wait()
            for delivery in await world.inbox.receive(self.name, 4, 30.0):
                if not self.up or world.happens(world.faults.loss):
                    continue  # it comes again
                world.spawn(self.handle(delivery))
                if world.happens(world.faults.repeat):
                    world.spawn(self.handle(delivery))

    async def handle(self, delivery: Delivery) -> None:
        """One message: answer a task, forget a released one."""
        envelope, world = delivery.envelope, self.world
        if envelope.kind == "task":
            if world.faults.slow or world.faults.loss:
                await asyncio.sleep(world.rng.random() * world.rng.choice((0.1, 0.1, 4.0)))
            await self.answer(Task.unpack(envelope.body))
        await world.inbox.ack([delivery.receipt])

    async def answer(self, task: Task) -> None:
        """Train unless the journal has the reply; send it until it is heard."""
        name = str(task.id)
        if name not in self.journal:
            reply = self.compute(task)
            if name in self.journal:
                return
            self.trainings[name] = self.trainings.get(name, 0) + 1
            self.journal[name] = reply
        reply = self.journal[name]
        for _ in range(400):
            if await self._try(reply) or self.denied[name] > 4:
                return
            await asyncio.sleep(RETRY_S)

    async def _try(self, reply: Reply) -> bool:
        """Once over an unsure line; whether the reply need not be sent again."""
        world = self.world
        await self.back.wait()
        shell, run = world.shell, world.run
        if run is None or world.happens(world.faults.loss):
            return False
        if reply.update is not None and reply.update.scope and not await self._upload(shell, reply):
            return False
        calls = [world.spawn(world.serve(shell, run, reply))]
        if world.happens(world.faults.repeat):
            calls.append(world.spawn(world.serve(shell, run, reply)))
        await asyncio.wait([*calls, shell.gone], return_when=asyncio.FIRST_COMPLETED)
        if not calls[0].done() or world.happens(world.faults.loss):
            return False
        answer = calls[0].result()
        return answer != "again"

    async def _upload(self, shell: "Shell", reply: Reply) -> bool:
        assert reply.update is not None
        ref = reply.update
        try:
            await shell.links.put(self.name, ref.scope, ref.manifest)
        except PolicyError:  # released, or not yet granted by the server that has just begun
            self.denied[str(reply.task)] += 1
            return False
        content = self.world.contents[ref.id]
        await self.world.blobs.put(ref.scope, ref.manifest, rechunk([content]))
        self.world.num_uploads += 1
        return True

    # ---- user code ----

    def compute(self, task: Task) -> Reply:
        """What the site's code answers; sometimes nonsense."""
        world = self.world
        kind = world.rng.choice(("raised", "nan", "layout", "none")) if world.happens(world.faults.bad) else ""
        if kind in ("layout", "nan") and task.call == "parameters":
            kind = ""
        if kind == "raised":
            return Reply.failed(task.id, self.name, "raised", "ValueError")
        if task.call == "evaluate":
            loss = float("nan") if kind == "nan" else weight_of(self.name) / (1 + task.id.round)
            return Reply(task.id, self.name, num_examples=2, metrics={"loss": loss})
        if task.call == "advertise":
            return Reply(task.id, self.name, payload=weight_of(self.name).to_bytes(2, "big"))
        arrays = INITIAL if task.call == "parameters" else train(self.name, task, self._model(task))
        if kind == "none":
            return Reply(task.id, self.name, num_examples=1)
        if kind == "layout":
            arrays = Arrays([("w", np.zeros(2))])
        elif kind == "nan" and task.call == "train":
            arrays = Arrays([("w", np.full(5, np.nan)), ("b", np.zeros(3, np.float32))])
        return Reply(
            task.id,
            self.name,
            num_examples=weight_of(self.name),
            metrics={"loss": float(task.id.round)},
            update=self._keep(task, arrays),
            update_kind=task.update_kind,
        )

    def _keep(self, task: Task, arrays: Arrays) -> BlobRef:
        content = encode(arrays)
        if not self.world.case.stored:
            return BlobRef.inline(content)
        manifest = manifest_of(content)
        self.world.contents[manifest.id] = content
        return BlobRef(manifest, upload_scope(task.id, self.name))

    def _model(self, task: Task) -> Arrays:
        assert task.model is not None
        assert task.model.content is not None
        return decode(task.model.content)
