"""The batched engine: declared trainings of many sites in one kernel.

Positions are cut into aligned subtrees of the canonical tree, each a group that fits into the cache (or into the
device's memory). Sites of a group that train the same model in the same way are stacked (`stacks.py`); the others, and
everything that is no training, are computed one after another as the sequential engine does, with the reason said once.
Updates are added up in float64 in the canonical order, whoever made them.

It promises the sequential engine's result up to rounding (a relative L2 distance of a site's move of 1e-6 as a rule),
not its bits: products of another shape sum in another order. Where two activations differ by less than that, a
rectifier or a maximum takes the other branch, as between any two ways to round. Batches and weights are the same.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from hanse.aggregation import Partial
from hanse.aggregation.canonical import GROUP, Subtree, subtrees, total_weight
from hanse.aggregation.many import sum_of_many
from hanse.clients.declared import Declared
from hanse.clients.execute import Outcome
from hanse.clients.fingerprint import fingerprint
from hanse.clients.functions import trainer_of
from hanse.clients.site import stream_of
from hanse.clients.training import Effort, Training, effort_of, orders_of, steps_of, wanted_metrics
from hanse.core.arrays import Array, Arrays, Layout
from hanse.core.quickly import maker
from hanse.core.records import Reply, Task
from hanse.simulation.engine import Answered, Batch, Item, Summed, refusal
from hanse.simulation.making import Making
from hanse.simulation.ragged import schedule_of
from hanse.simulation.sites import Places, to_stderr
from hanse.simulation.stacks import Kind, StackOfSites, Stacks, examples_of, parts_of, split, vector_of

_reply = maker(Reply)
_SOME = Arrays()
"""Stands for an update that is there: `refusal` asks no more of it."""

REFUSALS = (ValueError, IndexError, RuntimeError, TypeError, MemoryError)
"""What a kernel raises that cannot do it; sites are trained alone then, where the cause has its place."""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Updates that a kernel has made.

    Args:
        values: `(k, width)`, lent by the kernel.
        parts: where in a row the blocks lie that are added up: all of it where arrays follow without gaps.
    """

    values: Array
    parts: Sequence[slice]

    def blocks(self, place: int) -> list[Array]:
        """Of one row."""
        row = self.values[place]
        return [row[part] for part in self.parts]


@dataclass(slots=True)
class _Member:
    """A task of a batch.

    Args:
        kind: what it is stacked by; None where it is computed alone.
        order: its examples' order, `(epochs, n)`.
        outcome: what came of it, without arrays where a kernel has trained it.
        rows, place: the kernel's rows and which of them is its update; None and 0 where no kernel has trained it.
        own: the update of one that was computed alone, flat, in the model's order, in one block or one for each array.
    """

    position: int
    task: Task
    state: bytes | None
    client: Declared | None = None
    kind: Kind | None = None
    order: Any = None
    outcome: Outcome | None = None
    rows: _Rows | None = None
    place: int = 0
    own: list[Array] | None = None

    @property
    def blocks(self) -> list[Array] | None:
        """The update in the model's order, flat; None without one."""
        return self.own if self.rows is None else self.rows.blocks(self.place)


class Batched:
    """See `engine.Engine`.

    Args:
        places: the sites.
        kernel, group, say: see `Stacks`.
    """

    exact: ClassVar[bool] = False

    def __init__(
        self,
        places: Places,
        *,
        kernel: str = "auto",
        group: int | None = None,
        say: Callable[[str], None] = to_stderr,
    ) -> None:
        self._places = places
        self._making = Making(places)
        self._stacks = Stacks(kernel, group, say)

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Engine.settings`: a run that goes on stacks as many sites as it did, since that changes bits."""
        return {"group": self.group or None}

    @property
    def name(self) -> str:
        """See `Engine.name`."""
        return "batched" if self._stacks.kernel == "auto" else f"{self._stacks.kernel}-batched"

    @property
    def group(self) -> int:
        """How many sites are stacked at most; 0 while nothing is."""
        return self._stacks.largest

    def run(self, batch: Batch) -> Iterator[Item]:
        """See `Engine.run`; in order of position."""
        members = [_Member(*parts) for parts in zip(batch.positions, batch.tasks, batch.states, strict=True)]
        if batch.model is not None:
            self._look_at([member for member in members if member.task.call == "train"])
        start = 0
        while start < len(members):
            level = self._stacks.level(members[start].kind)
            subtree = Subtree(level, members[start].position // GROUP >> level)
            stop = start + 1
            while stop < len(members) and members[stop].position < subtree.positions.stop:
                stop += 1
            group = members[start:stop]
            if not self._train(group, batch):
                continue  # the group is too large; its first half comes next
            yield from self._answers(group, subtree, batch)
            if batch.stop_at_failure and any(m.outcome is not None and m.outcome.reply.error_kind for m in group):
                return
            start = stop

    def close(self) -> None:
        """See `Engine.close`."""
        self._stacks.clear()

    def _look_at(self, members: Sequence[_Member]) -> None:
        """Find out who can be stacked with whom, and draw the orders of their examples."""
        last: tuple[Training, Mapping[str, Any], Effort] | None = None
        if self._places.app.compression is not None:
            self._stacks.alone("updates are compressed site by site")
            return
        if not members:
            return
        clients = self._making.clients([member.task.site for member in members], members[0].task.seed)
        for member, made in zip(members, clients, strict=True):
            if made is None:
                continue  # alone it fails again, and is answered as a failure
            try:
                client = trainer_of(made)
                if not isinstance(client, Declared):
                    self._stacks.alone(
                        f"{type(client).__name__} is no declared training such as hs.torch(module, X, y)"
                    )
                    continue
                if last is None or last[0] != client.training or last[1] != member.task.config:
                    last = client.training, member.task.config, effort_of(client.training, member.task.config)
                member.client, member.kind = client, self._stacks.kind_of(client, last[2])
            except (Exception, SystemExit):
                continue  # alone it fails again, and is answered as a failure
        for epochs in {member.kind.epochs for member in members if member.kind is not None}:
            alike = [(m, m.client) for m in members if m.kind and m.client and m.kind.epochs == epochs]
            keys = [stream_of(member.task, member.task.site, "batches") for member, _ in alike]
            orders = orders_of(keys, [client.num_examples for _, client in alike], epochs)
            for (member, _), order in zip(alike, orders, strict=True):
                member.order = order

    def _train(self, group: Sequence[_Member], batch: Batch) -> bool:
        """Train who can be stacked; False where the group must be cut smaller first."""
        for kind in _kinds(group):
            alike = [(m, m.client) for m in group if m.client and (m.kind is kind or m.kind == kind)]
            family = self._stacks.family(kind)
            if family.stack is None:
                continue
            for first in range(0, len(alike), family.stack.size):
                part = alike[first : first + family.stack.size]
                try:
                    _train_alike(part, kind, family.stack, batch)
                except REFUSALS as error:
                    if self._stacks.failed(family, alike[0][1], error):
                        return False
                    break
                if len(part) < len(alike):
                    _keep(part)  # the next part overwrites them
        return True

    def _answers(self, group: Sequence[_Member], subtree: Subtree, batch: Batch) -> Iterator[Item]:
        for member in group:
            if member.outcome is None:
                runtime = self._places.runtime(member.task.site)
                member.outcome = runtime.execute(member.task, batch.model, member.state)
                arrays = member.outcome.arrays
                member.own = None if arrays is None else arrays.flat()
        inside: set[int] = set()
        if batch.summing is not None and batch.model is not None:
            first = max(subtree.first_group, -(-batch.whole_from // GROUP))
            end = min(subtree.end_group, batch.whole_below // GROUP)
            for part in subtrees(first, end):
                positions = part.positions
                summed = _summed([member for member in group if member.position in positions], part, batch)
                inside.update(() if summed is None else summed[0].positions)
                yield from summed or ()
        for member in group if len(inside) < len(group) else ():
            outcome = member.outcome
            assert outcome is not None
            if member.position in inside:
                continue
            if member.rows is not None:
                assert batch.model is not None
                outcome = outcome._replace(arrays=_named(member.rows.blocks(member.place), batch.model.layout))
            yield Answered(member.position, outcome)


def _kinds(group: Sequence[_Member]) -> list[Kind]:
    """Of the members that can be stacked. They mostly are one and the same object: comparing two costs more."""
    kinds: list[Kind] = []
    for member in group:
        kind = member.kind
        if kind is not None and not (kinds and kind is kinds[-1]) and kind not in kinds:
            kinds.append(kind)
    return kinds


def _train_alike(alike: Sequence[tuple[_Member, Declared]], kind: Kind, stack: StackOfSites, batch: Batch) -> None:
    """Train members of one kind and set their outcomes and rows; those whose update is not finite are left alone."""
    assert batch.model is not None
    started = time.perf_counter()
    clients = [client for _, client in alike]
    sizes = [client.num_examples for client in clients]
    vector = vector_of(batch.model, stack)
    X, y = examples_of(clients, stack)
    schedule = schedule_of(sizes, [member.order for member, _ in alike], kind.training.batch_size)
    rows, losses = stack.train(vector, X, y, schedule, lr=kind.lr, proximal_mu=kind.proximal_mu)
    task = alike[0][0].task
    if task.update_kind == "delta":
        rows -= vector
    effort = Effort(kind.lr, kind.epochs, kind.proximal_mu, {}, kind.wants)
    finite = _are_finite(rows) if not task.allow_nonfinite else np.ones(len(rows), bool)
    seconds = (time.perf_counter() - started) / len(alike)
    base, worker, told = "" if task.model is None else task.model.id, fingerprint(), bool(kind.wants)
    made = _Rows(rows, parts_of(stack))
    done = zip(schedule.members.tolist(), losses.tolist(), finite.tolist(), strict=True)
    for place, (which, loss, good) in enumerate(done):
        if not good:
            continue  # alone it is looked at more closely, and refused where it must be
        member, size = alike[which][0], sizes[which]
        metrics: dict[str, Any] = {"loss": loss / (size * kind.epochs)}
        if told:
            metrics |= wanted_metrics(effort, steps_of(size, kind.training.batch_size, kind.epochs), None)
        own = member.task
        reply = _reply(own.id, own.site, "", "", size, metrics, None, own.update_kind, base, b"", seconds, worker)
        member.rows, member.place, member.outcome = made, place, Outcome(reply, None, member.state)


def _are_finite(rows: Array) -> Array:
    """Whether each row's sum is finite, and with it every element (or it has overflowed)."""
    is_blas = rows.dtype in (np.float32, np.float64)  # a product takes half of what `sum` does
    sums: Array = rows @ np.ones(rows.shape[1], rows.dtype) if is_blas else rows.sum(axis=1)
    finite: Array = np.isfinite(sums)
    return finite


def _keep(part: Sequence[tuple[_Member, Declared]]) -> None:
    kept: _Rows | None = None
    for member, _ in part:
        if member.rows is not None:
            kept = kept or replace(member.rows, values=member.rows.values.copy())
            member.rows = kept


def _summed(group: Sequence[_Member], subtree: Subtree, batch: Batch) -> tuple[Summed, Partial] | None:
    """Σ weight · update over a subtree in canonical order, and who is in it; None where it must not be summed."""
    assert batch.summing is not None
    assert batch.model is not None
    summing, layout = batch.summing, batch.model.layout
    good: list[_Member] = []
    outcomes: list[Outcome] = []
    for member in group:
        outcome = member.outcome
        assert outcome is not None
        is_there = member.rows is not None or member.own
        if is_there and not refusal(summing, outcome.reply, _SOME):
            good.append(member)
            outcomes.append(outcome)
    replies = [outcome.reply for outcome in outcomes]
    weights = [summing.weight(reply.num_examples) for reply in replies]
    if not any(weights):
        return None
    positions = [member.position for member in good]
    sums = [sum_of_many(subtree, positions, blocks, weights) for blocks in _blocks(good, layout)]
    partial = Partial(subtree, layout, tuple(split(sums, layout)), total_weight(positions, weights))
    tracked = {position: o.tracked for position, o in zip(positions, outcomes, strict=True) if o.tracked}
    return Summed(positions, replies, [outcome.state for outcome in outcomes], tracked), partial


def _blocks(members: Sequence[_Member], layout: Layout) -> list[Array] | list[tuple[Array, ...]]:
    """The updates of all, block by block; as rows of the kernel's array where they follow each other in it."""
    rows, first = members[0].rows, members[0].place
    if rows is not None and all(m.rows is rows and m.place == place for place, m in enumerate(members, first)):
        return [rows.values[first : first + len(members), part] for part in rows.parts]
    updates = [member.blocks or [] for member in members]
    if any(len(blocks) > 1 for blocks in updates):
        updates = [split(blocks, layout) for blocks in updates]
    return list(zip(*updates, strict=True))


def _named(blocks: Sequence[Array], layout: Layout) -> Arrays:
    return Arrays(
        (spec.name, block.reshape(spec.shape)) for spec, block in zip(layout.specs, split(blocks, layout), strict=True)
    )
