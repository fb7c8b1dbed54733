"""What becomes of updates: summed as they come, or kept until their phase closes, and then reduced into a new model.

Which of both is the strategy's matter (`engine.summing_of`) and the phase's. Refusals, the order of sums and the moving
of the model are those of `rounds.hosts.folding` and `aggregation`: a simulation refuses and computes what a federation
does.
"""

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

from hanse.aggregation import ArraySink, ArraySource, Partial
from hanse.core.arrays import Arrays, Layout
from hanse.core.errors import TaskError
from hanse.core.quickly import maker
from hanse.core.records import Reply
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey, Folded, Reduce
from hanse.rounds.hosts.checking import remembered
from hanse.rounds.hosts.folding import fold, moving
from hanse.rounds.hosts.items import Item
from hanse.rounds.hosts.local import SMALL_BYTES
from hanse.rounds.machine import PARAMETERS
from hanse.rounds.run_state import RunState
from hanse.simulation.engine import Answered, Summing, refusal, summing_of
from hanse.simulation.models import Models
from hanse.simulation.phase_sum import PhaseSum
from hanse.strategies import FoldInput, Strategy
from hanse.strategies.strategy import Memory

_fold_input = maker(FoldInput)


@dataclass(frozen=True, slots=True)
class Made:
    """What a closed phase came to: the new model, states and memory, or what was refused, by ordinal."""

    model: BlobKey | None
    states: tuple[BlobKey, ...] = ()
    memory: Memory = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


class Updates:
    """The updates of one run that have come and are not settled."""

    def __init__(self, strategy: Strategy, spec: RunSpec, models: Models) -> None:
        self.borne: set[int] = set()
        """Ordinals of replies that bore arrays."""
        self.moved = _nothing_moved(spec)
        """Bytes that would have moved since the last checkpoint, as `RoundRecord.bytes`."""
        self._strategy = strategy
        self._spec = spec
        self._models = models
        self._summing = summing_of(strategy, spec)
        self._kept: dict[int, Arrays] = {}
        self._refusals: dict[int, str] = {}
        self._sum: PhaseSum | None = None
        self._left_out: list[int] = []

    def summing(self, state: RunState) -> Summing | None:
        """How the open phase adds updates up as they come; None where it keeps them."""
        if not state.folds or state.keep_in_flight or state.phase == PARAMETERS:
            return None
        return self._summing

    # ---- receiving ----

    def receive(self, state: RunState, ordinal: int, item: Answered) -> None:
        """Take what a reply bore, before the machine is told of it."""
        reply, arrays = item.outcome.reply, item.outcome.arrays
        if arrays is not None:
            self._bears(ordinal, arrays.layout)
            if self._spec.compression and reply.base and state.model is not None:
                whole = self._models.refs[state.model].manifest.size  # as long as an update that is not compressed
                self.moved["saved"] += whole - self._models.size(arrays.layout)
        slot = state.open.get(ordinal)
        here = slot is not None and slot.round == state.round and slot.phase == state.phase
        summing = self.summing(state) if here else None
        if summing is not None:
            if reply.error_kind:
                self.never(item.position)
            else:
                self._add(state, summing, ordinal, item.position, reply, arrays)
        elif arrays is not None and _matters(state, ordinal):
            self._kept[ordinal] = arrays.copy()

    def receive_summed(self, state: RunState, ordinals: Sequence[int]) -> None:
        """These replies bore updates that an engine has summed."""
        self.borne.update(ordinals)
        self.moved["up"] += len(ordinals) * self._models.size(self._total(state, None).layout)

    def add_partial(self, state: RunState, partial: Partial, members: Sequence[int]) -> None:
        """Take a sum that an engine made of the replies at these positions."""
        self._total(state, partial.layout).add_partial(partial, members)

    def never(self, position: int) -> None:
        """Nothing will come from this position of the open phase, so it holds up nobody."""
        if self._sum is not None:
            self._sum.leave_out(position)
        else:
            self._left_out.append(position)

    def held(self, ordinal: int) -> Arrays | None:
        """An update that waits to be folded."""
        return self._kept.get(ordinal)

    def hold(self, ordinal: int, arrays: Arrays) -> None:
        """Let one wait, as it did before the run was restored."""
        self._kept[ordinal] = arrays
        self.borne.add(ordinal)

    def _bears(self, ordinal: int, layout: Layout) -> None:
        self.borne.add(ordinal)
        self.moved["up"] += self._models.size(layout)

    def _add(
        self, state: RunState, summing: Summing, ordinal: int, position: int, reply: Reply, arrays: Arrays | None
    ) -> None:
        why = refusal(summing, reply, arrays)
        if not why and arrays is not None:
            total = self._total(state, arrays.layout)
            if arrays.fits(total.layout):
                total.add(position, arrays, reply.num_examples)
                return
            why = f"layout: {total.layout.difference(arrays.layout)}"
        self._refusals[ordinal] = why
        self.never(position)

    def _total(self, state: RunState, layout: Layout | None) -> PhaseSum:
        """The sum of the open phase. `layout`: of its first update, where it has no model."""
        if self._sum is None:
            if state.model is not None and self._strategy.needs_model:
                layout = self._models.arrays[state.model].layout
            assert self._summing is not None
            assert layout is not None
            self._sum = PhaseSum(self._summing, layout, allow_nonfinite=self._spec.allow_nonfinite)
            for position in self._left_out:
                self._sum.leave_out(position)
        return self._sum

    # ---- reducing ----

    def reduce(self, state: RunState, reduce: Reduce, replies: Sequence[Reply]) -> Made:
        """Reduce a closed phase.

        Args:
            replies: of `reduce.folded`, in that order.

        Raises:
            HanseError: the run cannot go on. Exception: what the strategy's own code raises.
        """
        match reduce.kind:
            case "adopt":
                made = self._adopt(state, reduce)
            case "fold" if self.summing(state) is not None:
                made = self._finish(state, reduce, replies)
            case "fold":
                made = self._fold(state, reduce, replies)
            case _:
                made = Made(reduce.model, reduce.state, state.memory)
        if not made.refused:
            self._sum, self._left_out = None, []
            for folded in reduce.folded:
                self._kept.pop(folded.task.ordinal, None)
        return made

    def settled(self, ordinals: Collection[int]) -> None:
        """These replies have their fates, and a round is over."""
        self.borne.difference_update(ordinals)
        for ordinal in ordinals if self._refusals or self._kept else ():
            self._refusals.pop(ordinal, None)
            self._kept.pop(ordinal, None)
        self.moved = _nothing_moved(self._spec)

    def _adopt(self, state: RunState, reduce: Reduce) -> Made:
        ordinal = reduce.folded[0].task.ordinal
        arrays = self._kept.get(ordinal)
        if arrays is None:
            return Made(None, refused={ordinal: "expected arrays, found none"})
        return Made(self._models.keep(reduce.round, arrays), memory=state.memory)

    def _finish(self, state: RunState, reduce: Reduce, replies: Sequence[Reply]) -> Made:
        """Of a sum that was taken as updates came."""
        ordinals = [folded.task.ordinal for folded in reduce.folded]
        needs_model = self._strategy.needs_model
        if needs_model and reduce.model is None:
            named = f"strategy {self._strategy.name or type(self._strategy).__name__}"
            raise TaskError("refused", f"{named}: there is no model to fold into; give hs.App(initial=...)")
        if not needs_model and not any(ordinal in self.borne for ordinal in ordinals):
            return Made(None, memory=self._memory(state, reduce, replies))
        refused = {ordinal: self._refusals[ordinal] for ordinal in ordinals if ordinal in self._refusals}
        if refused:
            return Made(None, refused=refused)
        total = self._total(state, None)
        if total.taken != {folded.position for folded in reduce.folded}:
            raise RuntimeError(f"expected the sum of {len(ordinals)} updates, found {len(total.taken)}")
        base = self._models.source(reduce.model) if needs_model and reduce.model is not None else None
        outs: list[ArraySink] = []
        states = [self._models.source(key) for key in reduce.state]
        memory = self._memory(state, reduce, replies)
        moves = moving(
            self._strategy,
            total.layout,
            _collecting(outs),
            kind=self._strategy.update_kind,
            round_=reduce.round,
            base=base,
            states=states,
            memory=memory,
        )
        total.finish(moves, base)
        return self._keep(reduce, outs, memory)

    def _memory(self, state: RunState, reduce: Reduce, replies: Sequence[Reply]) -> Memory:
        """What the strategy knows after these replies."""
        return remembered(self._strategy, self._spec, state.memory, _Abouts(reduce.folded, replies))

    def _fold(self, state: RunState, reduce: Reduce, replies: Sequence[Reply]) -> Made:
        """Of updates that were kept."""
        items: list[Item] = []
        num_bytes = 0
        for folded, reply in zip(reduce.folded, replies, strict=True):
            arrays = self._kept.get(folded.task.ordinal)
            num_bytes += 0 if arrays is None else arrays.nbytes
            source = None if arrays is None else ArraySource(arrays)
            about = _about(folded, reply)
            items.append(Item(folded.task.ordinal, folded.position, about, reply.update_kind, source))
        outs: list[ArraySink] = []
        memory = self._memory(state, reduce, replies)
        refused = fold(
            self._strategy,
            self._spec,
            items,
            _collecting(outs),
            round_=reduce.round,
            size=reduce.size,
            base=None if reduce.model is None else self._models.source(reduce.model),
            states=[self._models.source(key) for key in reduce.state],
            memory=memory,
            threads=1 if num_bytes < SMALL_BYTES else min(4, os.cpu_count() or 1),
            phase=reduce.phase,
        )
        return Made(None, refused=refused) if refused else self._keep(reduce, outs, memory)

    def _keep(self, reduce: Reduce, outs: Sequence[ArraySink], memory: Memory) -> Made:
        keys = [self._models.keep(reduce.round, out.arrays) for out in outs]
        return Made(keys[0] if keys else None, tuple(keys[1:]), memory)


def _about(folded: Folded, reply: Reply) -> FoldInput:
    """What the strategy may know of a reply."""
    return _fold_input(reply.site, reply.num_examples, folded.staleness, reply.metrics, folded.seconds, folded.group)


class _Abouts(Sequence[FoldInput]):
    """`_about` of each reply, made when it is looked at: most strategies remember nothing."""

    def __init__(self, folded: Sequence[Folded], replies: Sequence[Reply]) -> None:
        self._folded, self._replies = folded, replies

    def __len__(self) -> int:
        return len(self._folded)

    @overload
    def __getitem__(self, place: int) -> FoldInput: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[FoldInput]: ...
    def __getitem__(self, place: int | slice) -> FoldInput | Sequence[FoldInput]:
        if isinstance(place, slice):
            return _Abouts(self._folded[place], self._replies[place])
        return _about(self._folded[place], self._replies[place])

    def __iter__(self) -> Iterator[FoldInput]:
        return map(_about, self._folded, self._replies)


def _nothing_moved(spec: RunSpec) -> dict[str, int]:
    return {"down": 0, "up": 0, "saved": 0} if spec.compression else {"down": 0, "up": 0}


def _matters(state: RunState, ordinal: int) -> bool:
    """Whether an update may still be folded."""
    slot = state.open.get(ordinal)
    if slot is not None:
        return slot.folds or slot.phase == PARAMETERS
    late = state.released.get(ordinal)
    return late is not None and late.folds and state.late_rule == "carry"


def _collecting(outs: list[ArraySink]) -> Callable[[Layout], ArraySink]:
    def make(layout: Layout) -> ArraySink:
        outs.append(ArraySink(layout))
        return outs[-1]

    return make
