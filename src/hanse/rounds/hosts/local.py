"""`LocalHost`: a strategy's code in this process: built-in ones at the server, everything in simulation."""

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from hanse.aggregation import ArraySource, BlobSink, BlobSource, Sink, Source
from hanse.aggregation.shares import Share, clipped
from hanse.core.arrays import Arrays, Layout
from hanse.core.codec import decode, encoded_size
from hanse.core.errors import NotFoundError, RefusedError, TaskError
from hanse.core.records import Config, Metrics
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.by_chunks import AHEAD, ChunkPlan, ChunkStore, by_chunks
from hanse.rounds.hosts.checking import remembered
from hanse.rounds.hosts.folding import can_share, fold
from hanse.rounds.hosts.host import Member, PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest
from hanse.rounds.hosts.items import Item, Refused
from hanse.rounds.hosts.planning import plan_phase
from hanse.strategies import Strategy

Part = tuple[int, Mapping[int, bytes]]
"""A blob's size, and hashes of some of its chunks."""
SMALL_BYTES = 1 << 20
"""Reductions that read less than this are done on the spot: a thread would take longer."""


class LocalHost:
    """Runs a strategy in this process: built-in ones at the server, everything in simulation.

    Args:
        threads: how many take ranges side by side; changes no bit.
        chunks: `blobs`, if its reads fetch whole chunks; then one thread reads them, in an order that suits.
        config: `f(round, site) -> dict`, the app's per-round configuration.
        evaluate: `f(arrays, round) -> metrics`, the app's evaluation at the server.
    """

    def __init__(
        self,
        strategy: Strategy,
        spec: RunSpec,
        blobs: BlobStore,
        *,
        threads: int | None = None,
        chunks: ChunkStore | None = None,
        config: Callable[[int, str], Config] | None = None,
        evaluate: Callable[[Arrays, int], Metrics] | None = None,
    ) -> None:
        self._strategy = strategy
        self._spec = spec
        self._blobs = blobs
        self._threads = min(4, os.cpu_count() or 1) if threads is None else threads
        self._chunks = chunks
        self._config = config
        self._evaluate = evaluate

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        return plan_phase(self._strategy, self._spec, request, self._config)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        if request.kind == "metrics":
            return ReduceAnswer(request.model, request.state, memory=request.memory)
        if request.kind == "adopt":
            return await adopt(request, self._blobs)
        return await self._fold(request)

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        if self._evaluate is None:
            raise TaskError("raised", "the app has no evaluation at the server")
        return self._evaluate(await load_arrays(self._blobs, model), round_)

    async def reduce_share(self, request: ReduceRequest, share: Share) -> tuple[Refused, list[Part]]:
        """Reduce a part of the range where others reduce the rest: see `folding.can_share`.

        The store must be one whose chunks several may write: its writers tell which they have written.

        Returns:
            What is refused, and for every output its size and the hashes of this share's chunks.

        Raises:
            As `reduce`.
        """
        refused, outputs = await self._reduced(request, share)
        parts = [] if refused else [output.part(share) for output in outputs]
        for output in outputs:
            output.abort()
        return refused, parts

    def memory_after(self, request: ReduceRequest) -> Mapping[str, Any]:
        """What the strategy remembers of a reduction."""
        return remembered(self._strategy, self._spec, request.memory, [member.about for member in request.members])

    def can_share(self, request: ReduceRequest) -> bool:
        """Whether several may do it."""
        return can_share(self._strategy, request.phase, request.kind)

    async def _fold(self, request: ReduceRequest) -> ReduceAnswer:
        memory = self.memory_after(request)
        refused, outputs = await self._reduced(request, None)
        if refused:
            for output in outputs:
                output.abort()
            return ReduceAnswer(None, refused=refused)
        keys = [await output.seal() for output in outputs]
        return ReduceAnswer(keys[0] if keys else None, tuple(keys[1:]), memory=memory)

    async def _reduced(self, request: ReduceRequest, share: Share | None) -> tuple[Refused, list["Output"]]:
        base = None if request.model is None else await self._source(request.model)
        states = [await self._source(key) for key in request.state]
        num_bytes = sum(m.reply.update.manifest.size for m in request.members if m.reply.update is not None)
        plan: ChunkPlan | None = None
        reading: AbstractContextManager[None] | None = None
        if base is not None and self._chunks is not None and self.can_share(request):
            updates = [m.reply.update for m in sorted(request.members, key=lambda m: m.position)]
            plan = by_chunks(self._strategy, self._spec, request.phase, base.layout, updates, share or Share(0, 1))
            self._chunks.hold(plan.hold)
            reading = self._chunks.reading_ahead(plan.order, AHEAD)
        items = [self._item(member) for member in request.members]  # which reads their layouts
        outputs: list[Output] = []

        def make_sink(layout: Layout) -> Sink:
            outputs.append(Output(self._blobs, request.scope, layout, share))
            return outputs[-1].sink

        def work() -> Refused:
            with nullcontext() if reading is None else reading:
                return walked()

        def walked() -> Refused:
            return fold(
                self._strategy,
                self._spec,
                items,
                make_sink,
                round_=request.round,
                size=request.size,
                base=base,
                states=states,
                memory=request.memory if share is not None else self.memory_after(request),
                threads=self._threads if num_bytes >= SMALL_BYTES and plan is None else 1,
                phase=request.phase,
                stretches=None if plan is None else plan.stretches,
            )

        try:
            refused = work() if num_bytes < SMALL_BYTES else await asyncio.to_thread(work)
        except BaseException:
            for output in outputs:
                output.abort()
            raise
        return refused, outputs

    def _item(self, member: Member) -> Item:
        reply, update = member.reply, member.reply.update
        source: Source | None = None
        wrong = ""
        if update is not None:
            try:
                if update.content is not None:
                    source = ArraySource(decode(update.content))
                else:
                    source = BlobSource(partial(self._blobs.read, update.scope, update.id), update.manifest.size)
            except (RefusedError, NotFoundError) as error:
                wrong = str(error)
        return Item(member.ordinal, member.position, member.about, reply.update_kind, source, wrong)

    async def _source(self, key: BlobKey) -> Source:
        manifest = await self._blobs.manifest(*key)
        return BlobSource(partial(self._blobs.read, *key), manifest.size)


class Output:
    """A blob that the walk writes, or a share of it."""

    def __init__(self, blobs: BlobStore, scope: str, layout: Layout, share: Share | None = None) -> None:
        self._scope = scope
        self._size = encoded_size(layout)
        self._writer = blobs.create(scope, self._size)
        write = self._writer.write
        self.sink = BlobSink(layout, write if share is None else clipped(write, share.span(self._size)))

    def part(self, share: Share) -> Part:
        """The blob's size, and the hashes of a share's chunks."""
        writer: Any = self._writer
        hashes: Mapping[int, bytes] = writer.hashes
        return self._size, {index: hashes[index] for index in share.chunks(self._size)}

    async def seal(self) -> BlobKey:
        """Make it readable; its key."""
        return self._scope, (await self._writer.seal()).id

    def abort(self) -> None:
        """Forget it."""
        self._writer.abort()


async def adopt(request: ReduceRequest, blobs: BlobStore) -> ReduceAnswer:
    """Take one site's arrays as they are: the initial model.

    Raises:
        StorageError, NotFoundError, IntegrityError: see `BlobStore`.
    """
    (member,) = request.members[:1]
    update = member.reply.update
    if update is None:
        return ReduceAnswer(None, refused={member.ordinal: "expected arrays, found none"})
    if update.content is not None:
        chunks = [(0, memoryview(update.content))] if update.content else []
    else:
        manifest = update.manifest
        spans = ((index, manifest.span(index)) for index in range(manifest.num_chunks))
        chunks = [(index, blobs.read(update.scope, manifest.id, *span)) for index, span in spans]
    await blobs.put(request.scope, update.manifest, chunks)
    return ReduceAnswer((request.scope, update.id))


async def load_arrays(blobs: BlobStore, key: BlobKey) -> Arrays:
    """A whole model, as views of the store's content where the store can.

    Raises:
        NotFoundError, CodecError, IntegrityError.
    """
    manifest = await blobs.manifest(*key)
    return decode(blobs.read(*key, 0, manifest.size))
