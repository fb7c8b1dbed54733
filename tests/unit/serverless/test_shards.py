"""A reduction that is shared out ends in the objects of one that is not."""

import asyncio
from typing import Any

import numpy as np
import pytest

from hanse.backends.memory import MemoryLedger
from hanse.backends.objectstore import ObjectBlobs, Objects
from hanse.core.arrays import Arrays
from hanse.core.blobs import manifest_of, rechunk
from hanse.core.codec import encode
from hanse.core.errors import UnavailableError
from hanse.core.ids import TaskId, model_scope, upload_scope
from hanse.core.records import BlobRef, Reply
from hanse.core.spec import RunSpec
from hanse.pipeline.request import JobRequest
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import Member, ReduceRequest
from hanse.rounds.hosts.local import LocalHost
from hanse.serverless import functions
from hanse.serverless.host import FunctionHost
from hanse.serverless.place import Place
from hanse.strategies import named

SIZE = 4_500_000
"""Elements: three chunks of float32, five of float64."""
UPDATES = 3


def arrays(seed: int, size: int = SIZE) -> Arrays:
    rng = np.random.default_rng(seed)
    return Arrays([("b", rng.random(7, np.float32)), ("w", rng.random(size - 7, np.float32))])


class World:
    def __init__(self, strategy: str, *, wrong: int = -1) -> None:
        store = pytest.importorskip("obstore.store", reason="needs the extra `objectstore`").MemoryStore()
        self.blobs = ObjectBlobs(Objects(store, "v1/north"))
        self.spec = RunSpec(strategy=strategy, rounds=3, initial="given")
        self.strategy, self.wrong = strategy, wrong
        request = JobRequest(
            "j", "x", "north", "anna", 1, "", manifest_of(b""), "", "app.py", "app", self.spec
        )  # fmt: skip
        nothing: Any = None
        self.place = Place(
            "north", MemoryLedger(), self.blobs, nothing, nothing, nothing, nothing, nothing, nothing, lambda: 0,
            shard_bytes=SIZE * 4, rows={"j": {"request": request.to_json()}},
        )  # fmt: skip

    async def put(self, scope: str, content: bytes) -> BlobKey:
        manifest = manifest_of(content)
        await self.blobs.put(scope, manifest, rechunk([content]))
        return scope, manifest.id

    async def request(self, round_: int, state: tuple[BlobKey, ...], model: BlobKey | None = None) -> ReduceRequest:
        model = model or await self.put(model_scope("j", "main", 0), encode(arrays(0)))
        members = []
        for n in range(UPDATES):
            task, site = TaskId("j", "main", round_, "train", n), f"s{n}"
            content = encode(arrays(round_ * 10 + n, SIZE - 1 if n == self.wrong else SIZE))
            scope, _ = await self.put(upload_scope(task, site), content)
            update = BlobRef(manifest_of(content), scope)
            kind = named(self.strategy, {}).update_kind
            members.append(Member(n, Reply(task, site, num_examples=n + 1, update=update, update_kind=kind), n, 0))
        scope = model_scope("j", "main", round_)
        return ReduceRequest(round_, "train", "fold", tuple(members), UPDATES, model, state, scope)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "fedmedian"])
async def test_shards_make_the_objects_of_one_reduction(strategy: str) -> None:
    world = World(strategy)
    request = await world.request(1, ())
    host = FunctionHost(world.place, "j", "main", world.spec)
    with pytest.raises(UnavailableError):
        await host.reduce(request)
    assert host.elsewhere is not None
    shards = host.elsewhere.shards
    assert len(shards) == UPDATES + 1
    first, *others = shards
    await asyncio.gather(*(functions.reduce(world.place, shard) for shard in others))
    with pytest.raises(UnavailableError):
        await host.reduce(request)  # one is missing
    await functions.reduce(world.place, first)
    await functions.reduce(world.place, first)  # twice is harmless
    found = await host.reduce(request)
    expected = await LocalHost(named(strategy, {}), world.spec, world.blobs).reduce(request)
    assert (found.model, found.state, found.memory) == (expected.model, expected.state, expected.memory)
    for scope, id in (found.model, *found.state):  # type: ignore[misc]
        assert world.blobs.read(scope, id, 0, 100)


async def test_what_is_wrong_is_refused_by_name() -> None:
    world = World("fedavg", wrong=1)
    request = await world.request(1, ())
    host = FunctionHost(world.place, "j", "main", world.spec)
    with pytest.raises(UnavailableError):
        await host.reduce(request)
    assert host.elsewhere is not None
    for shard in host.elsewhere.shards:
        await functions.reduce(world.place, shard)
    answer = await host.reduce(request)
    assert answer.refused is not None
    assert set(answer.refused) == {1}
    assert "layout" in answer.refused[1]


async def test_krum_is_reduced_by_one() -> None:
    world = World("fedkrum")
    world.place.blobs.hold(1)
    assert not LocalHost(named("fedkrum", {}), world.spec, world.blobs).can_share(await world.request(1, ()))
