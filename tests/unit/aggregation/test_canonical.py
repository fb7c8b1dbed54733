"""The tree, its holes and its subtrees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.aggregation.canonical import Subtree, Tree, group_members, num_groups, subtrees, total_weight, whole
from tests.unit.aggregation.oracle import tree_sum, weighted_sum


def shape(first: int, count: int, present: set[int]) -> object:
    """The tree of the words: split at the largest power of two below count, absent subtrees skipped."""
    if count == 1:
        return first if first in present else None
    split = 1
    while split * 2 < count:
        split *= 2
    left, right = shape(first, split, present), shape(first + split, count - split, present)
    return (left, right) if left is not None and right is not None else right if left is None else left


@given(st.integers(1, 70).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))))
def test_the_stack_builds_the_tree_of_the_words(case: tuple[int, set[int]]) -> None:
    count, present = case
    tree: Tree[object] = Tree(lambda left, right: (left, right))
    deepest = 0
    for group in sorted(present):
        tree.push_group(group, group)
        deepest = max(deepest, len(tree))
    assert tree.finish() == shape(0, count, present)
    assert deepest <= max(count - 1, 0).bit_length() + 1


@given(st.sets(st.integers(0, 70), min_size=1))
def test_a_larger_plan_gives_the_same_tree(present: set[int]) -> None:
    least = max(present) + 1
    assert shape(0, least, present) == shape(0, 2 * least + 5, present)


@given(st.sets(st.integers(0, 70), min_size=1))
def test_joining_the_top_is_what_pushing_would_do(present: set[int]) -> None:
    groups = sorted(present)
    tree: Tree[list[object]] = Tree(lambda left, right: [(left[0], right[0])])
    for group, after in zip(groups, [*groups[1:], None], strict=True):
        tree.settle(group)
        if tree.joins_top(group, after):
            top = tree.join_top(group)
            top[0] = (top[0], group)
        else:
            tree.push_group(group, [group])
    assert tree.finish() == [shape(0, groups[-1] + 1, present)]


def test_an_example_on_paper() -> None:
    tree: Tree[str] = Tree(lambda left, right: f"({left}+{right})")
    for group in (0, 1, 2, 3, 4, 6):
        tree.push_group(group, str(group))
    assert tree.finish() == "(((0+1)+(2+3))+(4+6))"
    assert tree.finish() is None


def test_groups_out_of_order_or_twice_are_refused() -> None:
    tree: Tree[int] = Tree(lambda left, right: left + right)
    tree.push(Subtree(1, 1), 1)  # groups 2 and 3
    for wrong in (Subtree(0, 3), Subtree(0, 0), Subtree(2, 0)):
        with pytest.raises(ValueError, match="in order and each once"):
            tree.push(wrong, 1)
    tree.push(Subtree(2, 1), 1)


@given(st.integers(0, 200), st.integers(0, 200))
def test_subtrees_cover_a_range_once_and_are_few(first: int, size: int) -> None:
    found = list(subtrees(first, first + size))
    covered = [group for tree in found for group in range(tree.first_group, tree.end_group)]
    assert covered == list(range(first, first + size))
    assert len(found) <= 2 * max(size, 1).bit_length()


def test_positions_groups_and_the_whole() -> None:
    assert list(group_members([0, 3, 4, 9, 10])) == [(0, range(0, 2)), (1, range(2, 3)), (2, range(3, 5))]
    assert [num_groups(n) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [whole(n) for n in (0, 4, 5, 17)] == [Subtree(0, 0), Subtree(0, 0), Subtree(1, 0), Subtree(3, 0)]
    assert Subtree(1, 3).positions == range(24, 32)
    with pytest.raises(ValueError, match="level and index >= 0"):
        Subtree(-1, 0)


@given(st.lists(st.floats(2.0**-60, 2.0**60), min_size=1, max_size=60), st.randoms())
def test_total_weight_is_in_canonical_order(weights: list[float], random: object) -> None:
    positions = sorted(random.sample(range(2 * len(weights)), len(weights)))  # type: ignore[attr-defined]
    expected = weighted_sum([1.0] * len(weights), positions, weights, 2 * len(weights))
    assert total_weight(positions, weights) == expected
    assert tree_sum({}, 0, 4) is None
