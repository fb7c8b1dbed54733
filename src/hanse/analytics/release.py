"""What may leave a site of values and counts: only what stands for at least `min_group` rows.

Values: univariate microaggregation (J. Domingo-Ferrer, J. M. Mateo-Sanz, "Practical data-oriented microaggregation for
statistical disclosure control", IEEE TKDE 14(1), 2002, §2). Sorted rows are divided into groups of `min_group`, the
last one taking what remains, and every value is replaced by its group's mean. Whatever is computed of the released
values afterwards stands for at least `min_group` rows each.

Counts: cells from 1 to `min_group` − 1 are withheld, and further ones with them, so that a total known from elsewhere
does not give a single withheld cell away (complementary suppression; L. Willenborg, T. de Waal, "Elements of
Statistical Disclosure Control", Springer 2001).
"""

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array

Wide = npt.NDArray[np.float64]


def microaggregated(values: Wide, min_group: int) -> Wide:
    """The values, sorted, each replaced by the mean of its group.

    For every t, the number of released values ≤ t differs from that of true ones by less than the largest group, which
    has at most 2·min_group − 1 rows: this is the error in rank of every quantile, per site.

    Args:
        values: float64, finite, `(rows,)`, in any order.
        min_group: ≥ 1; 1 changes nothing but the order.

    Returns:
        float64, `(rows,)`, sorted; empty where there are fewer than `min_group` rows.
    """
    ordered = np.sort(values)
    count = len(ordered)
    if count < max(min_group, 1):
        return ordered[:0]
    if min_group == 1:
        return ordered
    starts = np.arange(0, count - count % min_group, min_group)
    sizes = np.diff([*starts.tolist(), count])
    with np.errstate(over="ignore"):  # the halves are added, and cannot overflow
        means = 2 * (np.add.reduceat(ordered / 2 / np.repeat(sizes, sizes), starts))
    lowest, highest = ordered[starts], ordered[starts + sizes - 1]
    return np.repeat(np.clip(means, lowest, highest), sizes)


def withheld(counts: Array, min_group: int) -> npt.NDArray[np.bool_]:
    """Which cells of a table must not leave the site.

    In every line (along each axis) the withheld cells are none, or at least two that hold `min_group` rows together,
    where there are enough others to withhold.

    **Guarantee.** From the released cells and the true totals of all lines, no withheld cell is known exactly by
    subtraction in its own line. It is no protection against several tables that overlap, or who knows rows himself.

    Args:
        counts: whole numbers ≥ 0, one- or two-dimensional.

    Returns:
        bool, as `counts`.
    """
    hidden = (counts > 0) & (counts < min_group)
    if min_group <= 1 or not hidden.any():
        return np.zeros(counts.shape, dtype=np.bool_)
    while True:
        before = int(hidden.sum())
        for axis in range(counts.ndim):
            lines = np.ndindex(*(size for place, size in enumerate(counts.shape) if place != axis))
            for where in lines:
                line = (*where[:axis], slice(None), *where[axis:])
                _complete(counts[line], hidden[line], min_group)
        if int(hidden.sum()) == before:
            return hidden


def _complete(line: Array, hidden: Array, min_group: int) -> None:
    """Withhold the smallest further cells of one line until the rule holds; changes `hidden`."""
    if not hidden.any():
        return
    order = np.argsort(line, kind="stable").tolist()
    for index in [i for i in order if line[i] > 0] + [i for i in order if line[i] == 0]:
        enough = hidden.sum() >= 2
        if enough and (line[hidden].sum() >= min_group or line[index] == 0):
            return
        hidden[index] = True


def is_small_split(values: Wide, min_group: int) -> bool:
    """Whether sums over a column would stand for fewer than `min_group` rows.

    So it is where a column takes two values, one of them in few rows (that 3 of 200 have a disease), or where few rows
    differ from a value that the others share (that 2 of 200 earn anything, and how much).
    """
    if min_group <= 1 or not len(values):
        return False
    different, counts = np.unique(values, return_counts=True)
    if len(different) == 2 and counts.min() < min_group:
        return True
    return bool(counts.max() >= min_group) and 0 < int(unusual(values, min_group).sum()) < min_group


def unusual(values: Wide, min_group: int) -> npt.NDArray[np.bool_]:
    """Rows that differ from the most frequent value; all of them where no value is in `min_group` rows.

    Args:
        values: float64, `(rows,)`.

    Returns:
        bool, `(rows,)`.
    """
    different, counts = np.unique(values, return_counts=True)
    if not len(different) or counts.max() < min_group:
        return np.ones(len(values), dtype=np.bool_)
    return np.asarray(values != different[counts.argmax()])


def is_small_table(first: Wide, second: Wide, min_group: int) -> bool:
    """Whether a sum of products would give away a cell of few rows, in the table of rows usual and unusual in each."""
    if min_group <= 1:
        return False
    a, b = unusual(first, min_group), unusual(second, min_group)
    table = np.array([[(~a & ~b).sum(), (~a & b).sum()], [(a & ~b).sum(), (a & b).sum()]])
    return bool(((table > 0) & (table < min_group)).any())
