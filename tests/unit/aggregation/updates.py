"""Updates for tests, whose sums depend on their order, and a short way to reduce them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hanse.aggregation import ArraySink, ArraySource, WeightedMean, aggregate


def spread(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    """Values whose exponents are spread over 2^±60, as far as the dtype allows: sums depend on their order."""
    dtype = np.dtype(dtype)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min // 2, info.max // 2, shape, dtype=dtype, endpoint=True)
    reach = 14 if dtype == np.float16 else 60
    signs = rng.choice([-1.0, 1.0], shape)
    return (signs * (1 + rng.random(shape)) * 2.0 ** rng.integers(-reach, reach, shape)).astype(dtype)


def mean(
    updates: Sequence[np.ndarray[Any, Any]],
    positions: Sequence[int],
    weights: Sequence[float],
    *,
    kernel: Any = "numpy",
    **options: Any,
) -> Any:
    """The weighted mean of single arrays, all called `x`."""
    out = ArraySink(ArraySource({"x": updates[0]}).layout)
    aggregate(
        [ArraySource({"x": u}) for u in updates], positions, weights, rule=WeightedMean(kernel), out=out, **options
    )
    return out.arrays["x"]


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
