"""One range of a cohort's updates as blocks, and the memory that each thread keeps for blocks."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hanse.aggregation.cohort import Cohort
from hanse.aggregation.ranges import Range
from hanse.aggregation.rounding import Wide, all_finite, widen_into
from hanse.aggregation.selects import Rows
from hanse.core.errors import NotFoundError, RefusedError


class BlockRefused(Exception):
    """Within one range some updates could not be read or are not finite: position → reason."""

    def __init__(self, reasons: Mapping[int, str]) -> None:
        super().__init__()
        self.reasons = reasons


def read_blocks(cohort: Cohort, members: Sequence[int], at: Range, *, coded: bool = False) -> list[Any]:
    """That range of some updates, as blocks, or with `coded` as they were received where a source offers that.

    Raises:
        BlockRefused: a blob that is not there, or whose content does not verify.
    """
    blocks, reasons = [], {}
    for i in members:
        try:
            source: Any = cohort.sources[i]
            read = getattr(source, "coded", source.block) if coded else source.block
            blocks.append(read(at.index, at.start, at.stop))
        except (RefusedError, NotFoundError) as error:
            reasons[cohort.positions[i]] = f"cannot be read: {type(error).__name__}: {error}"
    if reasons:
        raise BlockRefused(reasons)
    return blocks


def refuse_nonfinite(cohort: Cohort, blocks: Rows) -> None:
    """Name the updates whose block is not finite.

    Raises:
        BlockRefused: there are some.
    """
    reasons = {
        position: "values that are not finite"
        for block, position in zip(blocks, cohort.positions, strict=True)
        if not all_finite(block)
    }
    if reasons:
        raise BlockRefused(reasons)


class RowReader(threading.local):
    """A float64 matrix of one range: a row per update, in order of position. Memory is kept per thread."""

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort
        self._held = np.empty(0)

    def read(self, at: Range) -> Rows:
        """The matrix of that range.

        Raises:
            BlockRefused: see `read_blocks`.
        """
        num = len(self._cohort.sources)
        if self._held.size < num * at.size:
            self._held = np.empty(num * at.size)
        rows: Rows = self._held[: num * at.size].reshape(num, at.size)
        for row, block in zip(rows, read_blocks(self._cohort, range(num), at), strict=True):
            widen_into(row, block)
        return rows


class Scratch(threading.local):
    """Float64 blocks by name, one set per thread, used again and again."""

    def take(self, name: str, n: int) -> Wide:
        """That block of this thread, (n,), with whatever it held."""
        held = self.__dict__
        if name not in held or len(held[name]) < n:
            held[name] = np.empty(n)
        block: Wide = held[name][:n]
        return block
