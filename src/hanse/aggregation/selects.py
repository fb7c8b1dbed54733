"""Selects: reductions that need every update of one block at once. Coordinate-wise median and trimmed mean.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, https://arxiv.org/abs/1803.01498, definitions 1 and 2.

Weights are ignored by both: a weight is the sender's own claim, and a robust rule must not let one sender count
for many. Zeros lose their sign (−0.0 becomes 0.0), since sorting does not order the two.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hanse.aggregation.rounding import Wide

Rows = npt.NDArray[np.float64]
"""One row per update in order of position, one column per element."""


@runtime_checkable
class Select(Protocol):
    """A reduction over the columns of a block."""

    def reduce(self, blocks: Rows, weights: Sequence[float], out: Wide) -> None:
        """Reduce each column.

        Args:
            blocks: float64, (num_updates, n), finite; may be overwritten.
            weights: one for each row.
            out: float64, (n,).
        """
        ...


class Median:
    """The middle value of each coordinate; of two middle values their mean, half of each added."""

    def reduce(self, blocks: Rows, weights: Sequence[float], out: Wide) -> None:
        """See `Select.reduce`; weights are ignored."""
        blocks += 0.0  # −0.0 becomes 0.0
        upper = len(blocks) // 2
        if len(blocks) % 2:
            blocks.partition(upper, axis=0)
            out[:] = blocks[upper]
        else:
            blocks.partition((upper - 1, upper), axis=0)
            np.multiply(blocks[upper - 1], 0.5, out=out)
            out += 0.5 * blocks[upper]


class TrimmedMean:
    """The mean of each coordinate without its lowest and highest values.

    Args:
        trim: share of the updates cut at each end, 0 <= trim < 0.5; floor(trim · num_updates) are cut.
    """

    def __init__(self, trim: float = 0.1) -> None:
        if not 0 <= trim < 0.5:
            raise ValueError(f"expected 0 <= trim < 0.5, found trim={trim}")
        self.trim = trim

    def reduce(self, blocks: Rows, weights: Sequence[float], out: Wide) -> None:
        """See `Select.reduce`; weights are ignored. Adds in ascending order, then divides once."""
        blocks += 0.0
        cut = int(self.trim * len(blocks))
        blocks.sort(axis=0)
        kept = blocks[cut : len(blocks) - cut]
        np.copyto(out, kept[0])
        for row in kept[1:]:
            np.add(out, row, out=out)
        np.divide(out, len(kept), out=out)
