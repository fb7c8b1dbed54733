"""The seam between a simulation's shell and its engines: the shell decides, an engine computes.

The shell (`shell.py`) plans, keeps the time, and says which replies are folded. An engine gets a `Batch`, tasks of one
phase that begin from one model, runs the app's client code for them wherever it likes, and yields what came of it:

    Answered     one task is done, with its outcome
    Summed       many tasks are done, and their updates are in a `Partial` that follows
    Partial      the sum over one aligned subtree of positions, where the engine adds updates up itself

What an engine must keep to:

1. Every position of the batch is answered exactly once, whatever user code does; only `KeyboardInterrupt` and an
   engine's own breakdown pass through. With `stop_at_failure` nothing need be begun once a failure is known.
2. Order is free. Who yields in order of position lets the shell fold each update at once; what comes too early is kept
   (a `Partial` as it is, a lent update as a copy) until its turn.
3. `Answered.outcome.arrays` is lent: it may be overwritten when the next item is asked for.
4. With `Batch.summing`, an engine may add up the updates inside a subtree (`canonical.Subtree`) that lies between
   `Batch.whole_from` and `Batch.whole_below` (other groups may get further members). It names all the members that it
   has summed in a `Summed`, or several as time passes, before the `Partial` of that subtree. Members that failed, that
   are refused (`refusal`), or that carry no arrays are holes: never summed. A subtree in which nobody counted an
   example is not summed by `examples` but answered with arrays, since whether each then counts 1 is known only at the
   end.
5. Bits: the outcomes are those of `clients.execute.Runtime` for the same task, state and model, and sums are in the
   canonical order. An engine that cannot promise this (`exact = False`) is used only where the user allows it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from hanse.aggregation import GROUP, Partial, Subtree, WeightedMean, WeightedSum
from hanse.aggregation.canonical import subtrees
from hanse.clients.execute import Outcome
from hanse.core.arrays import Arrays
from hanse.core.records import Reply, Task
from hanse.core.spec import RunSpec
from hanse.core.tracked import Tracked
from hanse.strategies import Strategy
from hanse.strategies.strategy import wrong_metrics


@dataclass(frozen=True, slots=True)
class Summing:
    """How updates may be added up as they come, as plain data: the weight of each depends on its own reply alone.

    Args:
        rule: `mean` or `sum`.
        update_kind: `values` or `delta`, which every update must be.
        weights: `examples` (`num_examples`; 1 for each where nobody in the whole phase counted any) or `equal` (1).
        wants: metrics that an update needs, finite and ≥ 0, or it is refused.
    """

    rule: str
    update_kind: str
    weights: str
    wants: tuple[str, ...] = ()

    def reducer(self) -> WeightedSum:
        """A fresh fold."""
        return WeightedMean() if self.rule == "mean" else WeightedSum()

    def weight(self, num_examples: int) -> float:
        """Of one update."""
        return 1.0 if self.weights == "equal" else float(num_examples)


def summing_of(strategy: Strategy, spec: RunSpec) -> Summing | None:
    """How a strategy's updates may be added up as they come; None where its reducer must see them together."""
    kind: Any = type(strategy.reducer())
    rule = {WeightedMean: "mean", WeightedSum: "sum"}.get(kind)
    in_order = strategy.order == "position" and strategy.late == "drop"
    own = type(strategy).wrong is not Strategy.wrong or type(strategy).reducer_of is not Strategy.reducer_of
    if rule is None or not in_order or not strategy.weighs_by or own or spec.compression:
        return None
    return Summing(rule, strategy.update_kind, strategy.weighs_by, tuple(strategy.wants))


def refusal(summing: Summing, reply: Reply, arrays: Arrays | None) -> str:
    """Why a reply that did not fail must not be summed; empty if it may. The layout is looked at by who sums."""
    if arrays is None:
        return "expected arrays, found none"
    if reply.update_kind != summing.update_kind:
        return f"expected {summing.update_kind}, found {reply.update_kind}"
    return wrong_metrics(reply.metrics, summing.wants)


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks of one phase that begin from one model.

    Args:
        positions: place of each task in the plan, strictly increasing.
        tasks: what each site is asked. Sites are distinct.
        states: `site.state` of each before the task, encoded; None for an empty one.
        model: what all tasks begin from (`task.model` names it by its id and bears no content), or None.
        summing: how the engine may add updates up; None where each must be answered with its arrays.
        whole_from, whole_below: between them lie whole groups; each member is in this batch or will never answer.
        stop_at_failure: the run ends with the first failure.
    """

    positions: Sequence[int]
    tasks: Sequence[Task]
    states: Sequence[bytes | None]
    model: Arrays | None
    summing: Summing | None = None
    whole_from: int = 0
    whole_below: int = 0
    stop_at_failure: bool = False

    def __len__(self) -> int:
        return len(self.positions)


def whole_subtrees(batch: Batch) -> Iterator[Subtree]:
    """The aligned subtrees whose members are all in this batch, largest first where that is possible."""
    return subtrees(-(-batch.whole_from // GROUP), batch.whole_below // GROUP)


@dataclass(slots=True)
class Answered:
    """One task is done.

    Args:
        outcome: reply, arrays (lent; None where there are none) and the site's state after it.
    """

    position: int
    outcome: Outcome


class Summed(NamedTuple):
    """Many tasks are done, none of them has failed, and their updates are in a `Partial` that follows.

    Args:
        positions: distinct.
        replies, states: one for each, as in an outcome.
        tracked: what those said, by position, who told their tracker something.
    """

    positions: Sequence[int]
    replies: Sequence[Reply]
    states: Sequence[bytes | None]
    tracked: Mapping[int, tuple[Tracked, ...]] = {}


Item = Answered | Summed | Partial
"""What an engine yields."""


def replies_of(item: Item) -> Sequence[Reply]:
    """Of the tasks that are done with this."""
    if isinstance(item, Answered):
        return (item.outcome.reply,)
    return item.replies if isinstance(item, Summed) else ()


class Engine(Protocol):
    """Runs batches. Made by `engines.make_engine`, closed by the shell."""

    @property
    def name(self) -> str:
        """As in `hs.simulate(engine=...)`."""
        ...

    @property
    def exact(self) -> bool:
        """Whether its bits are those of the sequential engine."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """What a checkpoint keeps so that a resumed run computes alike: plain JSON, such as a group's size."""
        ...

    def run(self, batch: Batch) -> Iterator[Item]:
        """Do it. The iterator may be closed before its end."""
        ...

    def close(self) -> None:
        """End what was started: processes, memory."""
        ...
