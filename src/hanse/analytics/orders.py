"""Order statistics of pooled values, exactly, by adding up counts only: byte by byte.

A float64 is mapped to a uint64 of the same order. In each of eight phases the sites count, for every order statistic
that is sought, how many of their values go on with each of the 256 next bytes; the totals say which byte is the right
one. This is bisection with 256 ways instead of two (the selection of Blum et al. needs the values, which stay at home).

What a site counts is its released values (`release.microaggregated`), so that each of its counts stands for at least
`min_group` rows. What is sought: for each level q of n values the ranks ⌊q (n − 1)⌋ and ⌈q (n − 1)⌉, between which the
quantile is interpolated (definition 7 of R. J. Hyndman, Y. Fan, "Sample quantiles in statistical packages", The
American Statistician 50(4), 1996; NumPy's default).
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hanse.analytics.question import known_and, layout_for
from hanse.analytics.release import is_small_split, microaggregated
from hanse.analytics.table import Table
from hanse.core.arrays import Array, Arrays, Layout
from hanse.core.errors import UpdateError

BYTES = 8
PHASES = tuple(f"byte-{index}" for index in range(BYTES))
FAN = 256
_TOP = np.uint64(1 << 63)

Keys = npt.NDArray[np.uint64]


def to_keys(values: npt.NDArray[np.float64]) -> Keys:
    """uint64 in the order of the values; float64, no NaN and no −0.0."""
    bits = values.view(np.uint64)
    return np.where(bits & _TOP, ~bits, bits | _TOP)


def from_keys(keys: Keys) -> npt.NDArray[np.float64]:
    """What `to_keys` was given."""
    return np.where(keys & _TOP, keys & ~_TOP, ~keys).view(np.float64)


def layout(phase: str, num_groups: int, num_columns: int, num_levels: int) -> Layout:
    """Arrays of a phase: in the first one all that is sought has one bracket."""
    cells = (num_groups, num_columns)
    if phase == PHASES[0]:
        return layout_for({"bytes": (*cells, 1, FAN), "order_sites": cells})
    return layout_for({"bytes": (*cells, 2 * num_levels, FAN)})


def tell(
    phase: str,
    table: Table,
    model: Arrays | None,
    rows: Sequence[npt.NDArray[np.intp]],
    columns: Sequence[str],
    num_levels: int,
    min_group: int,
) -> Arrays:
    """This site's counts."""
    made = {s.name: np.zeros(s.shape, dtype=np.int64) for s in layout(phase, len(rows), len(columns), num_levels).specs}
    level = PHASES.index(phase)
    for c, column in enumerate(columns):
        for g, places in enumerate(rows):
            keys = _released(table, column, g, places, min_group)
            if not len(keys):
                continue
            if level == 0:
                made["bytes"][g, c, 0] = _count(keys, 0, 0)
                made["order_sites"][g, c] = 1
            elif model is not None and model["ranks"][g, c, 0] >= 0:
                for t, prefix in enumerate(model["prefixes"][g, c].tolist()):
                    made["bytes"][g, c, t] = _count(keys, level, int(prefix))
    return Arrays(made)


def advance(phase: str, model: Arrays | None, totals: Arrays, q: Sequence[float], min_sites: int) -> Arrays:
    """One byte more of everything that is sought. `ranks` is −1 where there is nothing.

    Raises:
        UpdateError: the counts do not go on from those of the phase before.
    """
    counts = totals["bytes"]
    cells = counts.shape[:2]
    if phase == PHASES[0]:
        held = np.where(totals["order_sites"] >= min_sites, counts[:, :, 0].sum(axis=-1), 0)
        ranks = np.array([[_ranks(int(n), q) for n in line] for line in held], dtype=np.int64)
        ranks = ranks.reshape(*cells, 2 * len(q))
        prefixes = np.zeros(ranks.shape, dtype=np.uint64)
        counts = np.broadcast_to(counts, (*ranks.shape, FAN))
        model = known_and(model, {"values": held})
    else:
        if model is None:
            raise ValueError("a phase after the first needs what is known")
        ranks, prefixes = model["ranks"].copy(), model["prefixes"].copy()
        if not np.array_equal(np.where(ranks >= 0, counts.sum(axis=-1), 0), model["within"]):
            raise UpdateError(f"phase {phase}: sites counted other rows than in the phase before; ask again")
    within = np.zeros(ranks.shape, dtype=np.int64)
    for cell in np.ndindex(ranks.shape):
        if ranks[cell] >= 0:
            up_to = np.cumsum(counts[cell])
            rank = int(ranks[cell])
            byte = min(int(np.searchsorted(up_to, rank, side="right")), FAN - 1)
            ranks[cell] = max(0, rank - (int(up_to[byte - 1]) if byte else 0))
            prefixes[cell] = (int(prefixes[cell]) << 8) | byte
            within[cell] = counts[cell][byte]
    return known_and(model, {"ranks": ranks, "prefixes": prefixes, "within": within})


def quantiles(model: Arrays, q: Sequence[float]) -> list[list[list[float | None]]]:
    """By group, column and level; None where no value was released."""
    found = from_keys(model["prefixes"])
    return [
        [
            [_between(found[g, c, 2 * t : 2 * t + 2], level, int(count)) for t, level in enumerate(q)]
            for c, count in enumerate(line)
        ]
        for g, line in enumerate(model["values"])
    ]


def _ranks(count: int, q: Sequence[float]) -> list[int]:
    if not count:
        return [-1] * (2 * len(q))
    return [rank for level in q for rank in (math.floor(level * (count - 1)), math.ceil(level * (count - 1)))]


def _between(ends: Array, level: float, count: int) -> float | None:
    """Between two order statistics, with the rounding of `numpy.quantile`."""
    if not count:
        return None
    low, high = float(ends[0]), float(ends[1])
    part = level * (count - 1) - math.floor(level * (count - 1))
    value = high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part
    return value if low != high else low


def _released(table: Table, column: str, group: int, places: npt.NDArray[np.intp], min_group: int) -> Keys:
    def make() -> Keys:
        values = table.numbers(column)[places]
        values = values[~np.isnan(values)]
        return to_keys(values[:0] if is_small_split(values, min_group) else microaggregated(values, min_group))

    return table.once(("released", column, group, len(places), min_group), make)


def _count(keys: Keys, level: int, prefix: int) -> Array:
    """How many of the sorted keys that begin with `prefix` (`level` bytes) go on with each byte."""
    shift = 8 * (BYTES - level)
    first, last = prefix << shift, ((prefix + 1) << shift) - 1
    low = int(np.searchsorted(keys, np.uint64(first), side="left"))
    high = int(np.searchsorted(keys, np.uint64(last), side="right"))
    next_bytes = (keys[low:high] >> np.uint64(shift - 8)) & np.uint64(FAN - 1)
    return np.bincount(next_bytes.astype(np.int64), minlength=FAN)
