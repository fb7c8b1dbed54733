"""What is taken of sorted columns, and in which dtype they are sorted: the same for numpy and for the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hanse.aggregation.rounding import BFLOAT16, Block, Wide, bfloat16_to_float32


@dataclass(frozen=True, slots=True)
class Window:
    """(Σ scale · x) / divisor over the sorted rows low … high − 1, in ascending order."""

    low: int
    high: int
    scale: float
    divisor: float


def average(rows: Any, window: Window, out: Wide) -> None:
    """The window's mean of rows that are sorted by column, float32 or float64."""
    np.multiply(rows[window.low], window.scale, out=out, dtype=np.float64)
    for row in rows[window.low + 1 : window.high]:
        if window.scale == 1:
            np.add(out, row, out=out)
        else:
            np.add(out, np.multiply(row, window.scale, dtype=np.float64), out=out)
    np.divide(out, window.divisor, out=out)


def comparable(blocks: Sequence[Block]) -> list[Block]:
    """The blocks in float32 where that is exact for all of them, in float64 otherwise (64-bit integers are rounded)."""
    narrow = [bfloat16_to_float32(block) if block.dtype == BFLOAT16 else block for block in blocks]
    single = all(np.can_cast(dtype, np.float32, "safe") for dtype in {block.dtype for block in narrow})
    return [block.astype(np.float32 if single else np.float64, copy=False) for block in narrow]
