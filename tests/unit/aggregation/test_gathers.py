"""Norm bound and Krum: against references from the papers' words; threads and arrival change no bit."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hanse.aggregation import ArraySink, ArraySource, Choice, EmptyCohort, Krum, NormBound, WeightedMean, aggregate
from hanse.aggregation.gathers import MEASURE_ELEMENTS
from hanse.aggregation.gram import row_sums
from hanse.core.errors import UpdateError
from tests.unit.aggregation.updates import same_bits

N = MEASURE_ELEMENTS * 2 + 100


def cohort(num: int = 7, seed: int = 0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(N).astype(np.float32) * (i + 1) for i in range(num)]


def reduce(updates: Sequence[np.ndarray[Any, Any]], rule: Any, weights: Any = None, **options: Any) -> Any:
    order = options.pop("order", range(len(updates)))
    weights = [1.0] * len(updates) if weights is None else weights
    out = ArraySink(ArraySource({"x": updates[0]}).layout)
    base = options.pop("base", None)
    aggregate(
        [ArraySource({"x": updates[i]}) for i in order],
        list(order),
        [weights[i] for i in order],
        rule=rule,
        out=out,
        base=None if base is None else ArraySource({"x": base}),
        **options,
    )
    return out.arrays["x"]


def test_norm_bound_scales_long_deltas_only() -> None:
    deltas, weights = cohort(), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    bound = 3.0 * math.sqrt(N)
    expected = np.zeros(N)
    for delta, weight in zip(deltas, weights, strict=True):
        norm = math.sqrt(math.fsum(float(v) ** 2 for v in delta))
        expected += weight * min(1.0, bound / norm) * delta.astype(np.float64)
    base = np.ones(N, dtype=np.float32)
    found = reduce(deltas, NormBound(bound), weights, kind="delta", base=base)
    np.testing.assert_allclose(found, 1.0 + expected / sum(weights), rtol=1e-5, atol=1e-6)
    values = reduce([base + d for d in deltas], NormBound(bound), weights, base=base)
    np.testing.assert_allclose(values, found, rtol=1e-4, atol=1e-5)


def test_an_update_within_the_bound_is_the_plain_mean() -> None:
    deltas = cohort()
    assert same_bits(reduce(deltas, NormBound(1e9)), reduce(deltas, WeightedMean("numpy")))


@pytest.mark.parametrize("rule", [NormBound(100.0), Krum(2), Krum(1, keep=3)], ids=["norm", "krum", "multi-krum"])
def test_threads_blocks_and_arrival_change_no_bit(rule: Any) -> None:
    updates = cohort()
    expected = reduce(updates, rule)
    for order, threads, block in [
        ([6, 2, 0, 5, 1, 3, 4], 1, 1000),
        (range(7), 3, 77),
        ([3, 1, 2, 0, 6, 5, 4], 2, None),
    ]:
        assert same_bits(reduce(updates, rule, order=order, threads=threads, block_elements=block), expected)


@pytest.mark.parametrize("keep", [1, 3])
def test_krum_equals_the_definition(keep: int) -> None:
    rng = np.random.default_rng(4)
    updates = [(rng.standard_normal(N) * 0.1 + 5).astype(np.float32) for _ in range(9)]
    updates[4] += 30
    updates[7] -= 40
    byzantine = 2
    wide = [u.astype(np.float64) for u in updates]
    scores = []
    for i, x in enumerate(wide):
        distances = sorted(float(((x - y) ** 2).sum()) for j, y in enumerate(wide) if j != i)
        scores.append(sum(distances[: 9 - byzantine - 2]))
    best = sorted(sorted(range(9), key=lambda i: scores[i])[:keep])
    assert 4 not in best
    assert 7 not in best
    expected = np.mean([wide[i] for i in best], axis=0)
    np.testing.assert_allclose(reduce(updates, Krum(byzantine, keep=keep)), expected, rtol=1e-6)


def test_krum_needs_enough_updates() -> None:
    with pytest.raises(UpdateError, match="at least 7 updates, found 6"):
        reduce(cohort(6), Krum(2))
    with pytest.raises(ValueError, match="num_byzantine"):
        Krum(-1)
    with pytest.raises(ValueError, match="max_norm"):
        NormBound(0.0)


def test_counters_are_not_measured_but_averaged() -> None:
    updates = [ArraySource({"x": np.ones(4, np.float32), "n": np.array([1000 * i], np.int64)}) for i in range(3)]
    out = ArraySink(updates[0].layout)
    aggregate(updates, range(3), [1.0] * 3, rule=NormBound(2.0), out=out)
    assert out.arrays["x"].tolist() == [1.0] * 4
    assert out.arrays["n"].tolist() == [1000]
    only = [ArraySource({"n": np.array([1], np.int64)})]
    with pytest.raises(UpdateError, match="at least one array of floats"):
        aggregate(only, [0], [1.0], rule=NormBound(2.0), out=ArraySink(only[0].layout))


def test_an_optimiser_after_a_gather_sees_values() -> None:
    base, updates = np.full(3, 2.0, np.float32), [np.full(3, v, np.float32) for v in (3.0, 5.0)]
    seen = []

    def update(model: Any, reduced: Any, states: Any, scalars: Any) -> Any:
        seen.append((model.tolist(), reduced.tolist()))
        return reduced

    found = reduce(updates, NormBound(100.0), base=base, update=update)
    assert seen == [([2.0] * 3, [4.0] * 3)]
    assert found.tolist() == [4.0] * 3


class Nobody:
    """Chooses no one."""

    def measure(self, blocks: Any) -> Any:
        return row_sums(blocks)

    def choose(self, stats: Any, weights: Any) -> Choice:
        return Choice((None,) * len(weights))


def test_choosing_nobody_is_an_empty_cohort() -> None:
    with pytest.raises(EmptyCohort):
        reduce(cohort(2), Nobody())


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 1000])
def test_row_sums(n: int) -> None:
    rows = np.arange(3 * n, dtype=np.float64).reshape(3, n)
    assert row_sums(rows.copy()).tolist() == rows.sum(axis=1).tolist()
