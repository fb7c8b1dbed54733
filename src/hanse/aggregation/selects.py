"""Selects: reductions that need every update of one block at once. Median, trimmed mean, mean around the median.

D. Yin, Y. Chen, K. Ramchandran, P. Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical
Rates", ICML 2018, https://arxiv.org/abs/1803.01498, definitions 1 and 2. The mean around the median is the second step
of Bulyan: E. M. El Mhamdi, R. Guerraoui, S. Rouault, "The Hidden Vulnerability of Distributed Learning in Byzantium",
ICML 2018, https://arxiv.org/abs/1802.07927, section 4.

Weights are ignored by all: a weight is the sender's own claim, and a robust rule must not let one sender count
for many. Zeros lose their sign (−0.0 becomes 0.0), since sorting does not order the two.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hanse.aggregation.kernels import KernelName
from hanse.aggregation.rounding import Wide
from hanse.aggregation.windows import Window, average

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


class WindowMean:
    """A mean of some middle values of each coordinate; `Median` and `TrimmedMean` say which.

    Args:
        kernel: `numpy`, `numba`, or `auto` for numba where it is installed and pays. Changes no bit.
    """

    def __init__(self, kernel: KernelName = "auto") -> None:
        self.kernel = kernel

    def window(self, num: int) -> Window:
        """Which of `num` sorted values count, and how much."""
        raise NotImplementedError

    def reduce(self, blocks: Rows, weights: Sequence[float], out: Wide) -> None:
        """See `Select.reduce`; weights are ignored. Adds in ascending order, then divides once."""
        blocks += 0.0  # −0.0 becomes 0.0
        blocks.sort(axis=0)
        average(blocks, self.window(len(blocks)), out)


class Median(WindowMean):
    """The middle value of each coordinate; of two middle values their mean, half of each added."""

    def window(self, num: int) -> Window:
        """See `WindowMean.window`."""
        upper = num // 2
        return Window(upper, upper + 1, 1.0, 1.0) if num % 2 else Window(upper - 1, upper + 1, 0.5, 1.0)


class TrimmedMean(WindowMean):
    """The mean of each coordinate without its lowest and highest values.

    Args:
        trim: share of the updates cut at each end, 0 <= trim < 0.5; floor(trim · num_updates) are cut.
        kernel: see `WindowMean`.
    """

    def __init__(self, trim: float = 0.1, kernel: KernelName = "auto") -> None:
        if not 0 <= trim < 0.5:
            raise ValueError(f"expected 0 <= trim < 0.5, found trim={trim}")
        super().__init__(kernel)
        self.trim = trim

    def window(self, num: int) -> Window:
        """See `WindowMean.window`."""
        cut = int(self.trim * num)
        return Window(cut, num - cut, 1.0, float(num - 2 * cut))


class MeanAroundMedian:
    """The mean of each coordinate's `keep` values that are nearest to its median.

    Args:
        keep: values that are averaged, >= 1; all where there are fewer.
    """

    def __init__(self, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"expected keep >= 1, found keep={keep}")
        self.keep = keep

    def reduce(self, blocks: Rows, weights: Sequence[float], out: Wide) -> None:
        """See `Select.reduce`; weights are ignored. Adds in ascending order, then divides once.

        The nearest values lie side by side once they are sorted: of all such windows it is the one whose farther end
        is nearest to the median, and the lowest of several.
        """
        blocks += 0.0
        blocks.sort(axis=0)
        num = len(blocks)
        keep, upper = min(self.keep, num), num // 2
        median = blocks[upper] if num % 2 else 0.5 * blocks[upper - 1] + 0.5 * blocks[upper]
        first, best = np.zeros(blocks.shape[1], dtype=np.intp), np.full(blocks.shape[1], np.inf)
        for low in range(num - keep + 1):
            reach = np.maximum(median - blocks[low], blocks[low + keep - 1] - median)
            nearer = reach < best
            first[nearer], best[nearer] = low, reach[nearer]
        columns = np.arange(blocks.shape[1])
        np.copyto(out, blocks[first, columns])
        for step in range(1, keep):
            np.add(out, blocks[first + step, columns], out=out)
        np.divide(out, keep, out=out)
