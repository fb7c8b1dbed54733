"""A site of one schedule of functions: a real link, and little else; it may be hostile."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hanse.backends.memory import MemoryBlobs
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import canonical_json, decode, encode
from hanse.core.errors import HanseError, PolicyError, UnavailableError
from hanse.core.ids import SERVER, TaskId, upload_scope
from hanse.core.records import BlobRef, Envelope, Reply, Task
from hanse.site.over_queues import QueueLink
from hanse.trust.envelopes import sign_envelope
from tests.faults.explorer.enrolled import EVE, FEDERATION, JOB, member, signed
from tests.faults.explorer.function_places import Unsure
from tests.faults.explorer.site import train, weight_of

if TYPE_CHECKING:
    from tests.faults.explorer.functions import World


class Site:
    """A site: a real link, and in place of the agent the little that a schedule needs. Its journal survives crashes."""

    def __init__(self, world: "World", name: str) -> None:
        self.world = world
        self.name = name
        self.member = member("site", name)
        self.journal: dict[str, Reply] = {}
        self.decided = ""
        self.active = False
        self.counted: Counter[str] = Counter()
        self.link: QueueLink | None = None
        self._life: list[asyncio.Task[Any]] = []
        self._busy: set[str] = set()

    def start(self) -> None:
        link = self.link = QueueLink(
            lambda: self.member,
            deliver=self.deliver,
            accepted=lambda id, outcome, reason: None,
            holding=list,
            facts=dict,
            software="test",
            inbox=Unsure(self.world),
            fetch=self,
            server_record=member("server", "server").signed_record,
        )
        self._life = [self.world.loop.create_task(link.run())]
        if self.decided:
            self._decide()

    def crash(self) -> None:
        """What was in memory is lost; messages come again."""
        for task in self._life:
            task.cancel()
        self._busy.clear()
        self.world.loop.call_later(self.world.rng.random() * 20, self.start)

    def spawn(self, work: Any) -> None:
        self._life.append(self.world.loop.create_task(work))

    async def deliver(self, envelope: Envelope, count: int) -> None:
        assert self.link is not None
        match envelope.kind:
            case "propose":
                self.decided = "accept"
                self.active = True
                self._decide()
                self.link.done("propose", envelope.id)
            case "task":
                task = Task.unpack(envelope.body)
                if not self.active:
                    self.link.done("task", envelope.id)  # a copy that came after the end
                elif str(task.id) not in self._busy:
                    self._busy.add(str(task.id))
                    self.spawn(self._work(task))
            case "release":
                self.link.done("release", envelope.id)
            case "end":
                self.active, self.decided = False, ""
                self.link.done("end", envelope.id)

    def _decide(self) -> None:
        body = canonical_json({"v": 1, "job": JOB, "decision": "accept", "reason": ""})
        assert self.link is not None
        self.link.send(signed(self.name, "decision", f"decision/{JOB}", body, by=self.member))

    async def _work(self, task: Task) -> None:
        world, name = self.world, str(task.id)
        # The longest outlast the time for which a message is hidden: it comes again, and finds its task at work.
        await asyncio.sleep(world.rng.random() * (100 if world.happens(world.case.slow) else 2))
        if world.happens(world.case.crash):
            self.crash()
            return
        if name not in self.journal:
            try:
                reply, content = await self._answer(task)
            except HanseError as error:
                world.refusals[type(error).__name__] += 1
                reply, content = Reply.failed(task.id, self.name, "lost", str(error)), b""
            self.journal[name] = reply
            self.counted[name] += 1
            if self.name == EVE and world.case.hostile:
                await self._misbehave(task, content)
        self._busy.discard(name)
        assert self.link is not None
        self.link.send(signed(self.name, "reply", name, self.journal[name].pack(), by=self.member))

    async def _answer(self, task: Task) -> tuple[Reply, bytes]:
        model = await self._model(task)
        if task.call == "evaluate":
            return Reply(task.id, self.name, num_examples=weight_of(self.name), metrics={"loss": 0.5}), b""
        arrays = self._large(task, model) if self.world.case.large else train(self.name, task, model)
        hostile = self.world.case.hostile if self.name == EVE else ""
        content = encode(_spoilt(arrays, hostile))
        if hostile in ("garbage", "pickle"):
            content = (b"\x80\x04\x95" if hostile == "pickle" else b"x") + content[3:]
        told = content[::-1] if hostile == "hash" else content
        ref = BlobRef(manifest_of(told), upload_scope(task.id, self.name), None if len(content) > 65536 else content)
        if ref.content is None and hostile != "hash":
            await self._upload(ref, content, hostile)
        return (
            Reply(
                task.id,
                self.name,
                num_examples=weight_of(self.name),
                update=ref,
                update_kind=task.update_kind,
                base="" if task.model is None else task.model.id,
            ),
            content,
        )

    def _large(self, task: Task, model: Arrays) -> Arrays:
        shift = 2.0 ** (task.id.round % 3) * weight_of(self.name) / 7
        return Arrays([("w", model["w"] * 0.5 + shift), ("b", model["b"] + np.float32(shift))])

    async def _model(self, task: Task) -> Arrays:
        ref = task.model
        assert ref is not None
        if ref.content is not None:
            return decode(ref.content)
        store = MemoryBlobs()
        assert self.link is not None
        while await store.missing(ref.scope, ref.manifest):
            try:
                await self.link.connection.download(store, ref.scope, ref.manifest)
            except UnavailableError:
                await asyncio.sleep(1.0)
        return decode(store.read(ref.scope, ref.id, 0, ref.manifest.size))

    async def _upload(self, ref: BlobRef, content: bytes, hostile: str) -> None:
        if hostile == "unuploaded":
            return
        store = MemoryBlobs()
        await store.put(ref.scope, ref.manifest, rechunk([content]))
        assert self.link is not None
        while True:
            try:
                return await self.link.connection.upload(store, ref.scope, ref.manifest, place=ref.scope)
            except UnavailableError:
                await asyncio.sleep(1.0)

    async def _misbehave(self, task: Task, content: bytes) -> None:
        """Beside its own answer."""
        world = self.world
        ordinals = range(max(0, task.id.ordinal - 4), task.id.ordinal + 5)
        victims = [TaskId(task.id.job, task.id.component, task.id.round, task.id.phase, n) for n in ordinals]
        match world.case.hostile:
            case "forged":
                for victim, name in itertools.product(victims, world.sites[:-1]):
                    poison = Reply(victim, name, num_examples=10**6, metrics={"loss": -1.0}).pack()
                    by_eve = signed(name, "reply", str(victim), poison, by=self.member)
                    await world.inbox.send(SERVER, by_eve)
                    await world.inbox.send(SERVER, replace(by_eve, sig=b""))
                ended = Envelope(SERVER, "site-0", f"end/{JOB}", "end", b"{}", FEDERATION, JOB)
                await world.inbox.send("site-0", sign_envelope(self.member.keys.signing, ended))
            case "another's task":
                for victim in victims:
                    if victim != task.id:
                        mine = Reply(victim, EVE, num_examples=10**6).pack()
                        await world.inbox.send(SERVER, signed(EVE, "reply", str(victim), mine, by=self.member))
            case "another's prefix":
                assert self.link is not None
                other = manifest_of(b"x" * 70000)
                for op, scope in (("put", upload_scope(task.id, "site-0")), ("get", upload_scope(task.id, "site-0"))):
                    question = {"op": op, "scope": scope, "size": other.size, "hashes": other.hashes.hex()}
                    for _ in range(100):
                        try:
                            await self.link._ask({**question, "chunks": [0]})
                        except UnavailableError:
                            continue
                        except PolicyError:
                            world.refusals["PolicyError"] += 1
                            break
                        world.problems.append("a link into another site's scope")
                        break
            case _:
                return

    # ---- `Fetch` ----

    async def get(self, url: str, headers: Sequence[tuple[str, str]], max_bytes: int) -> bytes:
        scope, id, index = url.split(" ")
        manifest = await self.world.blobs.manifest(scope, id)
        return bytes(self.world.blobs.read(scope, id, *manifest.span(int(index))))

    async def put(self, url: str, headers: Sequence[tuple[str, str]], content: bytes) -> None:
        scope, _, _ = url.split(" ")
        manifest = manifest_of(content)
        await self.world.blobs.put(scope, manifest, rechunk([content]))


def _spoilt(arrays: Arrays, hostile: str) -> Arrays:
    if hostile == "shape":
        return Arrays([("w", arrays["w"][:-1]), ("b", arrays["b"])])
    if hostile == "nan":
        wide = arrays["w"].copy()
        wide[0] = np.nan
        return Arrays([("w", wide), ("b", arrays["b"])])
    return arrays
