"""What may leave a site: groups of enough rows, the error in rank, withheld cells and their complements."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hanse.analytics.release import is_small_split, is_small_table, microaggregated, withheld

values = st.lists(st.floats(-1e300, 1e300), max_size=60)


@given(values, st.integers(1, 12))
def test_each_released_value_stands_for_enough_rows(rows: list[float], k: int) -> None:
    released = microaggregated(np.array(rows), k)
    if len(rows) < k:
        assert len(released) == 0
        return
    assert len(released) == len(rows)
    _, counts = np.unique(released, return_counts=True)
    assert (counts >= k).all() or k == 1
    assert np.array_equal(released, np.sort(released))


@given(values, st.integers(1, 12), st.floats(-1e300, 1e300))
def test_ranks_are_wrong_by_less_than_a_group(rows: list[float], k: int, t: float) -> None:
    if len(rows) < k:
        return
    released = microaggregated(np.array(rows), k)
    for at in [t, *rows]:
        assert abs(int((released <= at).sum()) - int((np.array(rows) <= at).sum())) < 2 * k - 1 or k == 1


@given(values)
def test_groups_of_one_are_the_values(rows: list[float]) -> None:
    assert np.array_equal(microaggregated(np.array(rows), 1), np.sort(np.array(rows, dtype=np.float64)))


def test_a_group_is_replaced_by_its_mean() -> None:
    released = microaggregated(np.array([9.0, 1.0, 2.0, 3.0, 4.0, 8.0, 10.0]), 3)
    np.testing.assert_allclose(released, [2, 2, 2, 7.75, 7.75, 7.75, 7.75], rtol=1e-15)
    assert microaggregated(np.array([1e308, 1.6e308]), 2).tolist() == [1.3e308, 1.3e308]


tables = st.integers(1, 5).flatmap(
    lambda width: st.lists(st.lists(st.integers(0, 30), min_size=width, max_size=width), min_size=1, max_size=5)
)


@given(tables, st.integers(1, 12))
def test_small_cells_never_leave_alone(table: list[list[int]], k: int) -> None:
    count = np.array(table)
    hidden = withheld(count, k)
    assert not ((count > 0) & (count < k) & ~hidden).any()
    if k == 1:
        assert not hidden.any()
    for line, told in [*zip(count, hidden, strict=True), *zip(count.T, hidden.T, strict=True)]:
        if told.any() and len(line) > 1:
            assert told.sum() >= 2
            rest = line[~told]
            assert line[told].sum() >= k or not (rest > 0).any()


def test_the_smallest_other_cell_goes_along() -> None:
    assert withheld(np.array([[3, 50, 12, 40]]), 10).tolist() == [[True, False, True, False]]
    assert withheld(np.array([3, 0, 12, 40]), 10).tolist() == [True, False, True, False]
    assert withheld(np.array([1, 2, 30, 40]), 10).tolist() == [True, True, True, False]
    assert withheld(np.array([0, 30, 40]), 10).tolist() == [False, False, False]


def test_a_rare_one_among_two_values_is_a_small_cell() -> None:
    assert is_small_split(np.array([0.0] * 50 + [1.0] * 9), 10)
    assert not is_small_split(np.array([0.0] * 50 + [1.0] * 10), 10)
    assert not is_small_split(np.array([0.0] * 50), 10)
    assert is_small_split(np.array([0.0] * 198 + [3.0, 5e6]), 10), "two rows would be told by sum and squares"
    assert not is_small_split(np.array([0.0] * 198 + list(range(1, 11))), 10)


def test_a_cell_of_few_rows_is_not_told_by_a_sum_of_products() -> None:
    first, second = np.zeros(200), np.zeros(200)
    first[:20], second[19:40] = 1.0, 1.0
    assert is_small_table(first, second, 10), "one row is in both"
    second[10:40] = 1.0
    assert not is_small_table(first, second, 10)
    rng = np.random.default_rng(1)
    assert not is_small_table(rng.normal(size=200), rng.normal(size=200), 10)
    assert not is_small_split(np.array([0.0, 1.0, 2.0]), 10)
    assert not is_small_split(np.array([0.0, 1.0]), 1)
