"""One phase of an engine without a shell: tasks in, updates and their mean out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.aggregation import ArraySink, Partial
from hanse.aggregation.running import RunningMean
from hanse.clients.app import App
from hanse.clients.execute import Outcome
from hanse.core.arrays import Array, Arrays
from hanse.core.ids import TaskId
from hanse.core.records import Task
from hanse.simulation.engine import Answered, Batch, Summed, Summing
from hanse.simulation.sites import Places, Population, population_of

MEAN = Summing("mean", "values", "examples")


@dataclass
class Played:
    """What an engine yielded: outcomes by position, with arrays where they were not summed, and partial sums."""

    outcomes: dict[int, Outcome]
    summed: list[int]
    partials: list[Partial]

    def mean(self, model: Arrays) -> Arrays:
        """The weighted mean of everything, in canonical order."""
        running = RunningMean(model.layout)
        todo: list[tuple[int, Any]] = [(p.subtree.positions[0], p) for p in self.partials]
        todo += [(position, o) for position, o in self.outcomes.items() if o.arrays is not None]
        for position, item in sorted(todo, key=lambda pair: pair[0]):
            if isinstance(item, Partial):
                running.merge(item)
            else:
                running.add(position, source(item.arrays), item.reply.num_examples)
        sink = ArraySink(model.layout)
        running.finish(sink)
        return sink.arrays


def source(arrays: Arrays) -> Any:
    """Arrays as the running mean reads them."""
    from hanse.aggregation import ArraySource

    return ArraySource(arrays)


def places(app: App, sites: Any) -> Places:
    """Virtual sites whose errors are not printed."""
    return Places(app, sites if isinstance(sites, Population) else population_of(sites), log=lambda text: None)


def batch_of(
    names: Sequence[str],
    model: Arrays | None,
    *,
    call: str = "train",
    summing: Summing | None = None,
    positions: Sequence[int] | None = None,
    config: Mapping[str, Any] | None = None,
    **options: Any,
) -> Batch:
    """One task for each name."""
    positions = list(range(len(names))) if positions is None else positions
    tasks = [
        Task(TaskId("j", "main", 1, call, n), name, call, seed=11, config={"round": 1, **(config or {})}, **options)
        for n, name in enumerate(names)
    ]
    whole = 4 * -(-(max(positions, default=0) + 1) // 4)
    return Batch(positions, tasks, [None] * len(names), model, summing, whole_below=whole if summing else 0)


def play(engine: Any, batch: Batch) -> Played:
    """Run it, copying what is lent, and check what every engine must keep to."""
    outcomes: dict[int, Outcome] = {}
    summed: list[int] = []
    partials: list[Partial] = []
    for item in engine.run(batch):
        if isinstance(item, Answered):
            assert item.position not in outcomes
            arrays = item.outcome.arrays
            kept = None if arrays is None else Arrays((name, array.copy()) for name, array in arrays.items())
            outcomes[item.position] = Outcome(item.outcome.reply, kept, item.outcome.state)
        elif isinstance(item, Summed):
            assert not outcomes.keys() & set(item.positions)
            for position, reply, state in zip(item.positions, item.replies, item.states, strict=True):
                outcomes[position] = Outcome(reply, None, state)
            summed += item.positions
        else:
            assert {p for p in summed if p in item.subtree.positions}
            sums = tuple(values.copy() for values in item.sums)
            partials.append(Partial(item.subtree, item.layout, sums, item.weight))
    assert sorted(outcomes) == list(batch.positions)
    inside = {p for partial in partials for p in partial.subtree.positions}
    assert set(summed) == set(outcomes) & inside - {p for p in outcomes if outcomes[p].reply.error_kind}
    return Played(outcomes, summed, partials)


def flat(arrays: Arrays) -> Array:
    """All values in one vector of float64."""
    return np.concatenate([array.reshape(-1).astype(np.float64) for array in arrays.to_list()])


def distance(found: Arrays, expected: Arrays, start: Arrays) -> float:
    """Relative L2 distance of a move."""
    moved = np.linalg.norm(flat(expected) - flat(start))
    return float(np.linalg.norm(flat(found) - flat(expected)) / moved) if moved else 0.0
