"""What the dealer deals for one step of training, and how each party comes by its part.

Every name below is one array that is shared additively. `own` ones are uniform and drawn by each party from its seed:
the masks under which something is opened. `derived` ones are functions of the masks: the dealer computes them, the
hosts draw their shares from their seeds, and the guest gets the difference as the correction. So the dealer sends one
message a step, to the guest, and hears nothing.

    own        weights b, scores r, residuals s, update t; means m with sample weights
    derived    forward A·b, backward Aᵀ·s for the masks A of all tables; sines and cosines of k·r, or a truncation
               pair of r for the identity; quotient and top, a truncation pair of t; product u·m, u the mask of the
               sample weights; squares, of the mask `change` that is added where an epoch ends

A softmax takes, for each level of `softmax.LogSums`, further masks of differences and their sines and cosines.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from hanse.crypto import sharing, truncation
from hanse.crypto.sharing import Ring
from hanse.vertical.glm.precision import SCORE_BITS, Precision, Step
from hanse.vertical.glm.series import Series, angles_of
from hanse.vertical.glm.softmax import SeriesMean

DIFFERENCES = "differences "
"""Masks of the levels of a softmax are called this and the level's number."""
PAIR_BITS = 20
"""Fraction bits of sines and cosines there."""
Material = dict[str, Ring]


@dataclass(frozen=True, slots=True)
class Plan:
    """What all parties know of the sizes.

    Attributes:
        columns: of each data party, the guest first.
        outputs: columns of weights.
        weighted: whether there are sample weights.
        mean: the mean function, or None for the identity.
        precision: fraction bits.
        score_shift: for the identity, bits that scores are truncated by.
    """

    columns: tuple[int, ...]
    outputs: int
    weighted: bool
    mean: SeriesMean | None
    precision: Precision
    score_shift: int

    @property
    def width(self) -> int:
        """All parties' columns."""
        return sum(self.columns)

    def parts(self) -> list[slice]:
        """Where each party's columns are among all."""
        ends = np.cumsum((0, *self.columns)).tolist()
        return [slice(start, stop) for start, stop in pairwise(ends)]

    def evaluations(self) -> list[tuple[str, Series, int, int]]:
        """What is evaluated by a series: the mask's name, which one, the argument's fraction bits, those of sines."""
        if self.mean is None:
            return []
        levels, pairs = len(self.pairs), self.mean.pairs
        found = (
            [] if pairs is None else [(f"{DIFFERENCES}{at}", pairs, SCORE_BITS + at, PAIR_BITS) for at in range(levels)]
        )
        return [*found, ("scores", self.mean.series, SCORE_BITS + levels, self.precision.dealt)]

    @property
    def pairs(self) -> tuple[int, ...]:
        """Of a softmax, how many pairs each of its levels has; otherwise empty."""
        return () if self.mean is None or self.mean.log_sums is None else self.mean.log_sums.pairs

    def shapes(self, rows: int, *, closes: bool) -> "Shapes":
        """Of everything dealt for a batch of `rows`; `closes` where the way of the weights is opened after it."""
        by_column, by_row = (self.width, self.outputs), (rows, self.outputs)
        own: dict[str, tuple[int, ...]] = {
            "weights": by_column,
            "scores": by_row,
            "residuals": by_row,
            "update": by_column,
        }
        derived: dict[str, tuple[int, ...]] = {"forward": by_row, "backward": by_column}
        if self.mean is None:
            derived |= {"score_quotient": by_row, "score_top": by_row}
        for at, pairs in enumerate(self.pairs):
            own[f"{DIFFERENCES}{at}"] = (rows, pairs)
        for mask, series, _, _ in self.evaluations():
            angles = (series.range.terms, *own[mask])
            derived |= {f"sines of {mask}": angles, f"cosines of {mask}": angles}
        derived |= {"quotient": by_column, "top": by_column}
        if self.weighted:
            own, derived = own | {"means": by_row}, derived | {"product": by_row}
        if closes:
            own, derived = own | {"change": by_column}, derived | {"squares": (1, 1)}
        return Shapes(own, derived)


@dataclass(frozen=True, slots=True)
class Shapes:
    """Names and shapes of what is dealt for one step, see the module's text."""

    own: dict[str, tuple[int, ...]]
    derived: dict[str, tuple[int, ...]]

    @property
    def num_derived(self) -> int:
        """Elements of everything derived."""
        return sum(int(np.prod(shape)) for shape in self.derived.values())


def drawn(seed: bytes, shapes: Mapping[str, tuple[int, ...]]) -> Material:
    """Uniform arrays of these shapes from a seed that is used for nothing else."""
    return dict(zip(shapes, sharing.expand(seed, *shapes.values()), strict=True))


def cut(flat: Ring, shapes: Mapping[str, tuple[int, ...]]) -> Material:
    """Arrays of these shapes out of one flat array."""
    places = np.cumsum([0, *(int(np.prod(shape)) for shape in shapes.values())])
    return {
        name: flat[start:stop].reshape(shape)
        for (name, shape), start, stop in zip(shapes.items(), places[:-1], places[1:], strict=True)
    }


def host_material(shapes: Shapes, seed: bytes) -> Material:
    """A host's masks and shares of one step."""
    return drawn(seed, shapes.own | shapes.derived)


def guest_material(shapes: Shapes, seed: bytes, correction: Ring) -> Material:
    """The guest's masks and shares of one step."""
    return drawn(seed, shapes.own) | cut(correction, shapes.derived)


def correction(
    plan: Plan,
    shapes: Shapes,
    seeds: Sequence[bytes],
    step: Step,
    tables: Sequence[Ring],
    sample_weights: Ring | None,
) -> Ring:
    """The dealer's message for one step.

    Args:
        plan: the sizes.
        shapes: of this step.
        seeds: of this step, the guest's first.
        step: the numbers of the batch.
        tables: the batch's rows of the masks of all tables.
        sample_weights: those of the mask of the sample weights, uint64 `(rows, 1)`.

    Returns:
        uint64, flat: the guest's shares of everything derived, in the order of the shapes.
    """
    parties = [drawn(seeds[0], shapes.own), *(host_material(shapes, seed) for seed in seeds[1:])]
    masks = {name: _sum([party[name] for party in parties]) for name in shapes.own}
    parts = plan.parts()
    derived: Material = {
        "forward": _sum(
            [sharing.thin(table, masks["weights"][part]) for table, part in zip(tables, parts, strict=True)]
        ),
        "backward": np.concatenate([sharing.thin_transposed(table, masks["residuals"]) for table in tables]),
    }
    if plan.mean is None:
        derived["score_quotient"], derived["score_top"] = truncation.deal(masks["scores"], plan.score_shift)
    for mask, series, fraction_bits, bits in plan.evaluations():
        sines, cosines = angles_of(masks[mask], fraction_bits, series, bits)
        derived |= {f"sines of {mask}": sines.view(np.uint64), f"cosines of {mask}": cosines.view(np.uint64)}
    derived["quotient"], derived["top"] = truncation.deal(masks["update"], step.shift)
    if sample_weights is not None:
        derived["product"] = sample_weights * masks["means"]
    if "change" in masks:
        derived["squares"] = (masks["change"] ** 2).sum(dtype=np.uint64).reshape(1, 1)
    guest = [derived[name] - _sum([party[name] for party in parties[1:]]) for name in shapes.derived]
    return np.concatenate([each.reshape(-1) for each in guest])


def _sum(arrays: Sequence[Ring]) -> Ring:
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total
