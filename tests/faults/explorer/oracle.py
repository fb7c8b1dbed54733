"""The canonical order (DESIGN §3.4) once more, in plain Python floats: independent of `hanse.aggregation`."""

from collections.abc import Sequence

import numpy as np

from hanse.core.arrays import Arrays

Member = tuple[int, float, Arrays]
"""(position, weight, update)."""


def mean(members: Sequence[Member]) -> Arrays:
    """The weighted mean, rounded once to each array's dtype."""
    members = sorted(members, key=lambda member: member[0])
    if not any(weight for _, weight, _ in members):
        members = [(position, 1.0, update) for position, _, update in members]
    total = _combine({p: w for p, w, _ in members})
    out = []
    for name, array in members[0][2].items():
        flats = {p: [w * x for x in update[name].astype(np.float64).ravel().tolist()] for p, w, update in members}
        values = [_combine({p: flat[i] for p, flat in flats.items()}) / total for i in range(array.size)]
        out.append((name, np.array(values, np.float64).astype(array.dtype).reshape(array.shape)))
    return Arrays(out)


def _combine(terms: dict[int, float]) -> float:
    groups: dict[int, float] = {}
    for position in sorted(terms):
        group = position // 4
        groups[group] = groups[group] + terms[position] if group in groups else terms[position]
    found = _tree(groups, 0, max(groups) + 1)
    assert found is not None
    return found


def _tree(groups: dict[int, float], start: int, stop: int) -> float | None:
    if stop - start == 1:
        return groups.get(start)
    half = 1
    while half * 2 < stop - start:
        half *= 2
    left, right = _tree(groups, start, start + half), _tree(groups, start + half, stop)
    if left is None or right is None:
        return right if left is None else left
    return left + right
