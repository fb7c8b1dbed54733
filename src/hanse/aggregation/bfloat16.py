"""`BFloat16`: an update rounded to bfloat16, once, also from float64."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from hanse.aggregation.compression import Part, pieces
from hanse.aggregation.rounding import BFLOAT16, Block, bfloat16_to_float32
from hanse.aggregation.sources import Source
from hanse.core.arrays import Array, ArraySpec
from hanse.core.errors import UpdateError


@dataclass(frozen=True, slots=True)
class BFloat16:
    """float32 and float64 rounded to bfloat16 (8 significant bits, ties to even): a half or a quarter of the bytes.

    The range is float32's. float16 and bfloat16 go as they are.
    """

    name: ClassVar[str] = "bfloat16"
    remembers: ClassVar[bool] = False

    def params(self) -> dict[str, Any]:
        """See `Codec.params`."""
        return asdict(self)

    def parts(self, spec: ArraySpec) -> tuple[ArraySpec, ...]:
        """See `Codec.parts`."""
        return (ArraySpec("bfloat16", BFLOAT16, spec.shape),) if spec.dtype.itemsize > 2 else ()

    def encode(self, values: Array, rng: np.random.Generator) -> tuple[Array, ...]:
        """See `Codec.encode`. What rounding carries beyond bfloat16's range is refused, NaN and infinity are not."""
        with np.errstate(over="ignore"):
            narrow = _rounded_to_odd(values) if values.dtype == np.float64 else values
            made = narrow.astype(BFLOAT16)
        flat, sent = values.reshape(-1), made.reshape(-1)
        for piece in pieces(flat.size):
            if (np.isfinite(flat[piece]) & ~np.isfinite(sent[piece])).any():
                raise UpdateError("has values beyond the range of bfloat16")
        return (made,)

    def open(self, spec: ArraySpec, source: Source, places: Sequence[int]) -> Part:
        """See `Codec.open`; what is not finite is found in the walk, like that of any update."""
        return _Wide(source, places[0])


@dataclass(frozen=True, slots=True)
class _Wide:
    """bfloat16 as float32, exactly."""

    source: Source
    place: int

    def block(self, start: int, stop: int) -> Block:
        """See `Part`."""
        return bfloat16_to_float32(self.source.block(self.place, start, stop))


def _rounded_to_odd(values: Array) -> Array:
    """float64 as float32 so that rounding once more is rounding once; see `rounding`."""
    narrow: Array = values.astype(np.float32)
    bits, back = narrow.view(np.uint32), narrow.astype(np.float64)
    comparable = np.isfinite(narrow)
    bits -= (np.abs(back) > np.abs(values)) & comparable
    bits |= (back != values) & comparable
    return narrow
