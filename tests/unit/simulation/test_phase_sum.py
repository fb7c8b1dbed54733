"""A sum taken as updates come, against `aggregate`, which sees them all: the same bits in any order of arrival."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.aggregation import GROUP, ArraySink, ArraySource, RunningMean, Subtree, WeightedMean, WeightedSum, aggregate
from hanse.core.arrays import Arrays
from hanse.rounds.hosts.folding import Moves
from hanse.simulation.engine import Summing
from hanse.simulation.phase_sum import PhaseSum


def update(position: int) -> Arrays:
    """Exponents over 2^±60, or a broken order passes."""
    rng = np.random.default_rng(position)
    wide = np.ldexp(rng.standard_normal(23), rng.integers(-60, 60, 23))
    return Arrays({"w": wide, "n": rng.standard_normal(5).astype(np.float32)})


def moves(out: ArraySink) -> Moves:
    return Moves(out, "values", None, (), (), {})


def expected(counts: dict[int, int], rule: str, weights: str) -> Arrays:
    positions = sorted(counts)
    equal = weights == "equal" or not any(counts.values())
    out = ArraySink(update(0).layout)
    aggregate(
        [ArraySource(update(p)) for p in positions],
        positions,
        [1.0 if equal else float(counts[p]) for p in positions],
        rule=WeightedMean() if rule == "mean" else WeightedSum(),
        out=out,
    )
    return out.arrays


@settings(deadline=None)
@given(st.data())
def test_any_order_of_arrival_gives_the_bits_of_one_walk(data: Any) -> None:
    size = data.draw(st.integers(1, 40))
    holes = data.draw(st.sets(st.integers(0, size - 1), max_size=size - 1))
    most = data.draw(st.sampled_from([0, 3]))
    counts = {p: data.draw(st.integers(0, most)) for p in range(size) if p not in holes}
    rule, weights = data.draw(st.sampled_from(["mean", "sum"])), data.draw(st.sampled_from(["examples", "equal"]))
    found = PhaseSum(Summing(rule, "values", weights), update(0).layout, allow_nonfinite=False)
    lent = update(0)
    for position in data.draw(st.permutations(range(size))):
        if position in holes:
            found.leave_out(position)
            continue
        for name, array in update(position).items():
            lent[name][...] = array
        found.add(position, lent, counts[position])
    out = ArraySink(lent.layout)
    found.finish(moves(out), None)
    assert out.arrays == expected(counts, rule, weights)
    assert found.taken == set(counts)


@settings(deadline=None)
@given(st.data())
def test_sums_that_engines_made_come_in_any_order(data: Any) -> None:
    level = data.draw(st.integers(0, 2))
    span = GROUP << level
    size = data.draw(st.integers(1, 70))
    whole = size - size % span
    counts = {p: data.draw(st.integers(0, 3)) for p in range(size) if data.draw(st.booleans()) or p == size - 1}
    summing = Summing("mean", "values", "examples")
    found = PhaseSum(summing, update(0).layout, allow_nonfinite=False)
    pieces: list[Any] = [*range(whole // span), *(-1 - p for p in range(whole, size))]
    for piece in data.draw(st.permutations(pieces)):
        members = range(piece * span, (piece + 1) * span) if piece >= 0 else [-1 - piece]
        there = [p for p in members if p in counts]
        if piece >= 0 and any(counts[p] for p in there):
            take_sum(found, summing, Subtree(level, piece), there, counts)
            continue
        for position in members:
            if position in counts:
                found.add(position, update(position), counts[position])
            else:
                found.leave_out(position)
    out = ArraySink(update(0).layout)
    found.finish(moves(out), None)
    assert out.arrays == expected(counts, "mean", "examples")


def take_sum(found: PhaseSum, summing: Summing, subtree: Subtree, there: Sequence[int], counts: dict[int, int]) -> None:
    part = RunningMean(update(0).layout, rule=summing.reducer(), within=subtree)
    for position in there:
        part.add(position, ArraySource(update(position)), float(counts[position]))
    partial = part.partial()
    assert partial is not None
    found.add_partial(partial, there)
    for position in set(subtree.positions) - set(there):
        found.leave_out(position)


def test_who_answers_in_order_is_not_kept() -> None:
    found = PhaseSum(Summing("mean", "values", "examples"), update(0).layout, allow_nonfinite=False)
    for position in range(64):
        found.add(position, update(position), 1)
        assert not found._kept
    found.add(65, update(65), 1)
    assert len(found._kept) == 1
    found.add(64, update(64), 1)
    assert not found._kept
