"""Folds: reductions that need one update at a time. The weighted mean (FedAvg's) and the weighted sum.

H. B. McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
https://arxiv.org/abs/1602.05629, algorithm 1: w ← Σ n_k/n · w_k. Here Σ (n_k · w_k), then one division by Σ n_k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from hanse.aggregation.int8 import Coded
from hanse.aggregation.kernels import SIDE_BY_SIDE, KernelName, pick_kernel, side_by_side
from hanse.aggregation.rounding import Block, Wide

Acc = TypeVar("Acc")
GroupAcc = TypeVar("GroupAcc", contravariant=True)


@runtime_checkable
class Fold(Protocol[Acc]):
    """A reduction in constant memory: whoever walks gives blocks in canonical order.

    A custom fold must let NaN and infinity through to the result, so that they are found there.
    """

    def zero(self, n: int) -> Acc:
        """An empty accumulator for blocks of n elements."""
        ...

    def add(self, acc: Acc, block: Block, weight: float) -> None:
        """Fold one update's block, (n,), into `acc`, in place."""
        ...

    def merge(self, a: Acc, b: Acc) -> Acc:
        """Combine two neighbouring parts of the tree; may reuse either."""
        ...

    def finish(self, acc: Acc, total_weight: float, out: Wide) -> None:
        """Write the result in float64, (n,); `acc` is not used again."""
        ...


@runtime_checkable
class GroupFold(Protocol[GroupAcc]):
    """A fold that can do more in one pass over memory, with the bits of the single steps."""

    def add_group(self, acc: GroupAcc, blocks: Sequence[Block], weights: Sequence[float]) -> None:
        """As `add` into an empty `acc` for each of at most four blocks, left to right."""
        ...

    def join_group(self, acc: GroupAcc, blocks: Sequence[Block], weights: Sequence[float]) -> None:
        """As `merge(acc, g)` where g is what `add_group` makes of the blocks."""
        ...

    def finish_rounded(self, acc: GroupAcc, total_weight: float, out: Block) -> bool:
        """As `finish`, rounded to out's dtype, float32 or float64; whether every value is finite."""
        ...


@dataclass(slots=True)
class Sum:
    """A running Σ weight · block.

    Args:
        values: float64, (n,).
        fresh: nothing was added yet and `values` holds anything.
        buffer: what `values` is a part of, if its rule may use it again afterwards.
    """

    values: Wide
    fresh: bool = True
    buffer: Wide | None = None


class WeightedSum:
    """Σ weight · update, without a division (plain sum: every weight 1).

    Args:
        kernel: `numpy`, `numba`, or `auto` for numba where it is installed and pays. Changes no bit.
    """

    takes_coded = True

    def __init__(self, kernel: KernelName = "auto") -> None:
        self._kernel = pick_kernel(kernel)
        self._pool: list[Wide] = []  # accumulators to use again; append and pop are atomic
        self.block_elements = self._kernel.block_elements

    def zero(self, n: int) -> Sum:
        """See `Fold.zero`."""
        try:
            buffer = self._pool.pop()
        except IndexError:
            buffer = self._more(n)
        if len(buffer) < n:
            buffer = np.empty(n)
        return Sum(buffer[:n], buffer=buffer)

    def add(self, acc: Sum, block: Block, weight: float) -> None:
        """See `Fold.add`."""
        self._kernel.fold_one(acc.values, block, weight, fresh=acc.fresh)
        acc.fresh = False

    def add_group(self, acc: Sum, blocks: Sequence[Coded], weights: Sequence[float]) -> None:
        """See `GroupFold.add_group`; compressed blocks are decoded on the way."""
        self._kernel.fold(acc.values, blocks, weights, fresh=acc.fresh)
        acc.fresh = False

    def join_group(self, acc: Sum, blocks: Sequence[Coded], weights: Sequence[float]) -> None:
        """See `GroupFold.join_group`; compressed blocks are decoded on the way."""
        self._kernel.join(acc.values, blocks, weights)

    def merge(self, a: Sum, b: Sum) -> Sum:
        """See `Fold.merge`."""
        np.add(a.values, b.values, out=a.values)
        self._release(b)
        return a

    def finish(self, acc: Sum, total_weight: float, out: Wide) -> None:
        """See `Fold.finish`; the total weight is not used."""
        np.copyto(out, acc.values)
        self._release(acc)

    def finish_rounded(self, acc: Sum, total_weight: float, out: Block) -> bool:
        """See `GroupFold.finish_rounded`; the total weight is not used."""
        finite = self._kernel.divide(acc.values, 1.0, out)
        self._release(acc)
        return finite

    def _more(self, n: int) -> Wide:
        if not SIDE_BY_SIDE <= n <= self.block_elements:
            return np.empty(n)
        first, *others = side_by_side(4, n)
        self._pool.extend(others)
        return first

    def _release(self, acc: Sum) -> None:
        if acc.buffer is not None:
            self._pool.append(acc.buffer)


class WeightedMean(WeightedSum):
    """Σ weight · update / Σ weight.

    One update alone gives `(x·w)/w` in float64, rounded: x itself for float32 and narrower, for integers below
    2**53, and for any weight that is a power of two; otherwise within one unit in the last place of float64.
    """

    def finish(self, acc: Sum, total_weight: float, out: Wide) -> None:
        """See `Fold.finish`."""
        np.divide(acc.values, total_weight, out=out)
        self._release(acc)

    def finish_rounded(self, acc: Sum, total_weight: float, out: Block) -> bool:
        """See `GroupFold.finish_rounded`."""
        finite = self._kernel.divide(acc.values, total_weight, out)
        self._release(acc)
        return finite
