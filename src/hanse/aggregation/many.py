"""The sum over a subtree whose updates are all at hand: every group takes each step at the same time.

The additions are those of the canonical order (`canonical.py`), each rounded as there, so that the bits are the same;
but groups lie side by side as rows, so that a step of all of them is one pass of NumPy. For many short updates, such as
those of a simulation's batched engine, where a call costs as much as what it adds up. A hole is −0.0, to which anything
may be added without a change.
"""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.aggregation.canonical import GROUP, Subtree
from hanse.aggregation.rounding import Block, Wide, widen_into

Rows = npt.NDArray[Any]
"""2-D values, a block a row."""
PIECE = 1 << 17
"""Elements of all rows that are worked on at a time, about: with the products beside them, 2 MiB."""
SHORTEST = 1 << 11
"""Elements of one row at a time, at least."""


def sum_of_many(
    subtree: Subtree, positions: Sequence[int], blocks: Sequence[Block] | Rows, weights: Sequence[float]
) -> Wide:
    """Σ weight · block over a subtree, in canonical order.

    Args:
        positions: inside the subtree, distinct.
        blocks: one for each, `(n,)`; as rows of one array, which nobody is missing from, they are widened together.
        weights: one for each, finite and ≥ 0.

    Returns:
        float64, `(n,)`.
    """
    first, groups = subtree.first_group * GROUP, subtree.end_group - subtree.first_group
    places = [position - first for position in positions]
    factors = np.ones((groups, GROUP, 1))
    factors.reshape(-1)[places] = weights
    held: list[Block | None] = [None] * (groups * GROUP)
    together: Rows | None = None
    if isinstance(blocks, np.ndarray) and places == list(range(len(held))):
        together = blocks.reshape(groups, GROUP, -1)
    else:
        for place, block in zip(places, blocks, strict=True):
            held[place] = block
    is_weighted = bool((factors != 1).any())  # by 1 nothing changes
    n = len(blocks[0])
    width = max(1, min(n, max(SHORTEST, PIECE // groups)))
    sums, products = _scratch(groups, width)
    total = np.empty(n)
    for start in range(0, n, width):
        piece = slice(start, min(n, start + width))
        left = piece.stop - start
        into = sums[:, :left]
        for place in range(GROUP):
            rows = products[:, :left] if place else into
            if together is not None:
                widen_into(rows, together[:, place, piece])
            for row, found in zip(rows, held[place::GROUP], strict=True) if together is None else ():
                if found is None:
                    row[...] = -0.0
                else:
                    widen_into(row, found[piece])
            if is_weighted:
                rows *= factors[:, place]
            if place:
                into += rows
        while len(into) > 1:
            into[0::2] += into[1::2]
            into = into[0::2]
        total[piece] = into[0]
    return total


def _scratch(groups: int, width: int) -> tuple[Wide, Wide]:
    """Two blocks of this thread, kept: fresh memory would cost as much as the sum."""
    held: Wide | None = getattr(_kept, "scratch", None)
    size = groups * width
    if held is None or held.shape[1] < size:
        held = _kept.scratch = np.empty((2, size))
    return held[0, :size].reshape(groups, width), held[1, :size].reshape(groups, width)


_kept = threading.local()
