"""A reduction over chunks fetches each once, holds few, and makes the bits of a reduction that does neither."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import hanse.aggregation.shares
import hanse.backends.objectstore.blobs
import hanse.core.blobs
from hanse.aggregation import codec_named
from hanse.aggregation.canonical import GROUP
from hanse.aggregation.compression import encode_update
from hanse.aggregation.shares import Share
from hanse.backends.objectstore import ObjectBlobs, Objects
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode
from hanse.core.ids import TaskId, model_scope, upload_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts import by_chunks as module
from hanse.rounds.hosts.host import Member, ReduceRequest
from hanse.rounds.hosts.local import LocalHost
from hanse.strategies import named

CHUNK, UPDATES = 4096, 11
SIZES = (5, 700, 1, 3, 2000, 0, 40, 1500)
"""Elements: of several arrays in one chunk, and of several chunks in one array."""


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for each in (hanse.core.blobs, hanse.backends.objectstore.blobs, hanse.aggregation.shares):
        monkeypatch.setattr(each, "CHUNK_BYTES", CHUNK)
    for each in (hanse.core.blobs, hanse.backends.objectstore.blobs, module):
        monkeypatch.setattr(each, "INLINE_BYTES", 64)


class World:
    """Updates in an object store that counts what is fetched from it and notes how many chunks were held at most."""

    def __init__(self, strategy: str, **spec: Any) -> None:
        store = pytest.importorskip("obstore.store", reason="needs the extra `objectstore`").MemoryStore()
        self.blobs = ObjectBlobs(Objects(store, "v1/north"))
        self.strategy, self.spec = named(strategy, {}), RunSpec(strategy=strategy, rounds=3, initial="given", **spec)
        self.fetched: Counter[str] = Counter()
        self.held = 0
        fetch = self.blobs._objects.get_now

        def counted(key: str) -> bytes:
            self.fetched[key] += "/up/" in key and "/C/" in key
            self.held = max(self.held, len(self.blobs._chunks._kept))
            return fetch(key)

        self.blobs._objects.get_now = counted  # type: ignore[method-assign]

    async def put(self, scope: str, content: bytes) -> BlobKey:
        manifest = manifest_of(content)
        await self.blobs.put(scope, manifest, rechunk([content]))
        return scope, manifest.id

    async def request(self, bad: int = -1) -> ReduceRequest:
        model = await self.put(model_scope("j", "main", 0), encode(arrays(99)))
        members = []
        for n in range(UPDATES):
            task, site = TaskId("j", "main", 1, "train", n), f"s{n}"
            content = encode(arrays(n, np.nan if n == bad else 0.0))
            scope, _ = await self.put(upload_scope(task, site), content)
            update = BlobRef(manifest_of(content), scope)
            reply = Reply(task, site, num_examples=n + 1, update=update, update_kind=self.strategy.update_kind)
            members.append(Member(n, reply, n, 0))
        scope = model_scope("j", "main", 1)
        return ReduceRequest(1, "train", "fold", tuple(members), UPDATES, model, (), scope)


def arrays(seed: int, more: float = 0.0) -> Arrays:
    rng = np.random.default_rng(seed)
    made = [rng.normal(size=size).astype("<f8" if n % 3 == 2 else "<f4") for n, size in enumerate(SIZES)]
    for array in made:
        array[:: CHUNK // 32] += more
    return Arrays((f"a{n}", array) for n, array in enumerate(made))


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedmedian"])
async def test_each_chunk_is_fetched_once(strategy: str) -> None:
    world = World(strategy)
    request = await world.request()
    expected = await LocalHost(world.strategy, world.spec, world.blobs).reduce(request)
    world.blobs._chunks.forget("")
    world.fetched.clear()
    world.held = 0
    found = await LocalHost(world.strategy, world.spec, world.blobs, chunks=world.blobs).reduce(request)
    assert (found.model, found.state) == (expected.model, expected.state)
    headers = {member.reply.update.manifest.hash_of(0).hex() for member in request.members if member.reply.update}
    twice = {key for key, count in world.fetched.items() if count > 1}
    assert {key.rpartition("/")[2] for key in twice} <= headers  # of the first chunk, the layout was read before
    assert max(world.fetched.values()) <= 2
    if strategy != "fedmedian":
        assert world.held <= GROUP + 1 + len(world.strategy.state_names()) < UPDATES


@pytest.mark.parametrize("of", [2, 3])
async def test_a_share_reads_its_part_and_the_layout(of: int) -> None:
    world = World("fedavg")
    request = await world.request()
    chunks = sum(m.reply.update.manifest.num_chunks for m in request.members if m.reply.update is not None)
    parts: list[dict[int, bytes]] = []
    for number in range(of):
        world.blobs._chunks.forget("")
        world.fetched.clear()
        host = LocalHost(world.strategy, world.spec, world.blobs, chunks=world.blobs)
        refused, outputs = await host.reduce_share(request, Share(number, of))
        assert not refused
        assert world.fetched.total() <= -(-chunks // UPDATES // of) * UPDATES + UPDATES
        parts.append(dict(outputs[0][1]))
    whole = await LocalHost(world.strategy, world.spec, world.blobs).reduce(request)
    assert whole.model is not None
    manifest = await world.blobs.manifest(*whole.model)
    assert b"".join(part[n] for part in parts for n in sorted(part)) == manifest.hashes


async def test_whose_fault_it_is_costs_one_reading_more() -> None:
    world = World("fedavg")
    request = await world.request(bad=6)
    answer = await LocalHost(world.strategy, world.spec, world.blobs, chunks=world.blobs).reduce(request)
    assert answer.refused is not None
    assert set(answer.refused) == {6}
    assert "not finite" in answer.refused[6]
    assert max(world.fetched.values()) <= 3


async def test_a_chunk_that_was_changed_is_refused_by_name() -> None:
    world = World("fedavg")
    request = await world.request()
    update = request.members[7].reply.update
    assert update is not None
    key = hanse.backends.objectstore.blobs.chunk_key(update.scope, update.manifest.hash_of(2))
    await world.blobs._objects.put(key, bytes(CHUNK))
    answer = await LocalHost(world.strategy, world.spec, world.blobs, chunks=world.blobs).reduce(request)
    assert answer.refused is not None
    assert set(answer.refused) == {7}
    assert "does not match its hash" in answer.refused[7]


async def test_compressed_updates_end_in_the_same_bits() -> None:
    codec = {"name": "int8"}
    world = World("fedavg", compression=codec)
    request = await world.request()
    members = []
    for member in request.members:
        assert member.reply.update is not None
        sent = encode_update(arrays(member.ordinal), codec_named(codec), np.random.default_rng(member.ordinal))
        content = encode(sent)
        scope, _ = await world.put(member.reply.update.scope, content)
        reply = replace(member.reply, update=BlobRef(manifest_of(content), scope), update_kind="delta")
        members.append(replace(member, reply=reply))
    request = replace(request, members=tuple(members))
    expected = await LocalHost(world.strategy, world.spec, world.blobs).reduce(request)
    world.blobs._chunks.forget("")
    world.fetched.clear()
    found = await LocalHost(world.strategy, world.spec, world.blobs, chunks=world.blobs).reduce(request)
    assert found.model == expected.model is not None
    assert max(world.fetched.values()) == 1


async def test_what_is_wanted_next_is_on_its_way() -> None:
    world = World("fedavg")
    request = await world.request()
    order = [
        (m.reply.update.scope, m.reply.update.manifest, n)
        for m in request.members[:3]
        if m.reply.update is not None
        for n in range(m.reply.update.manifest.num_chunks)
    ]
    with world.blobs.reading_ahead(order, 2):
        for at in (0, 1, 5):  # two are passed over
            scope, manifest, index = order[at]
            world.blobs.read(scope, manifest.id, *manifest.span(index))
        keys = {hanse.backends.objectstore.blobs.chunk_key(s, m.hash_of(n)) for s, m, n in order}
        assert len(world.blobs._chunks._ahead._coming) == 2  # type: ignore[union-attr]
    assert set(world.fetched) <= keys
    assert world.blobs._chunks._ahead is None
