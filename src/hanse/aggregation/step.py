"""What is done with one range: reduce, move the model by a server optimiser, round, check, write.

Where a result is not finite, every update's block is looked at once more, so that whose fault it is is known by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from hanse.aggregation.blocks import BlockRefused, Scratch, read_blocks
from hanse.aggregation.cohort import Cohort
from hanse.aggregation.ranges import Range
from hanse.aggregation.reducing import FoldReduce, Reduce
from hanse.aggregation.refusals import Overflow
from hanse.aggregation.rounding import Block, Wide, all_finite, is_float, round_to, widen_into
from hanse.aggregation.sources import Sink, Source
from hanse.core.arrays import Layout, describe

Kind = Literal["values", "delta"]
Update = Callable[[Wide, Wide, Sequence[Wide], Mapping[str, float]], Wide]
"""A server optimiser, elementwise: `update(model, reduced, states, scalars) -> model`, all float64, (n,).

`reduced` is the mean of values or of deltas, not yet rounded. States are changed in place and rounded to their
dtype by the walk. Called for arrays of floats only: counters and the like take the plain mean, their states stay.
"""


def from_values(update: Update) -> Update:
    """An optimiser that wants values, called with deltas."""

    def on_deltas(model: Wide, reduced: Wide, states: Sequence[Wide], scalars: Mapping[str, float]) -> Wide:
        return update(model, model + reduced, states, scalars)

    return on_deltas


def check_model(
    layout: Layout,
    kind: Kind,
    base: Source | None,
    update: Update | None,
    states: Sequence[Source],
    state_outs: Sequence[Sink],
) -> None:
    """Refuse a base or an optimiser's state that is missing or does not lie on the model's ranges.

    Raises:
        ValueError: which one.
    """
    if (kind == "delta" or update is not None) and base is None:
        raise ValueError("expected a base for kind='delta' or an update, found none")
    if base is not None and (difference := layout.difference(base.layout)):
        raise ValueError(f"base: {difference}")
    if len(states) != len(state_outs):
        raise ValueError(f"expected one state_out for each of {len(states)} states, found {len(state_outs)}")
    expected = [(spec.name, spec.shape) for spec in layout.specs]
    for state in states:
        if [(spec.name, spec.shape) for spec in state.layout.specs] != expected:
            raise ValueError("expected states with the names and shapes of the model, found others")


@dataclass
class Step:
    """What is done with one range: reduce, apply the optimiser, round, check, write. Fields as in `aggregate`."""

    layout: Layout
    cohort: Cohort
    reduce: Reduce
    out: Sink
    kind: Kind = "values"
    base: Source | None = None
    update: Update | None = None
    states: Sequence[Source] = ()
    state_outs: Sequence[Sink] = ()
    scalars: Mapping[str, float] = field(default_factory=dict)
    allow_nonfinite: bool = False
    refused: dict[int, str] = field(default_factory=dict)
    _scratch: Scratch = field(default_factory=Scratch)
    _doubtful: dict[Range, bool] = field(default_factory=dict)
    """Ranges with a result that is not finite: whether the sum is not."""

    def __call__(self, at: Range) -> None:
        self.stretch((at,))

    def stretch(self, stretch: Sequence[Range]) -> None:
        """Do these ranges; then look whose fault it is what is not finite, update by update.

        Raises:
            Overflow: every update is finite.
        """
        if isinstance(self.reduce, FoldReduce) and len(stretch) > 1:
            self.reduce.read_together(stretch)
        for at in stretch:
            try:
                self._do(at)
            except BlockRefused as found:  # go on: every culprit of the model is named, not only the first
                self._blame(found, at)
        if self._doubtful:
            self._explain({at: self._doubtful.pop(at) for at in stretch if at in self._doubtful})

    def _blame(self, found: BlockRefused, at: Range) -> None:
        what = describe(self.layout.specs[at.index])
        for position, reason in found.reasons.items():
            self.refused.setdefault(position, f"{reason} in {what}")

    def _do(self, at: Range) -> None:
        spec = self.layout.specs[at.index]
        optimised = self.update is not None and is_float(spec.dtype)
        if not optimised:
            for state, sink in zip(self.states, self.state_outs, strict=True):
                sink.write(at.index, at.start, state.block(at.index, at.start, at.stop))
            if self.kind == "values" and spec.dtype in (np.float32, np.float64):
                out = self._scratch.take("rounded", at.size).view(spec.dtype)[: at.size]
                finite = self.reduce.rounded(at, out)
                if finite is not None:
                    self._write(self.out, at, out if finite or self.allow_nonfinite else None, None)
                    return
        reduced = self._scratch.take("reduced", at.size)
        self.reduce(at, reduced)
        model = self._optimised(at, reduced) if optimised else self._moved(at, reduced)
        self._write(self.out, at, self._round(model, spec.dtype), reduced)

    def _moved(self, at: Range, reduced: Wide) -> Wide:
        if self.kind == "values" or self.base is None:
            return reduced.copy()
        model = self._wide("model", self.base, at)
        np.add(model, reduced, out=model)
        return model

    def _optimised(self, at: Range, reduced: Wide) -> Wide:
        assert self.base is not None
        assert self.update is not None
        if not (self.allow_nonfinite or all_finite(reduced)):
            self._doubt(at, reduced)
            return reduced
        states = [self._wide(f"state {i}", state, at) for i, state in enumerate(self.states)]
        model = self.update(self._wide("model", self.base, at), reduced, states, self.scalars)
        for wide, source, sink in zip(states, self.states, self.state_outs, strict=True):
            self._write(sink, at, self._round(wide, source.layout.specs[at.index].dtype), reduced)
        return model

    def _wide(self, name: str, source: Source, at: Range) -> Wide:
        wide = self._scratch.take(name, at.size)
        widen_into(wide, source.block(at.index, at.start, at.stop))
        return wide

    def _round(self, values: Wide, dtype: np.dtype[Any]) -> Block | None:
        return round_to(values, dtype, allow_nonfinite=self.allow_nonfinite)

    def _write(self, sink: Sink, at: Range, rounded: Block | None, reduced: Wide | None) -> None:
        if rounded is None:
            self._doubt(at, reduced)
        elif not self.refused:  # otherwise only looking for more culprits now
            sink.write(at.index, at.start, rounded)

    def _doubt(self, at: Range, reduced: Wide | None) -> None:
        self._doubtful.setdefault(at, reduced is None or not all_finite(reduced))

    def _explain(self, doubtful: Mapping[Range, bool]) -> None:
        floats = [at for at in doubtful if is_float(self.layout.specs[at.index].dtype)]
        for i, position in enumerate(self.cohort.positions):  # one at a time: memory stays a few blocks
            for at in floats:
                try:
                    if not all_finite(read_blocks(self.cohort, [i], at)[0]):
                        what = describe(self.layout.specs[at.index])
                        self.refused.setdefault(position, f"values that are not finite in {what}")
                except BlockRefused as found:
                    self._blame(found, at)
        for at, summed in doubtful.items():
            if not self.refused:
                raise Overflow("the sum" if summed else "the result", describe(self.layout.specs[at.index]))
