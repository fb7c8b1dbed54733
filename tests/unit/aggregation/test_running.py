"""Update by update in memory, and partials merged from anywhere: the bits of one walk."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse.aggregation import (
    ArraySink,
    ArraySource,
    EmptyCohort,
    Overflow,
    Partial,
    RunningMean,
    Subtree,
    UpdatesRefused,
    WeightedMean,
    ZeroWeight,
    subtrees,
    whole,
)
from hanse.aggregation.canonical import num_groups
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.errors import CodecError, UpdateError
from tests.unit.aggregation.oracle import mean_array
from tests.unit.aggregation.updates import same_bits, spread

LAYOUT = ArraySource({"x": np.ones(3, dtype=np.float32)}).layout


def finish(running: RunningMean, layout: Any, **options: Any) -> Any:
    out = ArraySink(layout)
    running.finish(out, **options)
    return out.arrays["x"]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), num=st.integers(1, 50), holes=st.integers(0, 50), workers=st.integers(1, 7))
def test_one_by_one_and_by_partials_give_the_bits_of_the_walk(
    seed: int, num: int, holes: int, workers: int, kernel: Any
) -> None:
    rng = np.random.default_rng(seed)
    plan = num + holes
    positions = sorted(rng.choice(plan, num, replace=False).tolist())
    updates = {p: ArraySource({"x": spread(rng, (33,), np.float64)}) for p in positions}
    weights = {p: float(rng.random() * 2.0 ** rng.integers(-20, 20)) for p in positions}
    layout = updates[positions[0]].layout
    expected = mean_array([u.block(0, 0, 33) for u in updates.values()], positions, list(weights.values()), plan)

    running = RunningMean(layout, rule=WeightedMean(kernel))
    for position in positions:
        running.add(position, updates[position], weights[position])
    assert same_bits(finish(running, layout), expected)

    cuts = sorted([0, num_groups(plan), *rng.integers(0, num_groups(plan) + 1, workers - 1).tolist()])
    partials = []
    for first, end in pairwise(cuts):
        for tree in subtrees(first, end):
            worker = RunningMean(layout, rule=WeightedMean(kernel), within=tree)
            for position in tree.positions:
                if position in updates:
                    worker.add(position, updates[position], weights[position])
            partial = worker.partial()
            if partial is not None:
                partials.append(Partial.from_arrays(decode(encode(partial.to_arrays())), layout))
    merged = RunningMean(layout, rule=WeightedMean(kernel), within=whole(plan))
    for partial in partials:
        merged.merge(partial)
    assert same_bits(finish(merged, layout), expected)


def test_partials_and_updates_mix_and_partials_are_not_changed() -> None:
    rng = np.random.default_rng(1)
    updates = [ArraySource({"x": spread(rng, (9,), np.float32)}) for _ in range(20)]
    layout = updates[0].layout
    left = RunningMean(layout, within=Subtree(1, 0))
    for position in range(8):
        left.add(position, updates[position], 1.0)
    partial = left.partial()
    assert partial is not None
    before = encode(partial.to_arrays())
    for _ in range(2):
        rest = RunningMean(layout)
        rest.merge(partial)
        for position in range(8, 20):
            rest.add(position, updates[position], 1.0)
        expected = mean_array([u.block(0, 0, 9) for u in updates], range(20), [1.0] * 20, 20)
        assert same_bits(finish(rest, layout), expected)
    assert encode(partial.to_arrays()) == before


def test_a_reused_object_starts_afresh_and_shares_no_memory() -> None:
    running = RunningMean(LAYOUT)
    for value in (3.0, 5.0):
        for position in range(9):
            running.add(position, ArraySource({"x": np.full(3, value, dtype=np.float32)}), 2.0)
        assert finish(running, LAYOUT).tolist() == [value] * 3


def test_the_update_may_be_overwritten_after_add() -> None:
    running, buffer = RunningMean(LAYOUT), np.ones(3, dtype=np.float32)
    for position in range(6):
        buffer[:] = position
        running.add(position, ArraySource({"x": buffer}), 1.0)
    assert finish(running, LAYOUT).tolist() == [2.5] * 3


def test_a_refused_update_leaves_no_trace() -> None:
    running, good = RunningMean(LAYOUT), ArraySource({"x": np.ones(3, dtype=np.float32)})
    running.add(0, good, 1.0)
    bad = np.array([1.0, np.nan, 1.0], dtype=np.float32)
    for source, weight, reason in [
        (ArraySource({"x": bad}), 1.0, "not finite"),
        (ArraySource({"x": np.ones(4, dtype=np.float32)}), 1.0, "layout"),
        (good, -1.0, "negative"),
    ]:
        with pytest.raises(UpdatesRefused, match=reason) as caught:
            running.add(1, source, weight)
        assert list(caught.value.reasons) == [1]
    running.add(1, good, 3.0)
    out = ArraySink(LAYOUT)
    assert running.finish(out) == 4.0
    assert out.arrays["x"].tolist() == [1.0] * 3


def test_nonfinite_updates_pass_where_that_is_allowed() -> None:
    running = RunningMean(LAYOUT, allow_nonfinite=True)
    running.add(0, ArraySource({"x": np.array([1.0, np.inf, np.nan], dtype=np.float32)}), 1.0)
    found = finish(running, LAYOUT)
    assert found[:2].tolist() == [1.0, np.inf]
    assert np.isnan(found[2])


def test_order_subtree_and_emptiness_are_checked() -> None:
    one = ArraySource({"x": np.ones(3, dtype=np.float32)})
    running = RunningMean(LAYOUT, within=Subtree(0, 1))
    for wrong in (3, 8):
        with pytest.raises(ValueError, match="expected a position"):
            running.add(wrong, one, 1.0)
    running.add(5, one, 1.0)
    with pytest.raises(ValueError, match="behind 5"):
        running.add(5, one, 1.0)
    partial = running.partial()
    assert partial is not None
    assert running.partial() is None
    with pytest.raises(ValueError, match="expected a subtree within"):
        RunningMean(LAYOUT, within=Subtree(0, 0)).merge(partial)
    with pytest.raises(ValueError, match="within=Subtree"):
        RunningMean(LAYOUT).partial()
    with pytest.raises(EmptyCohort):
        RunningMean(LAYOUT).finish(ArraySink(LAYOUT))
    running.add(4, one, 0.0)
    with pytest.raises(ZeroWeight):
        running.finish(ArraySink(LAYOUT))
    with pytest.raises(UpdateError, match="bool"):
        RunningMean(ArraySource({"m": np.ones(2, dtype=bool)}).layout)


def test_an_overflow_is_named() -> None:
    huge = ArraySource({"x": np.full(2, 1.5e308)})
    running = RunningMean(huge.layout)
    running.add(0, huge, 1.0)
    running.add(1, huge, 1.0)
    with pytest.raises(Overflow, match="the sum of x"):
        running.finish(ArraySink(huge.layout))


def test_a_foreign_partial_is_refused() -> None:
    running = RunningMean(LAYOUT, within=Subtree(0, 0))
    running.add(0, ArraySource({"x": np.ones(3, dtype=np.float32)}), 1.0)
    partial = running.partial()
    assert partial is not None
    other = ArraySource({"x": np.ones(4, dtype=np.float32)}).layout
    with pytest.raises(CodecError, match="partial"):
        Partial.from_arrays(partial.to_arrays(), other)
    with pytest.raises(ValueError, match="partial"):
        RunningMean(other).merge(partial)
    arrays = partial.to_arrays()
    arrays["place"][0] = 99
    with pytest.raises(CodecError, match="numerics"):
        Partial.from_arrays(arrays, LAYOUT)


def test_updates_that_lie_end_to_end_and_others_give_the_same_sum() -> None:
    rng = np.random.default_rng(3)
    shapes = {"w": (3, 4), "none": (0,), "b": (5,), "scalar": ()}
    apart = [Arrays({n: spread(rng, s, np.float32) for n, s in shapes.items()}) for _ in range(11)]
    layout = apart[0].layout
    weights = [float(weight) for weight in rng.integers(1, 9, 11)]
    expected = {
        name: mean_array([a[name].reshape(-1) for a in apart], list(range(11)), weights, 11).reshape(shape)
        for name, shape in shapes.items()
    }
    running, mixed = RunningMean(layout), RunningMean(layout, within=whole(11))
    for position, (arrays, weight) in enumerate(zip(apart, weights, strict=True)):
        one = Arrays.end_to_end(layout, np.concatenate(arrays.flat()))
        assert len(one.flat()) == 1
        running.fold(position, one.flat(), weight)
        mixed.fold(position, (one if position % 3 else arrays).flat(), weight)
    partial = mixed.partial()
    assert partial is not None
    merged = RunningMean(layout)
    merged.merge(partial)
    for mean in (running, merged):
        out = ArraySink(layout)
        mean.finish(out)
        assert all(same_bits(out.arrays[name], expected[name]) for name in shapes)
