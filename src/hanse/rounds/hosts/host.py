"""`StrategyHost`: where a strategy's own code runs; what it is asked, and what it answers.

A host makes pure calls: everything is in the arguments, so a call that dies is repeated. `LocalHost` runs built-in
strategies in this process; an app's own strategy, configuration and evaluation run in a worker process that implements
the same protocol, for which requests and answers have a form in JSON.
"""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hanse.core.records import Metrics, Reply
from hanse.rounds.events import BlobKey
from hanse.strategies import Ask, Close, PhasePlan
from hanse.strategies.strategy import Earlier, FoldInput


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
