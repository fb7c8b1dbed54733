"""Bulyan, geometric median, FLTrust and exact inner products, against slow references written from the papers.

The references are loops over Python floats and whole updates: none of them knows of blocks or inner products.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.aggregation import (
    ArraySink,
    ArraySource,
    Bulyan,
    GeometricMedian,
    Krum,
    MeanAroundMedian,
    RootTrust,
    aggregate,
)
from hanse.aggregation.gathers import MEASURE_ELEMENTS
from hanse.aggregation.gram import LONGEST, gram
from hanse.core.errors import UpdateError
from tests.unit.aggregation.updates import same_bits

Vectors = list[list[float]]


def reduce(updates: Any, rule: Any, weights: Any = None, **options: Any) -> Any:
    order = list(options.pop("order", range(len(updates))))
    weights = [1.0] * len(updates) if weights is None else weights
    out = ArraySink(ArraySource({"x": updates[0]}).layout)
    sources = [ArraySource({"x": updates[i]}) for i in order]
    aggregate(sources, order, [weights[i] for i in order], rule=rule, out=out, **options)
    return out.arrays["x"]


def distance(a: list[float], b: list[float]) -> float:
    return math.sqrt(math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True)))


def cohort(num: int, n: int, seed: int = 0, wild: int = 0) -> Vectors:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(num, n)) + rng.normal(size=n)
    rows[:wild] += 50 * rng.normal(size=(wild, n))
    return [row.tolist() for row in rows]


# ---- slow references ----


def bulyan(updates: Vectors, f: int) -> list[float]:
    """El Mhamdi et al. 2018, section 4: θ = n − 2f times Krum, then β = θ − 2f values around each median."""
    left = dict(enumerate(updates))
    selected: Vectors = []
    while len(selected) < len(updates) - 2 * f:
        scores = {}
        for i, x in left.items():
            near = sorted(distance(x, y) ** 2 for j, y in left.items() if j != i)
            scores[i] = sum(near[: max(len(left) - f - 2, 1)])
        best = min(sorted(scores), key=scores.__getitem__)
        selected.append(left.pop(best))
    beta = len(selected) - 2 * f
    result = []
    for column in zip(*selected, strict=True):
        ordered, middle = sorted(column), len(column) // 2
        median = ordered[middle] if len(column) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
        nearest = sorted(column, key=lambda value: abs(value - median))[:beta]
        result.append(sum(nearest) / beta)
    return result


def weiszfeld(updates: Vectors, nu: float, steps: int = 2000) -> list[float]:
    """Pillutla et al. 2022, Algorithm 2 with equal α, on whole vectors."""
    v = [sum(column) / len(updates) for column in zip(*updates, strict=True)]
    for _ in range(steps):
        beta = [1 / max(nu, distance(v, w)) for w in updates]
        v = [
            sum(b * value for b, value in zip(beta, column, strict=True)) / sum(beta)
            for column in zip(*updates, strict=True)
        ]
    return v


def fltrust(updates: Vectors, root: list[float]) -> list[float]:
    """Cao et al. 2021, Algorithm 2, lines of the server."""
    length = math.sqrt(sum(x * x for x in root))
    total, result = 0.0, [0.0] * len(root)
    for g in updates:
        norm = math.sqrt(sum(x * x for x in g))
        trust = max(0.0, sum(x * y for x, y in zip(g, root, strict=True)) / (norm * length))
        total += trust
        result = [r + trust * length / norm * x for r, x in zip(result, g, strict=True)]
    return [r / total for r in result]


# ---- rules against references ----


@pytest.mark.parametrize(("num", "f", "wild"), [(3, 0, 0), (7, 1, 1), (11, 2, 2), (12, 2, 1), (15, 3, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_bulyan_equals_the_definition(num: int, f: int, wild: int, seed: int) -> None:
    updates = cohort(num, 40, seed, wild)
    found = reduce([np.array(u) for u in updates], Bulyan(f))
    np.testing.assert_allclose(found, bulyan(updates, f), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("num", "wild"), [(1, 0), (2, 0), (5, 1), (9, 4), (20, 9)])
@pytest.mark.parametrize("seed", range(3))
def test_geometric_median_equals_weiszfeld_on_whole_vectors(num: int, wild: int, seed: int) -> None:
    updates = cohort(num, 30, seed, wild)
    found = reduce([np.array(u) for u in updates], GeometricMedian(max_steps=2000))
    np.testing.assert_allclose(found, weiszfeld(updates, 1e-6), rtol=2e-5, atol=2e-5)


def test_geometric_median_has_no_downhill_direction() -> None:
    """Its optimality condition: the unit vectors towards the updates cancel."""
    updates = cohort(9, 50, 5)
    v = reduce([np.array(u) for u in updates], GeometricMedian(max_steps=2000)).tolist()
    pulls = [[(x - y) / distance(u, v) for x, y in zip(u, v, strict=True)] for u in updates]
    assert math.sqrt(sum(sum(column) ** 2 for column in zip(*pulls, strict=True))) < 1e-4
    mean = np.mean(updates, axis=0).tolist()
    assert sum(distance(u, v) for u in updates) < sum(distance(u, mean) for u in updates)


def test_geometric_median_of_three_on_a_line_is_the_middle_one() -> None:
    updates = [np.array([value, 2 * value]) for value in (0.0, 1.0, 1e30)]
    found = reduce(updates, GeometricMedian(max_steps=5000))
    np.testing.assert_allclose(found, [1.0, 2.0], atol=1e-2)


@pytest.mark.parametrize("seed", range(4))
def test_fltrust_equals_the_definition(seed: int) -> None:
    updates = cohort(8, 60, seed, wild=3)
    root = np.mean(updates[3:], axis=0).tolist()
    weights = [5.0] * 8 + [0.0]
    found = reduce([np.array(u) for u in [*updates, root]], RootTrust(), weights)
    np.testing.assert_allclose(found, fltrust(updates, root), rtol=1e-9, atol=1e-12)


def test_fltrust_moves_nothing_where_all_point_away_and_nothing_at_all_is_no_direction() -> None:
    root = np.array([1.0, 2.0])
    assert reduce([-root, -3 * root, root], RootTrust(), [1.0, 1.0, 0.0]).tolist() == [0.0, 0.0]
    assert reduce([np.zeros(2), 3 * root, root], RootTrust(), [1.0, 1.0, 0.0]).tolist() == [1.0, 2.0]
    assert reduce([root, np.zeros(2)], RootTrust(), [1.0, 0.0]).tolist() == [0.0, 0.0]


def test_fltrust_needs_one_root() -> None:
    for weights in ([1.0, 1.0, 1.0], [0.0, 0.0, 1.0]):
        with pytest.raises(UpdateError, match="exactly one root"):
            reduce([np.ones(2)] * 3, RootTrust(), weights)


@settings(max_examples=60, deadline=None)
@given(
    columns=st.lists(st.lists(st.floats(-1e6, 1e6), min_size=7, max_size=7), min_size=1, max_size=9),
    keep=st.integers(1, 9),
)
def test_mean_around_median_takes_the_nearest(columns: Vectors, keep: int) -> None:
    out = np.empty(len(columns))
    MeanAroundMedian(keep).reduce(np.array(columns).T.copy(), [1.0] * 7, out)
    for column, found in zip(columns, out.tolist(), strict=True):
        median = sorted(column)[3]
        reach = sorted(abs(value - median) for value in column)[min(keep, 7) - 1]
        candidates = [value for value in column if abs(value - median) <= reach]
        # with ties at the edge there are several right answers; all lie between these
        least = sum(sorted(candidates)[: min(keep, 7)]) / min(keep, 7)
        most = sum(sorted(candidates)[-min(keep, 7) :]) / min(keep, 7)
        assert least - 1e-6 <= found <= most + 1e-6


# ---- blocks, threads, arrival ----


N = MEASURE_ELEMENTS * 2 + 77


@pytest.mark.parametrize("rule", [Bulyan(1), GeometricMedian(), RootTrust()], ids=["bulyan", "rfa", "fltrust"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_blocks_and_arrival_change_no_bit(rule: Any, dtype: Any) -> None:
    updates = [np.array(u, dtype) * 2.0 ** (3 * i) for i, u in enumerate(cohort(7, N))]
    weights = [0.0, *[1.0] * 6]
    expected = reduce(updates, rule, weights)
    for order, threads, block in [
        ([6, 2, 0, 5, 1, 3, 4], 1, 1000),
        (range(7), 3, 77),
        ([3, 1, 2, 0, 6, 5, 4], 2, None),
    ]:
        found = reduce(updates, rule, weights, order=order, threads=threads, block_elements=block)
        assert same_bits(found, expected)


def test_rules_need_enough_updates_and_sound_arguments() -> None:
    with pytest.raises(UpdateError, match="at least 11 updates, found 10"):
        reduce([np.ones(3)] * 10, Bulyan(2))
    makers: list[tuple[Callable[[], Any], str]] = [
        (lambda: Bulyan(-1), "num_byzantine=-1"),
        (lambda: GeometricMedian(0.0), "smoothing=0.0"),
        (lambda: GeometricMedian(math.inf), "smoothing=inf"),
        (lambda: GeometricMedian(max_steps=0), "max_steps=0"),
        (lambda: MeanAroundMedian(0), "keep=0"),
    ]
    for make, says in makers:
        with pytest.raises(ValueError, match=says):
            make()


def test_an_update_beyond_all_measure_is_left_out() -> None:
    updates = [np.full(5, 1.0), np.full(5, 2.0), np.full(5, 1e200), np.full(5, 1.5)]
    assert reduce(updates, GeometricMedian())[0] == pytest.approx(1.5, abs=1e-3)
    assert reduce([*updates, np.full(5, 1.4)], Krum(1)).tolist() == [1.4] * 5


# ---- inner products ----


def exact(a: list[float], b: list[float]) -> Fraction:
    return sum((Fraction(x) * Fraction(y) for x, y in zip(a, b, strict=True)), Fraction(0))


@pytest.mark.parametrize("n", [1, 3, 200])
@pytest.mark.parametrize("power", [-900, 0, 400])
def test_inner_products_are_right_to_twelve_digits(n: int, power: int) -> None:
    rng = np.random.default_rng(n)
    rows = rng.normal(size=(6, n)) * 2.0 ** rng.integers(-8, 8, (6, 1)) * 2.0 ** min(power, 0)
    rows[0] = 0
    if power > 0:
        rows[1] *= 2.0**power
    found = gram(rows.copy())
    for i, a in enumerate(rows.tolist()):
        for j, b in enumerate(rows.tolist()):
            largest = Fraction(max(map(abs, a))) * Fraction(max(map(abs, b)))
            error = abs(Fraction(float(found[i, j])) - exact(a, b))
            # the second term: what cannot be written as a float64 at all
            assert error <= n * largest * Fraction(2) ** -38 + Fraction(2) ** -1074


def test_the_order_of_a_blas_changes_no_bit_of_an_inner_product() -> None:
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(9, LONGEST)) * 2.0 ** rng.integers(-30, 30, (9, LONGEST))
    expected = gram(rows.copy())
    for _ in range(5):
        assert same_bits(gram(rows[:, rng.permutation(LONGEST)].copy()), expected)
    assert not same_bits(rows @ rows.T, rows[:, ::-1] @ rows[:, ::-1].T), "a plain product must show the difference"


def test_longer_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 4096 elements, found 4097"):
        gram(np.ones((2, LONGEST + 1)))
    assert MEASURE_ELEMENTS <= LONGEST


def test_a_huge_update_does_not_hide_a_liar_from_krum() -> None:
    """Taking the mean away first, as Krum did here once, loses the honest updates' digits beside 1e30."""
    rng = np.random.default_rng(3)
    honest = [rng.normal(size=50) for _ in range(7)]
    liar, huge = np.full(50, 30.0), np.full(50, 1e30)
    found = reduce([liar, huge, *honest], Krum(2))
    assert any(same_bits(found, update) for update in honest)
    wide = np.array([liar, huge, *honest])
    centred = wide - wide.mean(axis=0)
    assert same_bits(centred[0], centred[2]), "the digits were lost indeed"
