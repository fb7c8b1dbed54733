"""Sorting networks: which rows to compare in which order so that some of them end up sorted, whatever they hold.

K. E. Batcher, "Sorting networks and their applications", AFIPS 1968, odd-even merge sort; for a number of rows that is
no power of two, comparators that touch a row beyond the last are left out, which is the same as rows of +∞ there.
Comparators that no wanted row depends on are left out, too. What remains is grouped, since a kernel is bound by how
often it writes a row: eight rows are sorted at a time, then four rows get three comparators, and the rest come alone.

Not here: the kernel that carries them out (`fused_sorting`).
"""

from collections import deque
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Comparator = tuple[int, int]
"""The smaller value goes to the first row."""
SORT, MERGE, PAIR = 8, 4, 2
"""Kinds of steps, by how many rows they touch: sort eight rows; comparators (0, 2), (1, 3), (1, 2) of four rows; one
comparator."""
STEP = 1 + SORT
"""Numbers of one step: its kind, then its rows, then zeros."""


def comparators(num: int, first: int = 1) -> list[Comparator]:
    """Odd-even merge sort of `num` rows, from the merging of sorted runs of `first` rows (a power of two) on."""
    made, run = list[Comparator](), first
    while run < num:
        distance = run
        while distance:
            for start in range(distance % run, num - distance, 2 * distance):
                for row in range(start, min(start + distance, num - distance)):
                    if row // (2 * run) == (row + distance) // (2 * run):
                        made.append((row, row + distance))
            distance //= 2
        run *= 2
    return made


def needed(network: Sequence[Comparator], wanted: Iterable[int]) -> list[Comparator]:
    """The comparators that the values of the wanted rows depend on."""
    rows, kept = set(wanted), list[Comparator]()
    for comparator in reversed(network):
        if rows.intersection(comparator):
            rows.update(comparator)
            kept.append(comparator)
    return kept[::-1]


@lru_cache(maxsize=256)
def steps(num: int, low: int, high: int) -> npt.NDArray[np.int64]:
    """A program after which the rows low … high − 1 of `num` hold what they would if all were sorted.

    Returns:
        int64, (number of steps, `STEP`); not to be changed.
    """
    whole = num - num % SORT
    made = [[SORT, *range(start, start + SORT)] for start in range(0, whole, SORT)]
    rest = [(a + whole, b + whole) for a, b in comparators(SORT) if b < num - whole]
    made += _grouped(needed([*rest, *comparators(num, SORT)], range(low, high)), num)
    program = np.zeros((len(made), STEP), np.int64)
    for place, step in enumerate(made):
        program[place, : len(step)] = step
    program.flags.writeable = False
    return program


def _grouped(network: Sequence[Comparator], num: int) -> list[list[int]]:
    """The comparators as steps, three of them as one `MERGE` where each row still gets its own in their order."""
    queues: list[deque[int]] = [deque() for _ in range(num)]  # places in the network, by row
    for place, pair in enumerate(network):
        for row in pair:
            queues[row].append(place)
    made, done = list[list[int]](), set[int]()
    for place, pair in enumerate(network):
        if place in done:
            continue
        step = _merge_with(place, network, queues) or [PAIR, *pair]
        made.append(step)
        taken = (1, 2, 2, 1) if step[0] == MERGE else (1, 1)
        for row, count in zip(step[1:], taken, strict=True):
            done.update(queues[row].popleft() for _ in range(count))
    return made


def _merge_with(place: int, network: Sequence[Comparator], queues: Sequence[deque[int]]) -> list[int] | None:
    """A comparator that is next in both its rows, with another such and the one that follows both, if there are."""
    for row in network[place]:
        if len(queues[row]) < 2:
            continue
        last = queues[row][1]
        b, c = network[last]
        if any(len(queues[each]) < 2 or queues[each][1] != last for each in (b, c)):
            continue
        lower, upper = queues[c][0], queues[b][0]  # a comparator that ends in c, and one that begins in b
        (a, ends), (begins, d) = network[lower], network[upper]
        is_next = queues[a][0] == lower and queues[d][0] == upper
        if ends == c and begins == b and len({a, b, c, d}) == 4 and is_next and place in (lower, upper):
            return [MERGE, a, b, c, d]
    return None
