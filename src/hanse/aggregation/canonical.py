"""The canonical order of a reduction, `numerics: 1` (DESIGN §3.4): why every runtime gives the same bits.

A *position* is a place in the plan. Group g holds positions 4g … 4g+3; members that did not answer leave holes.
Inside a group values are folded left to right. Groups are combined in a fixed binary tree over 0 … G−1, split at
the largest power of two below the number of groups; subtrees without any member are skipped.

That tree is the binary trie over group numbers: two groups meet at level `bit_length(a ^ b)`, whatever G is. So
the plan's size changes no bit, a retry that extends the plan changes none of the sums already made, and a stack
of at most log2(G) + 1 values is enough when groups come in order (a binary counter with holes).

A *subtree* (level, index) is the aligned range of 2**level groups that begins at group index · 2**level. The sum
over a whole subtree is a partial: partials made anywhere merge to the same bits.

Not here: what is folded. `Tree` takes any `merge`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

GROUP = 4
"""Positions in one group."""
T = TypeVar("T")
_OUT_OF_ORDER = "tree: expected groups from {} on, in order and each once; found group {}"


@dataclass(frozen=True, slots=True, order=True)
class Subtree:
    """The groups index · 2**level … (index + 1) · 2**level − 1."""

    level: int
    index: int

    def __post_init__(self) -> None:
        if self.level < 0 or self.index < 0:
            raise ValueError(f"subtree: expected level and index >= 0, found {self.level} and {self.index}")

    @property
    def first_group(self) -> int:
        """First group inside."""
        return self.index << self.level

    @property
    def end_group(self) -> int:
        """First group behind."""
        return (self.index + 1) << self.level

    @property
    def positions(self) -> range:
        """Every position inside."""
        return range(self.first_group * GROUP, self.end_group * GROUP)


def num_groups(plan_size: int) -> int:
    """Groups of a plan with `plan_size` positions."""
    return -(-plan_size // GROUP)


def whole(plan_size: int) -> Subtree:
    """The smallest subtree that holds every position of the plan."""
    return Subtree(max(num_groups(plan_size) - 1, 0).bit_length(), 0)


def subtrees(first_group: int, end_group: int) -> Iterator[Subtree]:
    """The fewest aligned subtrees that together are the groups first_group … end_group − 1."""
    while first_group < end_group:
        room = (end_group - first_group).bit_length() - 1
        aligned = (first_group & -first_group).bit_length() - 1 if first_group else room
        level = min(room, aligned)
        yield Subtree(level, first_group >> level)
        first_group += 1 << level


def group_members(positions: Sequence[int]) -> Iterator[tuple[int, range]]:
    """Consecutive runs of one group.

    Args:
        positions: strictly increasing.

    Yields:
        The group's number and the range of indices into `positions` that belong to it.
    """
    start = 0
    while start < len(positions):
        group, stop = positions[start] // GROUP, start + 1
        while stop < len(positions) and positions[stop] // GROUP == group:
            stop += 1
        yield group, range(start, stop)
        start = stop


class Tree(Generic[T]):
    """Combines values of groups or subtrees, given in increasing order, in the canonical tree.

    Args:
        merge: `merge(left, right)`; may reuse either.
    """

    __slots__ = ("_end", "_merge", "_stack")

    def __init__(self, merge: Callable[[T, T], T]) -> None:
        self._merge = merge
        self._stack: list[tuple[int, T]] = []  # (some group inside, value); joins get lower towards the top
        self._end = 0

    def __len__(self) -> int:
        return len(self._stack)

    def settle(self, group: int) -> None:
        """Combine all that is complete when nothing below `group` can come any more."""
        stack = self._stack
        while len(stack) > 1 and (stack[-2][0] ^ stack[-1][0]).bit_length() < (stack[-1][0] ^ group).bit_length():
            self._merge_top()

    def push(self, subtree: Subtree, value: T) -> None:
        """Add the value of a whole subtree.

        Raises:
            ValueError: the subtree overlaps or precedes one that was given before.
        """
        if subtree.first_group < self._end:
            raise ValueError(_OUT_OF_ORDER.format(self._end, subtree.first_group))
        self.settle(subtree.first_group)
        self._stack.append((subtree.first_group, value))
        self._end = subtree.end_group

    def push_group(self, group: int, value: T) -> None:
        """Add the value of one group."""
        if group < self._end:
            raise ValueError(_OUT_OF_ORDER.format(self._end, group))
        self.settle(group)
        self._stack.append((group, value))
        self._end = group + 1

    def joins_top(self, group: int, next_group: int | None) -> bool:
        """Whether `group` will be merged into the topmost value before anything else happens.

        Args:
            group: the next group to be given. next_group: the one after it, None when there is none.
        """
        if not self._stack:
            return False
        joint = (self._stack[-1][0] ^ group).bit_length()
        return next_group is None or joint < (group ^ next_group).bit_length()

    def join_top(self, group: int) -> T:
        """The topmost value, into which the caller now merges `group` itself."""
        self._end = group + 1
        return self._stack[-1][1]

    def finish(self) -> T | None:
        """The value of everything; None when nothing was given. Empties the tree."""
        while len(self._stack) > 1:
            self._merge_top()
        return self._stack.pop()[1] if self._stack else None

    def _merge_top(self) -> None:
        _, right = self._stack.pop()
        group, left = self._stack.pop()
        self._stack.append((group, self._merge(left, right)))


def total_weight(positions: Sequence[int], weights: Sequence[float]) -> float:
    """Sum of the weights in the canonical order, in float64.

    Args:
        positions: strictly increasing; weights: one for each, finite and >= 0.
    """
    tree: Tree[float] = Tree(lambda left, right: left + right)
    for group, members in group_members(positions):
        value = float(weights[members[0]])
        for member in members[1:]:
            value += float(weights[member])
        tree.push_group(group, value)
    return tree.finish() or 0.0
