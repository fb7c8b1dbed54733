"""What a strategy is: it plans phases, weighs what came back, and says how the model moves.

A strategy is a frozen value with pure methods: everything it needs arrives in its arguments, so a call that dies
is repeated and any shell may make it. It never sees a list of updates: it names a reducer (a Fold, Select or
Gather of `aggregation`), which walks ranges of the stored updates, and an elementwise `update`, which moves the
model on the same ranges.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np

from hanse.aggregation import Fold, Gather, Select, WeightedMean
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.core.quickly import maker
from hanse.core.records import Config, Metrics
from hanse.core.spec import RunSpec
from hanse.strategies.selection import CANDIDATES, selection_of
from hanse.strategies.whole import Answers, Totals, WholeUpdates

Memory = Mapping[str, Any]
"""What a strategy knows from earlier rounds: plain JSON, kept with the run."""
NOTHING: Memory = MappingProxyType({})

Reducer = Fold[Any] | Select | Gather | WholeUpdates | Totals | Answers


@dataclass(frozen=True, slots=True)
class Earlier:
    """What one site answered in the phase before, without arrays."""

    site: str
    num_examples: int
    metrics: Metrics
    payload: bytes


@dataclass(frozen=True, slots=True)
class Context:
    """What a strategy may look at when it plans.

    Args:
        round: counts from 1; 0 is the asking for initial parameters.
        phase: the phase that is planned.
        sites: available sites that the job may ask, sorted by name, without those still at work. A sequence, and in
            simulation a very long one: look things up in it rather than walk over it.
        busy: sites still at work on tasks of an earlier phase (`keep_in_flight`).
        previous: what the folded replies of the phase before answered, in order of position.
        extends: the phase is open, and this plan comes on top of it: all of `sites` are asked if it misses its
            quorum, some of them if it is to be refilled (see `Close.refill`).
        asked: where it extends, who was asked before in this phase of this round, one name for every task.
        memory: what `Strategy.remember` answered last.
    """

    spec: RunSpec
    round: int
    phase: str
    sites: Sequence[str]
    busy: tuple[str, ...] = ()
    previous: tuple[Earlier, ...] = ()
    extends: bool = False
    asked: tuple[str, ...] = ()
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Ask:
    """One task that a phase wants. Its position in the plan is its place in the cohort.

    Args:
        group: see `Close.by_group`.
    """

    site: str
    call: str
    config: Config = field(default_factory=dict)
    payload: bytes = b""
    with_model: bool = True
    group: int = 0


_ask = maker(Ask)


@dataclass(frozen=True, slots=True)
class Close:
    """When a phase closes.

    Args:
        count: replies that are wanted; with that many the phase closes after `grace_s`.
        quorum: replies without which the phase has failed, 1 ≤ quorum ≤ count.
        grace_s: seconds to wait for the rest once `count` are there (0 closes at once).
        deadline_s: seconds after which it closes with what it has, if that is a quorum.
        keep_in_flight: unanswered tasks stay at work over the close (FedBuff).
        refill: while fewer than so many are at work, the phase is planned again for every reply (0: never).
        by_group: close with the first group of asks of which nobody is awaited, whatever `count`, and fold that group
            alone; the others stay at work. Needs `keep_in_flight`.
    """

    count: int
    quorum: int
    grace_s: float = 0.0
    deadline_s: float = 3600.0
    keep_in_flight: bool = False
    refill: int = 0
    by_group: bool = False


@dataclass(frozen=True, slots=True)
class PhasePlan:
    """Who is asked what, and when the phase closes."""

    asks: tuple[Ask, ...]
    close: Close


@dataclass(frozen=True, slots=True)
class FoldInput:
    """What a strategy knows of one reply when it weighs it.

    Args:
        staleness: closing round − the task's round.
        seconds: from the asking to the receipt, by the server's clock.
        group: as it was asked.
    """

    site: str
    num_examples: int
    staleness: int
    metrics: Metrics
    seconds: float = 0.0
    group: int = 0


@dataclass(frozen=True)
class Strategy:
    """FedAvg-shaped defaults: ask the sampled sites, weigh by examples, average, replace the model.

    A subclass is the difference. Fields are its parameters: numbers, strings and booleans only.
    """

    name: ClassVar[str] = ""
    update_kind: ClassVar[str] = "values"
    order: ClassVar[str] = "position"
    """`position` (canonical), or `receipt`: folded in the order written in the close record (asynchronous)."""
    late: ClassVar[str] = "drop"
    """What happens to a reply after its phase closed: `drop`, or `carry` into the next close with its staleness."""
    wants: ClassVar[tuple[str, ...]] = ()
    """Metrics that a site's training must answer, finite and ≥ 0: sites find the names in `config["wants"]`."""
    has_client_part: ClassVar[bool] = False
    """Whether sites do a part of it: they must find it in the app, given to `hs.App` and not made at the server."""
    stepwise: ClassVar[bool] = False
    """True for a protocol of phases: `reducer_of` is shown the (small) model and answers `Totals` or `Answers`."""
    needs_model: ClassVar[bool] = True
    """False where a round begins from no model (analytics): what is reduced stands for itself, and may be nothing."""

    # ---- planning ----

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """The phases of one round, in order. Phases that fold arrays into the model: see `folds`."""
        every = spec.evaluate_every
        first = (CANDIDATES,) if selection_of(spec).num_candidates(1) else ()
        return (*first, "train", "evaluate") if every and round_ % every == 0 else (*first, "train")

    def folds(self, phase: str) -> bool:
        """Whether the replies of `phase` carry updates that are reduced into the model."""
        return phase == "train"

    def plan(self, context: Context) -> PhasePlan:
        """Who is asked in this phase. Only deterministic use of its argument.

        Raises:
            ConfigError: it cannot be done with these sites.
        """
        if context.phase == "evaluate":
            return self._everyone(context, "evaluate")
        if context.phase == CANDIDATES:
            return self._candidates(context)
        return self._sampled(context, context.phase)

    def config(self, context: Context, site: str) -> Config:
        """What the site's code gets as `config`, besides `round`."""
        return {"wants": list(self.wants)} if self.wants and context.phase == "train" else {}

    def initial(self, arrays: Arrays) -> Arrays:
        """The first model: what the app or a site gave, and whatever else this strategy lets travel with it."""
        return arrays

    def shown(self, arrays: Arrays) -> Arrays:
        """What `initial` was given, of a model that it extended: this is what the app's evaluation sees."""
        return arrays

    # ---- folding ----

    def wrong(self, reply: FoldInput) -> str:
        """Why a reply that trained cannot be folded, judged by what it says of itself; empty if it can."""
        return wrong_metrics(reply.metrics, self.wants)

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """The weight of each update; by default its number of examples, or 1 where no site counted any."""
        counts = [float(reply.num_examples) for reply in replies]
        return counts if any(counts) else [1.0] * len(counts)

    @property
    def weighs_by(self) -> str:
        """What `weigh` comes to where no reply's weight depends on the others: `examples`, or `equal`; otherwise "".

        `examples`: the reply's own number, or 1 for each where no site counted any. A simulation adds updates up as
        they come where it is told; it does not call `weigh` then.
        """
        return "examples" if type(self).weigh is Strategy.weigh else ""

    def reducer(self) -> Reducer:
        """How updates become one vector."""
        return WeightedMean()

    def reducer_of(self, phase: str, model: Arrays | None) -> Reducer:
        """How the updates of this phase become the next model, where phases differ; by default `reducer()`.

        Args:
            model: what is known so far, for `stepwise` strategies; None otherwise, and before the first phase.
        """
        return self.reducer()

    # ---- moving the model ----

    def state_names(self) -> tuple[str, ...]:
        """Names of vectors as long as the model that the server keeps between rounds (momentum…); zero at first."""
        return ()

    def remember(self, spec: RunSpec, memory: Memory, replies: Sequence[FoldInput]) -> Memory:
        """What is to be known after these replies were folded; by default what was known before.

        It is asked before the updates are read. Should one of them be refused then, it is asked again about the rest,
        with what was known before.

        Plain JSON, a few bytes a site at most; `plan` finds it in its context and `scalars` as an argument. Call the
        inherited one, which is that of the run's selection, and add to what it answers.
        """
        return selection_of(spec).remember(memory, replies)

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """Numbers for `update` that depend on the round (bias corrections, schedules) or on `remember`'s answer."""
        return {}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block of the new model, elementwise.

        Args:
            model: float64, `(block,)`: the model before.
            reduced: float64, `(block,)`: the reduced updates (their values, or their delta, by `update_kind`).
            state: float64, `(block,)` for each of `state_names`, changed in place.

        Returns:
            float64, `(block,)`.
        """
        return reduced if self.update_kind == "values" else np.asarray(model + reduced)

    @property
    def replaces(self) -> bool:
        """Whether `update` is the default: then the reduced values are the model, and no base is read."""
        return type(self).update is Strategy.update and self.update_kind == "values"

    @property
    def can_compress(self) -> bool:
        """Whether updates may be compressed, and so be changes: not if one is folded as values into another model."""
        return self.update_kind == "delta" or (self.order == "position" and self.late == "drop")

    # ---- as plain data ----

    def params(self) -> dict[str, Any]:
        """The parameters as JSON values."""
        return dataclasses.asdict(self)

    # ---- for subclasses ----

    def _sampled(self, context: Context, call: str) -> PhasePlan:
        spec = context.spec
        wanted = cohort_size(spec, len(context.sites) + len(context.busy))
        asked = min(len(context.sites), math.ceil(wanted * (1 + spec.over_select)))
        chosen = sample_sites(context, asked)
        return self._close(context, chosen, call, min(wanted, len(chosen)))

    def _candidates(self, context: Context) -> PhasePlan:
        """Some evaluate, so that the selection may choose those who train."""
        known = len(context.sites) + len(context.busy)
        wanted = selection_of(context.spec).num_candidates(cohort_size(context.spec, known))
        chosen = sample_sites(context, min(len(context.sites), wanted))
        return self._close(context, chosen, "evaluate", len(chosen))

    def _same(self, context: Context, call: str, *, quorum: int | None) -> PhasePlan:
        """Within a round, those whose answers to the phase before counted; in its first phase, a sampled cohort.

        Args:
            quorum: how many of them must answer again; None for all.
        """
        before = {earlier.site for earlier in context.previous}
        if not before:
            return self._sampled(context, call)
        chosen = [site for site in context.sites if site in before]
        if not chosen:
            raise ConfigError(f"phase {context.phase}: expected a site that took part in the phase before, found none")
        spec = replace(context.spec, quorum=1)
        plan = self._close(replace(context, spec=spec), chosen, call, len(chosen))
        needed = len(before) if quorum is None else min(quorum, len(before))
        return replace(plan, close=replace(plan.close, count=max(needed, len(chosen)), quorum=needed))

    def _everyone(self, context: Context, call: str) -> PhasePlan:
        return self._close(context, context.sites, call, len(context.sites))

    def _close(self, context: Context, chosen: Sequence[str], call: str, count: int) -> PhasePlan:
        spec = context.spec
        quorum = count if spec.quorum is None else spec.quorum
        if not chosen or len(chosen) < quorum:
            raise ConfigError(
                f"round {context.round}, phase {context.phase}: expected at least {max(quorum, 1)} sites, "
                f"found {len(chosen)} available"
            )
        if type(self).config is Strategy.config:  # the same for all
            config = {"round": context.round, **self.config(context, chosen[0])}
            asks = tuple([_ask(site, call, config, b"", True, 0) for site in chosen])
        else:
            asks = tuple(Ask(site, call, {"round": context.round, **self.config(context, site)}) for site in chosen)
        return PhasePlan(asks, Close(max(count, quorum), quorum, spec.grace_s, spec.deadline_s))


def cohort_size(spec: RunSpec, available: int) -> int:
    """How many replies a round wants of `available` sites, at least the quorum where there are so many."""
    size = spec.sample if type(spec.sample) is int else max(1, round(spec.sample * available))
    return min(available, max(int(size), spec.quorum or 1))


def sample_sites(context: Context, count: int) -> Sequence[str]:
    """`count` of the available sites, as the run's selection chooses; in order of name."""
    if count >= len(context.sites):
        return context.sites
    return selection_of(context.spec).choose(context, context.sites, count) if count else ()


def check_number(
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Check a strategy's parameter, which may have come from outside; both ends belong to the range unless open.

    Raises:
        ConfigError: not a number, not finite, or out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e300
    if number and low <= value <= high and not (open_low and value == low) and not (open_high and value == high):
        return
    lower = f"{'above' if open_low else 'from'} {low:g}"
    upper = "" if high == math.inf else f" {'below' if open_high else 'to'} {high:g}"
    raise ConfigError(f"{name}: expected a number {lower}{upper}, found {value!r}"[:200])


def wrong_metrics(metrics: Metrics, wants: Sequence[str]) -> str:
    """The first of the wanted metrics that is no finite number ≥ 0, in words; empty if all are there."""
    for name in wants:
        value = metrics.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]  # a number
            found = "none" if value is None else str(value) if number else type(value).__name__
            return f"expected a metric {name!r}, finite and ≥ 0, found {found}"
    return ""


def number_in(reply: FoldInput, name: str) -> float:
    """A metric that `Strategy.wrong` has looked at."""
    value = reply.metrics[name]
    assert isinstance(value, int | float)
    return float(value)


def check_count(name: str, value: Any, low: int) -> None:
    """Check a strategy's parameter that counts something.

    Raises:
        ConfigError: not a whole number, or below `low`.
    """
    if type(value) is not int or not low <= value < 2**31:
        raise ConfigError(f"{name}: expected a whole number from {low}, found {value!r}"[:200])
