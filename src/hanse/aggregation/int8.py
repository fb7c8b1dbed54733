"""`Int8`: a byte for each element and one scale for each block of them, rounded at random so that the mean is right.

D. Alistarh, D. Grubic, J. Li, R. Tomioka, M. Vojnovic, "QSGD: Communication-Efficient SGD via Gradient Quantization and
Encoding", NIPS 2017, https://arxiv.org/abs/1610.02132, section 3.1, with s = 127 levels, the largest magnitude of a
block instead of its Euclidean norm, and without the entropy code:

    scale = max |x| / 127,   q = ⌊x / scale + u⌋, u uniform in [0, 1),   so E[scale · q] = x

A received block is decoded inside the sum: `Int8Block` is what the kernels of `kernels` and `fused` take beside arrays.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.aggregation.compression import Part, pieces, read_dtype
from hanse.aggregation.rounding import BFLOAT16, Block
from hanse.aggregation.sources import Source
from hanse.core.arrays import Array, ArraySpec
from hanse.core.errors import CodecError, ConfigError, UpdateError

LEVELS = 127
ENCODED_AT_ONCE = 1 << 17
"""Elements, about; part of which random number falls to which element, so of the bits."""
MAX_BLOCK = 1 << 17


@dataclass(frozen=True, slots=True)
class Int8:
    """A quarter of float32's bytes; an unbiased delta with an error below max |x| / 127 in each block.

    Args:
        block: elements that share a scale, 8 to 131072.

    Raises:
        ConfigError: out of range.
    """

    block: int = 1024

    name: ClassVar[str] = "int8"
    remembers: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if type(self.block) is not int or not 8 <= self.block <= MAX_BLOCK:
            raise ConfigError(f"int8.block: expected a whole number from 8 to {MAX_BLOCK}, found {self.block!r}"[:200])

    def params(self) -> dict[str, Any]:
        """See `Codec.params`."""
        return asdict(self)

    def parts(self, spec: ArraySpec) -> tuple[ArraySpec, ...]:
        """See `Codec.parts`."""
        scales = ArraySpec("scale", read_dtype(spec.dtype), (-(-spec.size // self.block),))
        return ArraySpec("int8", np.dtype(np.int8), spec.shape), scales

    def encode(self, values: Array, rng: np.random.Generator) -> tuple[Array, ...]:
        """See `Codec.encode`."""
        flat, wide = values.reshape(-1), read_dtype(values.dtype)
        levels = np.empty(flat.size, np.int8)
        scales = np.empty(-(-flat.size // self.block), wide)
        limit = _largest_scale(values.dtype)
        step = max(ENCODED_AT_ONCE // self.block, 1)
        for first in range(0, len(scales), step):
            start, stop = first * self.block, min((first + step) * self.block, flat.size)
            block, here = flat[start:stop].astype(wide), scales[first : first + step]
            largest = np.maximum.reduceat(np.abs(block), np.arange(0, stop - start, self.block))
            np.divide(largest, LEVELS, out=here)
            if not (here <= limit).all():  # also where there is a NaN
                raise UpdateError("has values that are not finite, or too large for int8")
            with np.errstate(divide="ignore"):
                inverse = np.where(here > 0, 1 / here, 0)
            inverse[~np.isfinite(inverse)] = 0  # a subnormal scale: nothing that a sum would notice
            block *= np.repeat(inverse, self.block)[: stop - start]
            block += rng.random(stop - start, dtype=wide.type)
            np.floor(block, out=block)
            np.clip(block, -LEVELS, LEVELS, out=block)
            levels[start:stop] = block
        return levels.reshape(values.shape), scales

    def open(self, spec: ArraySpec, source: Source, places: Sequence[int]) -> Part:
        """See `Codec.open`: every scale is at least 0 and leaves what it scales within the array's dtype."""
        limit = _largest_scale(spec.dtype)
        for piece in pieces(-(-spec.size // self.block)):
            scales = source.block(places[1], piece.start, piece.stop)
            if not ((scales >= 0) & (scales <= limit)).all():
                raise CodecError(f"expected scales from 0 to a {LEVELS + 1}th of {spec.dtype}'s range, found another")
        return _Quantised(source, places[0], places[1], self.block)


@dataclass(frozen=True, slots=True)
class Int8Block:
    """A range of an array as it was received.

    Args:
        levels: int8, (n,).
        scales: float32 or float64, those that the range touches.
        first: place of the first level within its scale's block.
        block: levels that share a scale.
    """

    levels: npt.NDArray[np.int8]
    scales: npt.NDArray[Any]
    first: int
    block: int

    @property
    def nbytes(self) -> int:
        """Bytes that were received."""
        return self.levels.nbytes + self.scales.nbytes

    def cut(self, start: int, stop: int) -> "Int8Block":
        """Levels start … stop."""
        levels = self.levels[start:stop]
        offset = self.first + start
        skipped = offset // self.block
        return Int8Block(levels, self.scales[skipped:], offset % self.block, self.block)

    def decode(self) -> Block:
        """`level · scale` in the scales' dtype: one rounded product each."""
        values = self.levels.astype(self.scales.dtype)
        head = min(self.block - self.first, values.size) if self.first else 0
        if head:
            values[:head] *= self.scales[0]
        scales = self.scales[1:] if head else self.scales
        whole = (values.size - head) // self.block
        body = values[head : head + whole * self.block].reshape(whole, self.block)
        body *= scales[:whole, None]
        if head + body.size < values.size:
            values[head + body.size :] *= scales[whole]
        return values


Coded = Block | Int8Block
"""What a kernel folds: values, or a compressed block that it decodes."""


@dataclass(frozen=True, slots=True)
class _Quantised:
    """One array of a received update."""

    source: Source
    levels: int
    scales: int
    size: int

    def coded(self, start: int, stop: int) -> Int8Block:
        """For a kernel that decodes while it sums."""
        levels = self.source.block(self.levels, start, stop)
        scales = self.source.block(self.scales, start // self.size, -(-stop // self.size))
        return Int8Block(levels, scales, start % self.size, self.size)

    def block(self, start: int, stop: int) -> Block:
        """See `Part`."""
        return self.coded(start, stop).decode()


def _largest_scale(dtype: np.dtype[Any]) -> float:
    """So that a level of −128, too, stays finite in the array's dtype."""
    largest = 2.0**127 * (2 - 2.0**-7) if dtype == BFLOAT16 else float(np.finfo(dtype).max)
    return largest / (LEVELS + 1)
