"""The sum of many against the fold of one after another: the same bits, with holes and with exponents far apart."""

from itertools import count

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.aggregation import many
from hanse.aggregation.canonical import GROUP, Subtree, Tree, group_members
from hanse.aggregation.folds import Sum, WeightedSum
from hanse.core.arrays import Array


def one_after_another(positions: list[int], blocks: list[Array], weights: list[float]) -> Array:
    rule = WeightedSum("numpy")
    tree: Tree[Sum] = Tree(rule.merge)
    for group, members in group_members(positions):
        acc = rule.zero(len(blocks[0]))
        for member in members:
            rule.add(acc, blocks[member], weights[member])
        tree.push_group(group, acc)
    total = tree.finish()
    assert total is not None
    return total.values


@given(
    level=st.integers(0, 4),
    index=st.integers(0, 3),
    dtype=st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16, np.int32]),
    seed=st.integers(0, 10_000),
    share=st.one_of(st.just(1.0), st.floats(0.05, 1)),
    equal=st.booleans(),
)
def test_bits_are_those_of_one_after_another(
    level: int, index: int, dtype: type, seed: int, share: float, equal: bool
) -> None:
    rng = np.random.default_rng(seed)
    subtree = Subtree(level, index)
    inside = np.array(subtree.positions)
    positions = [int(p) for p in inside if rng.random() < share] or [int(inside[-1])]
    n = 11
    blocks = []
    for _ in positions:
        values = rng.standard_normal(n) * (2.0 ** rng.integers(-12, 12, n))
        values[rng.random(n) < 0.3] *= 0  # zeros of both signs
        blocks.append((values * 100).astype(dtype) if dtype is np.int32 else values.astype(dtype))
    weights = [1.0 if equal else float(w) for w in rng.integers(0, 2**40, len(positions)) / 7]
    expected = one_after_another(positions, blocks, weights).tobytes()
    wide = np.concatenate(
        [np.stack(blocks), np.stack(blocks)], axis=1
    )  # whose rows lie further apart than they are long
    for given_as in (blocks, np.stack(blocks), wide[:, :n]):
        assert many.sum_of_many(subtree, positions, given_as, weights).tobytes() == expected


def test_bits_with_exponents_far_apart_where_any_other_order_shows() -> None:
    rng = np.random.default_rng(0)
    positions = list(range(8 * GROUP))
    blocks = [rng.standard_normal(500) * 2.0 ** rng.integers(-60, 60, 500) for _ in positions]
    weights = [float(w) for w in rng.integers(1, 1000, len(positions))]
    found = many.sum_of_many(Subtree(3, 0), positions, blocks, weights)
    assert found.tobytes() == one_after_another(positions, blocks, weights).tobytes()
    assert found.tobytes() == many.sum_of_many(Subtree(3, 0), positions, np.stack(blocks), weights).tobytes()
    other = sum(w * block for w, block in zip(reversed(weights), reversed(blocks), strict=True))
    assert found.tobytes() != np.asarray(other).tobytes()


def test_an_array_without_elements() -> None:
    assert many.sum_of_many(Subtree(0, 0), [1, 2], [np.empty(0, np.float32)] * 2, [1.0, 2.0]).shape == (0,)


def test_bits_where_rows_are_worked_on_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many, "PIECE", 16)
    monkeypatch.setattr(many, "SHORTEST", 3)
    rng, positions = np.random.default_rng(1), [32, 33, 39, 41]
    blocks = [rng.standard_normal(50).astype(np.float32) for _ in positions]
    weights = [float(n) for n, _ in zip(count(3), positions, strict=False)]
    found = many.sum_of_many(Subtree(2, 2), positions, blocks, weights)
    assert found.tobytes() == one_after_another(positions, blocks, weights).tobytes()
