"""`TopK` and `RandomK`: a few elements of each array and their places.

S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, https://arxiv.org/abs/1809.07599,
Definition 2.1 (both operators) and Algorithm 1 (the memory, here called what was left out). Random-k is scaled by n/k
instead of remembered, which makes it unbiased: J. Wangni, J. Wang, J. Liu, T. Zhang, "Gradient Sparsification for
Communication-Efficient Distributed Optimization", NeurIPS 2018, https://arxiv.org/abs/1710.09854, section 3, with
equal probabilities.

Places are strictly increasing, so that each form has one encoding and a block is found by bisection.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from hanse.aggregation.compression import Part, pieces, read_dtype
from hanse.aggregation.rounding import Block
from hanse.aggregation.sources import Source
from hanse.core.arrays import Array, ArraySpec
from hanse.core.errors import CodecError, ConfigError, UpdateError

PLACE = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class _Sparse:
    """A share of the elements of each array.

    Args:
        fraction: of the elements that are sent, in (0, 1); at least one of each array, rounded up.

    Raises:
        ConfigError: out of range.
    """

    fraction: float = 0.01

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        fraction: object = self.fraction  # it may come from outside
        if not isinstance(fraction, int | float) or not 0 < fraction < 1:
            raise ConfigError(f"{self.name}.fraction: expected a number above 0 below 1, found {self.fraction!r}"[:200])

    def params(self) -> dict[str, Any]:
        """See `Codec.params`."""
        return asdict(self)

    def parts(self, spec: ArraySpec) -> tuple[ArraySpec, ...]:
        """See `Codec.parts`. Arrays with more than 2^32 elements go as they are."""
        if not 0 < spec.size < 2**32:
            return ()
        count = self._count(spec.size)
        return ArraySpec("place", PLACE, (count,)), ArraySpec("value", spec.dtype, (count,))

    def open(self, spec: ArraySpec, source: Source, places: Sequence[int]) -> Part:
        """See `Codec.open`: places strictly increase and lie within the array; values are looked at in the walk."""
        count, last = self._count(spec.size), -1
        for piece in pieces(count):
            found = source.block(places[0], piece.start, piece.stop)
            if found[0] <= last or (found[1:] <= found[:-1]).any() or found[-1] >= spec.size:
                raise CodecError(
                    f"expected strictly increasing places below {spec.size}, found one that is repeated, out of order "
                    "or out of range"
                )
            last = int(found[-1])
        return _Picked(source, places[0], places[1], count, read_dtype(spec.dtype))

    def _count(self, size: int) -> int:
        return min(size, max(1, math.ceil(self.fraction * size)))


@dataclass(frozen=True, slots=True)
class TopK(_Sparse):
    """The elements of largest magnitude; what is left out is added to the site's next update (error feedback).

    Of equal magnitudes the first ones are taken. What was left out is kept at the site, in `site.state`: a site that is
    asked for the first time, or whose update was late or refused, has nothing more to send than another.
    """

    name: ClassVar[str] = "topk"
    remembers: ClassVar[bool] = True

    def encode(self, values: Array, rng: np.random.Generator) -> tuple[Array, ...]:
        """See `Codec.encode`."""
        flat = values.reshape(-1)
        size = np.abs(flat.astype(read_dtype(flat.dtype), copy=False))
        count = self._count(size.size)
        threshold = np.partition(size, size.size - count)[size.size - count]
        if not math.isfinite(float(size.max())):  # NaN, too
            raise UpdateError("has values that are not finite")
        above = np.flatnonzero(size > threshold)
        equal = np.flatnonzero(size == threshold)[: count - above.size]
        chosen = np.sort(np.concatenate([above, equal]))
        return chosen.astype(PLACE), flat[chosen]


@dataclass(frozen=True, slots=True)
class RandomK(_Sparse):
    """Elements drawn at random, each with the same chance, times n/k: unbiased, and with n/k times the variance."""

    name: ClassVar[str] = "randomk"
    remembers: ClassVar[bool] = False

    def encode(self, values: Array, rng: np.random.Generator) -> tuple[Array, ...]:
        """See `Codec.encode`."""
        flat = values.reshape(-1)
        count = self._count(flat.size)
        chosen = np.sort(rng.choice(flat.size, size=count, replace=False, shuffle=False))
        with np.errstate(over="ignore"):
            scaled = (flat[chosen].astype(np.float64) * (flat.size / count)).astype(flat.dtype)
        if not np.isfinite(scaled.astype(read_dtype(flat.dtype))).all():
            raise UpdateError("has values that are not finite, or too large once they are scaled")
        return chosen.astype(PLACE), scaled


@dataclass(frozen=True, slots=True)
class _Picked:
    """One array of a received update."""

    source: Source
    places: int
    values: int
    count: int
    dtype: np.dtype[Any]

    def block(self, start: int, stop: int) -> Block:
        """See `Part`."""
        made: Block = np.zeros(stop - start, self.dtype)
        places = self.source.block(self.places, 0, self.count)
        first, end = np.searchsorted(places, np.array([start, stop], PLACE))  # of one dtype, or places were copied
        if first < end:
            made[places[first:end].astype(np.int64) - start] = self.source.block(self.values, int(first), int(end))
        return made
