"""`GroupHost`: a group's own run, led by the federation above: it trains when it is asked to, from what it is given.

A group (`hanse.strategies.groups`) is a federation with machine, driver, sites and records like any other. This host
stands around that of its strategy and makes three phases of its own, in which nobody is asked anything:

    receive    takes the model that came from above in the place of the group's own
    rest       nothing happens in this round: the federation above has gone on without the group, or is done
    (waits)    no plan can be made until something is asked: the run is `starved`, and asks again when woken

Rounds of the group have the numbers that a group which never missed one would give them: those from (t − 1) κ + 1 to
t κ belong to round t above, so that random streams are those of a simulation. What was received and answered is in the
strategy's memory, and so in the run's record: whoever takes the run up goes on, and answers the same once more.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from hanse.core.blobs import Chunk, Manifest
from hanse.core.errors import ConfigError, TaskError, UnavailableError
from hanse.core.records import Config, Metrics, Reply
from hanse.core.seams import BlobStore
from hanse.rounds.events import BlobKey
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest, ReduceAnswer, ReduceRequest, StrategyHost, plain, unplain
from hanse.rounds.record import GROUP_BYTES, GROUP_MEMBERS, SEVERAL, mean_metrics
from hanse.strategies import Close, PhasePlan

KEY = "group"
"""Where this host's own memory is, in the strategy's."""
RECEIVE, REST, PAST = "receive", "rest", "past"
WAITS = "waits for the federation above to ask for something"
CALLS = ("parameters", "train", "evaluate")
Memory = Mapping[str, Any]


class Host(StrategyHost, Protocol):
    """A strategy's host that has something to close."""

    async def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(frozen=True, slots=True)
class Order:
    """What the federation above asks of a group.

    Args:
        call: `parameters`, `train` or `evaluate`.
        round: above, from 1.
        config: what members' code gets, below what is theirs.
        model: the model's manifest, and `chunks` its content; None for `parameters`.
    """

    call: str
    round: int
    config: Config
    model: Manifest | None = None
    chunks: Callable[[], Iterable[tuple[int, Chunk]]] = tuple

    @property
    def key(self) -> list[Any]:
        """What tells it from another: one that is asked again is the same."""
        return [self.call, self.round, "" if self.model is None else self.model.id]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a group came to.

    Args:
        model: where its arrays are; None after an evaluation.
        fingerprint: the numerics of its members' workers; several, where they differ.
    """

    num_examples: int
    metrics: Metrics
    model: BlobKey | None
    fingerprint: str = ""

    @classmethod
    def of(cls, replies: Sequence[Reply], model: BlobKey | None, moved: int) -> "Answered":
        """Of the members' replies that were folded."""
        num_examples, metrics = together([(reply.num_examples, reply.metrics) for reply in replies], moved)
        return cls(num_examples, metrics, model, SEVERAL.join(sorted({reply.fingerprint for reply in replies})))

    def to_json(self) -> list[Any]:
        """As a JSON array."""
        return [self.num_examples, plain(self.metrics), self.model, self.fingerprint]

    @classmethod
    def from_json(cls, value: Sequence[Any]) -> "Answered":
        """Read what `to_json` wrote."""
        num_examples, metrics, model, fingerprint = value
        return cls(num_examples, unplain(metrics), None if model is None else (model[0], model[1]), fingerprint)


def together(answers: Sequence[tuple[int, Metrics]], moved: int) -> tuple[int, dict[str, Any]]:
    """What a group says of its members' answers: examples of all, mean metrics, how many members, bytes within it."""
    metrics = mean_metrics("evaluate", answers)
    return sum(count for count, _ in answers), {**metrics, GROUP_MEMBERS: len(answers), GROUP_BYTES: moved}


class GroupHost:
    """The host of a group's own run.

    Args:
        inner: plans and reduces within the group.
        rounds: κ, of the group for one above.
        wake: has the run plan again.
    """

    def __init__(self, inner: Host, blobs: BlobStore, rounds: int, wake: Callable[[], None]) -> None:
        self._inner = inner
        self._blobs = blobs
        self._rounds = rounds
        self._wake = wake
        self._order: Order | None = None
        self._answer: asyncio.Future[Answered] | None = None
        self._is_done = False

    # ---- from above ----

    async def ask(self, order: Order) -> Answered:
        """Have the group do what is asked; what it had been asked before is given up.

        Raises:
            TaskError: `refused`, it has gone on to a later round, or has no such thing.
        """
        answer: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._order, self._answer = order, answer
        self._wake()
        try:
            return await answer
        finally:
            if self._answer is answer:
                self._order = self._answer = None

    def finish(self) -> None:
        """The job above is over: nothing more is asked."""
        self._is_done = True
        self._wake()

    # ---- the run's ----

    async def plan(self, request: PlanRequest) -> PlanAnswer:
        """See `StrategyHost.plan`."""
        memory, order = request.memory.get(KEY, {}), self._order
        active = memory.get("active")
        if request.extends or request.refills:
            return await self._within(request, memory)
        if self._is_done:
            return _nobody(request, REST)
        if order is not None and order.key != active:
            if self._is_answered(order, memory):
                raise ConfigError(WAITS)
            if self._last(order.round) < request.round:
                self._refuse(f"this group has gone on to round {request.round} of its own; asked was {order.key[:2]}")
                raise ConfigError(WAITS)
            return _nobody(request, RECEIVE, more=True)
        if active is None:
            raise ConfigError(WAITS)
        return await self._within(request, memory)

    async def reduce(self, request: ReduceRequest) -> ReduceAnswer:
        """See `StrategyHost.reduce`."""
        memory = dict(request.memory.get(KEY, {}))
        if request.phase == REST:
            return ReduceAnswer(request.model, request.state, memory=request.memory)
        if request.phase == RECEIVE:
            return await self._received(request, memory)
        others = {name: value for name, value in request.memory.items() if name != KEY}
        answer = await self._inner.reduce(replace(request, memory=others))
        if answer.refused:
            return answer
        replies = [member.reply for member in request.members]
        if request.kind == "adopt":
            found = Answered.of(replies, answer.model, 0)
            memory["initial"] = replace(found, num_examples=0, metrics={}).to_json()
            return replace(answer, memory={**answer.memory, KEY: memory})
        memory["moved"] = memory.get("moved", 0) + await self._moved(request)
        if (active := memory.get("active")) is not None and request.round == self._last(active[1]):
            model = answer.model if active[0] == "train" else None
            found = Answered.of(replies, model, memory.pop("moved"))
            memory |= {"active": None, "answered": [active, found.to_json()]}
            if self._order is not None and self._order.key == active:
                self._give(found)
        return replace(answer, memory={**answer.memory, KEY: memory})

    async def evaluate(self, model: BlobKey, round_: int) -> Metrics:
        """See `StrategyHost.evaluate`."""
        return await self._inner.evaluate(model, round_)

    async def close(self) -> None:
        """Let go of the inner one."""
        await self._inner.close()

    # ---- details ----

    async def _moved(self, request: ReduceRequest) -> int:
        """Bytes of this phase's models and updates, of the members that count."""
        size = 0 if request.model is None else (await self._blobs.manifest(*request.model)).size
        updates = [member.reply.update for member in request.members]
        return size * len(updates) + sum(update.manifest.size for update in updates if update is not None)

    def _last(self, round_: int) -> int:
        return round_ * self._rounds

    async def _within(self, request: PlanRequest, memory: Memory) -> PlanAnswer:
        call, round_, _ = memory["active"]
        last = self._last(round_)
        if request.round < (last if call == "evaluate" else last - self._rounds + 1):
            return _nobody(request, REST)
        inner = replace(
            request,
            phase_index=int(call == "evaluate"),
            previous=(),
            memory={name: value for name, value in request.memory.items() if name != KEY},
        )
        answer = await self._inner.plan(inner)
        config = unplain(memory["config"])
        asks = tuple(replace(ask, config={**config, **ask.config}) for ask in answer.plan.asks)
        more = request.round == last  # what comes next belongs to this round, too, if it is an evaluation
        return replace(answer, phases=_phases(request, call, more=more), plan=replace(answer.plan, asks=asks))

    async def _received(self, request: ReduceRequest, memory: dict[str, Any]) -> ReduceAnswer:
        order = self._order
        if order is None or order.model is None:
            raise UnavailableError("the federation above has not sent its model again yet")
        await self._blobs.put(request.scope, order.model, order.chunks())
        memory |= {"active": order.key, "config": plain(order.config), "moved": 0}
        return ReduceAnswer((request.scope, order.model.id), request.state, memory={**request.memory, KEY: memory})

    def _is_answered(self, order: Order, memory: Memory) -> bool:
        """Give what there is already, or say that there will be none."""
        if order.call == "parameters":
            initial = memory.get("initial")
            if initial is None:
                self._refuse("this group was not to be asked for an initial model")
            else:
                self._give(Answered.from_json(initial))
            return True
        answered = memory.get("answered")
        if answered is None or answered[0] != order.key:
            return False
        self._give(Answered.from_json(answered[1]))
        return True

    def _give(self, answered: Answered) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answered)
        self._order = self._answer = None

    def _refuse(self, reason: str) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(TaskError("refused", reason))
        self._order = self._answer = None


def _phases(request: PlanRequest, phase: str, *, more: bool) -> tuple[str, ...]:
    """This round's, as far as they are known: the machine counts them and calls this one by its name."""
    return (*[PAST] * request.phase_index, phase, *([RECEIVE] if more else []))


def _nobody(request: PlanRequest, phase: str, *, more: bool = False) -> PlanAnswer:
    """A phase in which nobody is asked anything."""
    plan = PhasePlan((), Close(0, 0))
    return PlanAnswer(_phases(request, phase, more=more), plan, False, "position", "drop", "values")
