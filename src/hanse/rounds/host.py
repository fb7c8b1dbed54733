"""Where a strategy's own code runs: `StrategyHost`, and `LocalHost`, which runs built-in ones in this process.

A host makes pure calls: everything is in the arguments, so a call that dies is repeated. The server runs an app's own
strategy, configuration and evaluation in a worker process that implements the same protocol.
"""

import asyncio
import base64
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from hanse.aggregation import ArraySource, BlobSink, BlobSource, Sink, Source
from hanse.aggregation.shares import Share, clipped
from hanse.core.arrays import Arrays, Layout
from hanse.core.codec import decode, encoded_size
from hanse.core.errors import ConfigError, HanseError, NotFoundError, RefusedError, TaskError
from hanse.core.ids import check_name
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Config, Metrics, Reply, pack_values
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.by_chunks import AHEAD, ChunkPlan, ChunkStore, by_chunks
from hanse.rounds.events import BlobKey
from hanse.rounds.folding import Item, Refused, can_share, fold, remembered, update_kind
from hanse.strategies import Ask, Close, Context, PhasePlan, Strategy
from hanse.strategies.catalogue import catalogue
from hanse.strategies.schedule import rate_at, rate_of
from hanse.strategies.strategy import Earlier, FoldInput

Part = tuple[int, Mapping[int, bytes]]
"""A blob's size, and hashes of some of its chunks."""
SMALL_BYTES = 1 << 20
"""Reductions that read less than this are done on the spot: a thread would take longer."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything a strategy needs to plan; see `Context`. `extends`: all of `sites` are asked in addition."""

    round: int
    phase_index: int
    sites: Sequence[str]
    busy: tuple[str, ...]
    previous: tuple[Earlier, ...]
    extends: bool
    refills: bool = False
    asked: tuple[str, ...] = ()
    memory: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For a worker: JSON, payloads in base 64."""
        return {
            "round": self.round,
            "phase_index": self.phase_index,
            "sites": list(self.sites),
            "busy": list(self.busy),
            "previous": [[e.site, e.num_examples, plain(e.metrics), plain(e.payload)] for e in self.previous],
            "extends": self.extends,
            "refills": self.refills,
            "asked": list(self.asked),
            "memory": dict(self.memory),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PlanRequest":
        """Read what `to_json` wrote."""
        return cls(
            value["round"],
            value["phase_index"],
            tuple(value["sites"]),
            tuple(value["busy"]),
            tuple(Earlier(s, n, unplain(m), unplain(p)) for s, n, m, p in value["previous"]),
            value["extends"],
            value["refills"],
            tuple(value["asked"]),
            value["memory"],
        )


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """A planned phase and what the machine must know about it."""

    phases: tuple[str, ...]
    plan: PhasePlan
    folds: bool
    order: str
    late: str
    update_kind: str

    def to_json(self) -> dict[str, Any]:
        """From a worker: JSON, payloads in base 64."""
        close = self.plan.close
        return {
            "phases": list(self.phases),
            "asks": [
                [a.site, a.call, plain(a.config), plain(a.payload), a.with_model, a.group] for a in self.plan.asks
            ],
            "close": list(dataclasses.astuple(close)),
            "folds": self.folds,
            "order": self.order,
            "late": self.late,
            "update_kind": self.update_kind,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PlanAnswer":
        """Read what `to_json` wrote."""
        asks = tuple(Ask(s, c, unplain(config), unplain(p), m, g) for s, c, config, p, m, g in value["asks"])
        return cls(
            tuple(value["phases"]),
            PhasePlan(asks, Close(*value["close"])),
            value["folds"],
            value["order"],
            value["late"],
            value["update_kind"],
        )


@dataclass(frozen=True, slots=True)
class Member:
    """One folded reply: where its update is, and its place; see `Folded`."""

    ordinal: int
    reply: Reply
    position: int
    staleness: int
    seconds: float = 0.0
    group: int = 0

    @property
    def about(self) -> FoldInput:
        """What the strategy may know of it."""
        reply = self.reply
        return FoldInput(reply.site, reply.num_examples, self.staleness, reply.metrics, self.seconds, self.group)


@dataclass(frozen=True, slots=True)
class ReduceRequest:
    """What to reduce, what the strategy remembers, and the scope for what comes out."""

    round: int
    phase: str
    kind: str
    members: tuple[Member, ...]
    size: int
    model: BlobKey | None
    state: tuple[BlobKey, ...]
    scope: str
    memory: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For a worker, which gets the arrays apart."""
        return {
            "round": self.round,
            "phase": self.phase,
            "kind": self.kind,
            "size": self.size,
            "num_states": len(self.state),
            "memory": dict(self.memory),
            "members": [
                [
                    m.ordinal,
                    m.position,
                    m.staleness,
                    m.reply.site,
                    m.reply.num_examples,
                    plain(m.reply.metrics),
                    m.reply.update_kind,
                    m.seconds,
                    m.group,
                ]
                for m in self.members
            ],
        }


@dataclass(frozen=True, slots=True)
class ReduceAnswer:
    """The new model, strategy state and memory; or the refused updates, by ordinal."""

    model: BlobKey | None
    state: tuple[BlobKey, ...] = ()
    refused: Mapping[int, str] | None = None
    memory: Mapping[str, Any] = field(default_factory=dict)


class StrategyHost(Protocol):
    """Runs a strategy's methods and the app's server-side functions."""

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """Plan a phase.

        Raises:
            ConfigError: it cannot be done with these sites. TaskError: user code failed for good.
            UnavailableError: it cannot be run now; again later.
        """
        ...

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """Reduce a closed phase.

        Raises:
            TaskError: user code failed for good. StorageError, UnavailableError: not now; again later.
        """
        ...

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """The server's own evaluation.

        Raises:
            TaskError: user code failed for good.
        """
        ...


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


def plan_phase(
    strategy: Strategy, spec: RunSpec, request: PlanRequest, config: Callable[[int, str], Config] | None
) -> PlanAnswer:
    """Let a strategy plan; merge the app's own configuration over the strategy's.

    Raises:
        ConfigError: it cannot be done with these sites. TaskError: the strategy answered nonsense.
    """
    named = f"strategy {strategy.name or type(strategy).__name__}"
    phases = tuple(strategy.phases(spec, request.round))
    if not 0 <= request.phase_index < len(phases):
        raise TaskError("bad_reply", f"{named}: round {request.round} has no phase {request.phase_index}")
    phase = phases[request.phase_index]
    if request.extends:
        spec = replace(spec, quorum=1, sample=1.0, over_select=0.0)
    context = Context(
        spec,
        request.round,
        phase,
        request.sites,
        request.busy,
        request.previous,
        request.extends or request.refills,
        request.asked,
        request.memory,
    )
    plan = strategy.plan(context)
    if catalogue().get(strategy.name) is not type(strategy):
        check_plan(strategy, plan, phases, request, named)
    if spec.lr is not None:
        lr = rate_at(rate_of("lr", spec.lr), request.round)
        asks = tuple(replace(ask, config={"lr": lr, **ask.config}) for ask in plan.asks)
        plan = replace(plan, asks=asks)
    if config is not None:
        asks = tuple(replace(ask, config={**ask.config, **config(request.round, ask.site)}) for ask in plan.asks)
        plan = replace(plan, asks=asks)
    kind = update_kind(strategy, spec)
    return PlanAnswer(phases, plan, strategy.folds(phase), strategy.order, strategy.late, kind)


def check_plan(strategy: Strategy, plan: Any, phases: Sequence[str], request: PlanRequest, named: str) -> None:
    """What an app's own strategy answered, before anything is made of it.

    Raises:
        TaskError: it cannot be carried out; what was expected and what was found.
    """

    def wrong(expected: str, found: Any) -> TaskError:
        return TaskError("bad_reply", f"{named}: expected {expected}, found {str(found)[:100]}")

    words = {"update_kind": ("values", "delta"), "order": ("position", "receipt"), "late": ("drop", "carry")}
    for trait, allowed in words.items():
        if getattr(strategy, trait) not in allowed:
            raise wrong(f"{trait} to be {' or '.join(allowed)}", getattr(strategy, trait))
    try:
        for phase in phases:
            check_name(phase, "phase")
    except (ConfigError, TypeError):
        raise wrong("names of phases, such as 'train'", list(phases)) from None
    if not isinstance(plan, PhasePlan) or not isinstance(plan.close, Close):
        raise wrong("plan() to return a PhasePlan(asks, Close(...))", type(plan).__name__)
    close = plan.close
    if not (type(close.count) is int and type(close.quorum) is int and 1 <= close.quorum <= close.count):
        raise wrong("Close with 1 ≤ quorum ≤ count", f"quorum={close.quorum}, count={close.count}")
    if not (type(close.refill) is int and close.refill >= 0):
        raise wrong("Close with a whole refill ≥ 0", close.refill)
    if close.by_group and not close.keep_in_flight:
        raise wrong("Close with keep_in_flight where it is by_group", close)
    if not (0 <= close.grace_s < 1e9 and 0 < close.deadline_s < 1e9):
        raise wrong("Close with grace_s ≥ 0 and deadline_s > 0", f"{close.grace_s} and {close.deadline_s}")
    asks: Sequence[Any] = plan.asks
    for ask in asks:
        if not isinstance(ask, Ask) or ask.site not in request.sites:
            raise wrong("plan() to ask available sites", getattr(ask, "site", ask))
        try:
            check_name(ask.call, "call")
            pack_values(ask.config, pb.Task().config)
        except (HanseError, TypeError, ValueError, AttributeError):
            raise wrong("asks with the name of a call, and a config of plain values", ask.call) from None
        if not isinstance(ask.payload, bytes):
            raise wrong("a payload of bytes", type(ask.payload).__name__)
        if type(ask.group) is not int:
            raise wrong("a whole group", type(ask.group).__name__)


async def load_arrays(blobs: BlobStore, key: BlobKey) -> Arrays:
    """A whole model, as views of the store's content where the store can.

    Raises:
        NotFoundError, CodecError, IntegrityError.
    """
    manifest = await blobs.manifest(*key)
    return decode(blobs.read(*key, 0, manifest.size))


def earlier(replies: Sequence[Reply]) -> tuple[Earlier, ...]:
    """What a strategy may see of the phase before."""
    return tuple(Earlier(reply.site, reply.num_examples, reply.metrics, reply.payload) for reply in replies)


def plain(value: Any) -> Any:
    """Configurations, metrics and payloads as JSON; bytes become an object that nothing else can be."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"map": {key: plain(item) for key, item in value.items()}}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def unplain(value: Any) -> Any:
    """Read what `plain` wrote."""
    if isinstance(value, dict):
        if "bytes" in value:
            return base64.b64decode(value["bytes"])
        return {key: unplain(item) for key, item in value["map"].items()}
    return [unplain(item) for item in value] if isinstance(value, list) else value
