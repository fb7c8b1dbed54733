"""Where a strategy's own code runs: `StrategyHost`, and `LocalHost`, which runs built-in ones in this process.

A host makes pure calls: everything is in the arguments, so a call that dies is repeated. The server runs an app's own
strategy, configuration and evaluation in a worker process that implements the same protocol.
"""

import asyncio
import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from hanse.aggregation import ArraySource, BlobSink, BlobSource, Source, UpdatesRefused, Zeros, aggregate
from hanse.core.arrays import Arrays, ArraySpec, Layout
from hanse.core.blobs import INLINE_BYTES, manifest_of
from hanse.core.codec import decode, encoded_size
from hanse.core.errors import ConfigError, RefusedError, TaskError
from hanse.core.records import Config, Metrics, Reply
from hanse.core.seams import BlobStore
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey
from hanse.strategies import Ask, Close, Context, PhasePlan, Strategy
from hanse.strategies.strategy import Earlier, FoldInput

SMALL_BYTES = 1 << 20
"""Reductions that read less than this are done on the spot: a thread would take longer."""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything a strategy needs to plan. `extends`: exactly `sites` are asked in addition to those before."""

    round: int
    phase_index: int
    sites: tuple[str, ...]
    busy: tuple[str, ...]
    previous: tuple[Earlier, ...]
    extends: bool

    def to_json(self) -> dict[str, Any]:
        """For a worker: JSON, payloads in base 64."""
        return {
            "round": self.round,
            "phase_index": self.phase_index,
            "sites": list(self.sites),
            "busy": list(self.busy),
            "previous": [[e.site, e.num_examples, plain(e.metrics), plain(e.payload)] for e in self.previous],
            "extends": self.extends,
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
            "asks": [[a.site, a.call, plain(a.config), plain(a.payload), a.with_model] for a in self.plan.asks],
            "close": [close.count, close.quorum, close.grace_s, close.deadline_s, close.keep_in_flight],
            "folds": self.folds,
            "order": self.order,
            "late": self.late,
            "update_kind": self.update_kind,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "PlanAnswer":
        """Read what `to_json` wrote."""
        asks = tuple(Ask(s, c, unplain(config), unplain(p), m) for s, c, config, p, m in value["asks"])
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
    """One folded reply: where its update is, and its place."""

    ordinal: int
    reply: Reply
    position: int
    staleness: int


@dataclass(frozen=True, slots=True)
class ReduceRequest:
    """What to reduce, and the scope for what comes out."""

    round: int
    phase: str
    kind: str
    members: tuple[Member, ...]
    size: int
    model: BlobKey | None
    state: tuple[BlobKey, ...]
    scope: str

    def to_json(self) -> dict[str, Any]:
        """For a worker, which gets the arrays apart."""
        return {
            "round": self.round,
            "phase": self.phase,
            "kind": self.kind,
            "size": self.size,
            "num_states": len(self.state),
            "members": [
                [
                    m.ordinal,
                    m.position,
                    m.staleness,
                    m.reply.site,
                    m.reply.num_examples,
                    plain(m.reply.metrics),
                    m.reply.update_kind,
                ]
                for m in self.members
            ],
        }


@dataclass(frozen=True, slots=True)
class ReduceAnswer:
    """The new model and strategy state; or the refused updates, by ordinal."""

    model: BlobKey | None
    state: tuple[BlobKey, ...] = ()
    refused: Mapping[int, str] | None = None


class StrategyHost(Protocol):
    """Runs a strategy's methods and the app's server-side functions."""

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """Plan a phase.

        Raises:
            ConfigError: it cannot be done with these sites. TaskError: user code failed for good.
        """
        ...

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """Reduce a closed phase.

        Raises:
            TaskError: user code failed for good. StorageError: the disk refuses; again later.
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
        config: Callable[[int, str], Config] | None = None,
        evaluate: Callable[[Arrays, int], Metrics] | None = None,
    ) -> None:
        self._strategy = strategy
        self._spec = spec
        self._blobs = blobs
        self._threads = min(4, os.cpu_count() or 1) if threads is None else threads
        self._config = config
        self._evaluate = evaluate

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        return plan_phase(self._strategy, self._spec, request, self._config)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        if request.kind == "metrics":
            return ReduceAnswer(request.model, request.state)
        refused = wrong_updates(request, self._strategy.update_kind)
        if refused:
            return ReduceAnswer(None, refused=refused)
        if request.kind == "adopt":
            return await self._adopt(request)
        return await self._fold(request)

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        if self._evaluate is None:
            raise TaskError("raised", "the app has no evaluation at the server")
        return self._evaluate(await load_arrays(self._blobs, model), round_)

    async def _adopt(self, request: ReduceRequest) -> ReduceAnswer:
        update = request.members[0].reply.update
        assert update is not None  # wrong_updates has refused it otherwise
        if update.content is not None:
            chunks = [(0, memoryview(update.content))] if update.content else []
        else:
            manifest, store = update.manifest, self._blobs
            chunks = [
                (index, store.read(update.scope, manifest.id, *manifest.span(index)))
                for index in range(manifest.num_chunks)
            ]
        await self._blobs.put(request.scope, update.manifest, chunks)
        return ReduceAnswer((request.scope, update.id))

    async def _fold(self, request: ReduceRequest) -> ReduceAnswer:
        if request.model is None:
            raise TaskError("refused", "there is no model to fold into")
        base = await self._source(request.model)
        sources, refused = self._sources(request)
        if refused:
            return ReduceAnswer(None, refused=refused)
        weights = self._strategy.weigh(
            [FoldInput(m.reply.site, m.reply.num_examples, m.staleness, m.reply.metrics) for m in request.members]
        )
        names = self._strategy.state_names()
        wide = wide_layout(base.layout) if names else base.layout
        states: list[Source] = [await self._source(key) for key in request.state] or [Zeros(wide) for _ in names]
        outputs = [Output(self._blobs, request.scope, layout) for layout in (base.layout, *(wide for _ in names))]

        def work() -> None:
            own_update = type(self._strategy).update is not Strategy.update
            aggregate(
                sources,
                [member.position for member in request.members],
                weights,
                rule=self._strategy.reducer(),
                out=outputs[0].sink,
                kind="delta" if self._strategy.update_kind == "delta" else "values",
                base=base,
                update=self._strategy.update if own_update else None,
                states=states,
                state_outs=[output.sink for output in outputs[1:]],
                scalars=self._strategy.scalars(request.round),
                plan_size=request.size,
                threads=self._threads if base.layout.nbytes * len(sources) >= SMALL_BYTES else 1,
            )

        try:
            if base.layout.nbytes * len(sources) < SMALL_BYTES:
                work()
            else:
                await asyncio.to_thread(work)
        except UpdatesRefused as error:
            by_position = {member.position: member.ordinal for member in request.members}
            for output in outputs:
                output.abort()
            return ReduceAnswer(None, refused={by_position[p]: reason for p, reason in error.reasons.items()})
        except BaseException:
            for output in outputs:
                output.abort()
            raise
        keys = [await output.seal() for output in outputs]
        return ReduceAnswer(keys[0], tuple(keys[1:]))

    def _sources(self, request: ReduceRequest) -> tuple[list[Source], dict[int, str]]:
        sources: list[Source] = []
        refused: dict[int, str] = {}
        for member in request.members:
            update = member.reply.update
            assert update is not None  # wrong_updates has refused it otherwise
            try:
                if update.content is not None:
                    sources.append(ArraySource(decode(update.content)))
                else:
                    read = partial(self._blobs.read, update.scope, update.id)
                    sources.append(BlobSource(read, update.manifest.size))
            except RefusedError as error:
                refused[member.ordinal] = str(error)
        return sources, refused

    async def _source(self, key: BlobKey) -> Source:
        manifest = await self._blobs.manifest(*key)
        return BlobSource(partial(self._blobs.read, *key), manifest.size)


class Output:
    """A blob that the walk writes: in memory while it is small, through a writer of the store otherwise."""

    def __init__(self, blobs: BlobStore, scope: str, layout: Layout) -> None:
        self._blobs, self._scope = blobs, scope
        size = encoded_size(layout)
        self._buffer = bytearray(size) if size <= INLINE_BYTES else None
        self._writer = None if self._buffer is not None else blobs.create(scope, size)
        write = self._write_buffer if self._writer is None else self._writer.write
        self.sink = BlobSink(layout, write)

    def _write_buffer(self, start: int, content: memoryview) -> None:
        assert self._buffer is not None
        self._buffer[start : start + len(content)] = content

    async def seal(self) -> BlobKey:
        """Make it readable; its key."""
        if self._writer is not None:
            return self._scope, (await self._writer.seal()).id
        assert self._buffer is not None
        manifest = manifest_of(self._buffer)
        await self._blobs.put(self._scope, manifest, [(0, self._buffer)] if self._buffer else [])
        return self._scope, manifest.id

    def abort(self) -> None:
        """Forget it."""
        if self._writer is not None:
            self._writer.abort()


def plan_phase(
    strategy: Strategy, spec: RunSpec, request: PlanRequest, config: Callable[[int, str], Config] | None
) -> PlanAnswer:
    """Let a strategy plan; merge the app's own configuration over the strategy's.

    Raises:
        ConfigError: it cannot be done with these sites.
    """
    phases = strategy.phases(spec, request.round)
    if not 0 <= request.phase_index < len(phases):
        raise ConfigError(f"strategy {strategy.name}: round {request.round} has no phase {request.phase_index}")
    phase = phases[request.phase_index]
    if request.extends:
        spec = replace(spec, quorum=1, sample=1.0, over_select=0.0)
    context = Context(spec, request.round, phase, request.sites, request.busy, request.previous)
    plan = strategy.plan(context)
    if config is not None:
        asks = tuple(replace(ask, config={**ask.config, **config(request.round, ask.site)}) for ask in plan.asks)
        plan = replace(plan, asks=asks)
    return PlanAnswer(phases, plan, strategy.folds(phase), strategy.order, strategy.late, strategy.update_kind)


def wrong_updates(request: ReduceRequest, update_kind: str) -> dict[int, str]:
    """Replies that cannot be folded whatever their arrays are, by ordinal."""
    refused: dict[int, str] = {}
    for member in request.members:
        reply = member.reply
        if reply.update is None:
            refused[member.ordinal] = "expected arrays, found none"
        elif request.kind == "fold" and reply.update_kind != update_kind:
            refused[member.ordinal] = f"expected {update_kind}, found {reply.update_kind}"
    return refused


def wide_layout(layout: Layout) -> Layout:
    """The same arrays in float64: what a server optimiser keeps."""
    return Layout(tuple(ArraySpec(spec.name, np.dtype(np.float64), spec.shape) for spec in layout.specs))


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
