"""The slow reference: Python floats and fractions, written from the words of DESIGN §3.4 and of `rounding`."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np


def tree_sum(leaves: Mapping[int, float], first: int, count: int) -> float | None:
    """Leaves of groups first … first+count−1 in the fixed tree, split at the largest power of two < count."""
    if count == 0:
        return None
    if count == 1:
        return leaves.get(first)
    split = 1
    while split * 2 < count:
        split *= 2
    left, right = tree_sum(leaves, first, split), tree_sum(leaves, first + split, count - split)
    if left is None or right is None:
        return left if right is None else right
    return left + right


def weighted_sum(values: Sequence[float], positions: Sequence[int], weights: Sequence[float], plan_size: int) -> float:
    """Python floats are IEEE binary64: each `*` and `+` below is one rounded operation."""
    groups: dict[int, list[tuple[int, float]]] = {}
    for value, position, weight in zip(values, positions, weights, strict=True):
        groups.setdefault(position // 4, []).append((position, float(value) * float(weight)))
    leaves = {}
    for group, members in groups.items():
        products = [product for _, product in sorted(members)]
        total = products[0]
        for product in products[1:]:
            total = total + product
        leaves[group] = total
    result = tree_sum(leaves, 0, (plan_size + 3) // 4)
    assert result is not None
    return result


def weighted_mean(values: Sequence[float], positions: Sequence[int], weights: Sequence[float], plan_size: int) -> float:
    """Divided once; not yet rounded to a dtype."""
    total = weighted_sum([1.0] * len(values), positions, weights, plan_size)
    return weighted_sum(values, positions, weights, plan_size) / total


def nearest(value: float, dtype: np.dtype[Any]) -> Any:
    """The value of `dtype` nearest to `value`, ties to even, found by exact rational arithmetic."""
    if dtype.kind in "iu":
        return dtype.type(round(Fraction(value)))  # Python rounds a Fraction half to even
    if dtype == np.float64:
        return np.float64(value)
    if value == 0:
        return dtype.type(value)  # with its sign
    digits, least = {
        np.dtype(np.float16): (11, -24),
        np.dtype(np.float32): (24, -149),
        np.dtype(ml_dtypes.bfloat16): (8, -133),
    }[dtype]
    exact = Fraction(value)
    exponent = least
    while abs(exact) >= Fraction(2) ** (exponent + digits):
        exponent += 1
    rounded = float(round(exact / Fraction(2) ** exponent) * Fraction(2) ** exponent)
    return dtype.type(rounded if rounded or value > 0 else -0.0)


def mean_array(
    updates: Sequence[np.ndarray[Any, Any]], positions: Sequence[int], weights: Sequence[float], plan_size: int
) -> np.ndarray[Any, Any]:
    """The weighted mean of whole arrays, element by element."""
    dtype, shape = updates[0].dtype, updates[0].shape
    rows = [u.reshape(-1).tolist() if dtype.kind in "iu" else map(float, u.reshape(-1)) for u in updates]
    columns = zip(*rows, strict=True)
    flat = [nearest(weighted_mean(list(column), positions, weights, plan_size), dtype) for column in columns]
    return np.array(flat, dtype=dtype).reshape(shape)
