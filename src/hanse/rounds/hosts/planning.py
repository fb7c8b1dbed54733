"""Having a strategy plan a phase, and the checks of what an app's own one has planned."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from hanse.core.errors import ConfigError, HanseError, TaskError
from hanse.core.ids import check_name
from hanse.core.proto import hanse_pb2 as pb
from hanse.core.records import Config, Reply, pack_values
from hanse.core.spec import RunSpec
from hanse.rounds.hosts.host import PlanAnswer, PlanRequest
from hanse.rounds.hosts.items import update_kind
from hanse.strategies import Ask, Close, Context, PhasePlan, Strategy
from hanse.strategies.catalogue import catalogue
from hanse.strategies.schedule import rate_at, rate_of
from hanse.strategies.strategy import Earlier


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


def earlier(replies: Sequence[Reply]) -> tuple[Earlier, ...]:
    """What a strategy may see of the phase before."""
    return tuple(Earlier(reply.site, reply.num_examples, reply.metrics, reply.payload) for reply in replies)
