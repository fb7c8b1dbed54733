"""The pass before the walk of a `Gather`: what it needs to know of all updates, and the weights that it then chooses.

`ByNearness` is asked first whether bounds on the distances already decide (`nearness`), which cost a fraction of exact
ones.
"""

import threading

from hanse.aggregation.blocks import BlockRefused, RowReader, read_blocks, refuse_nonfinite
from hanse.aggregation.canonical import total_weight
from hanse.aggregation.cohort import Cohort
from hanse.aggregation.folds import WeightedMean
from hanse.aggregation.gathers import MEASURE_ELEMENTS, ByNearness, Choice, Gather
from hanse.aggregation.gram import Stats
from hanse.aggregation.nearness import BLOCK_ELEMENTS as NEARNESS_ELEMENTS
from hanse.aggregation.nearness import LEAST_ELEMENTS, PRECISIONS, Nearness, pick_kernel
from hanse.aggregation.ranges import Range, ranges, run_side_by_side
from hanse.aggregation.refusals import EmptyCohort, UpdatesRefused, ZeroWeight
from hanse.aggregation.rounding import is_float
from hanse.aggregation.selects import Select
from hanse.core.arrays import Layout, describe
from hanse.core.errors import UpdateError


def weigh(
    cohort: Cohort, rule: Gather, layout: Layout, threads: int, allow_nonfinite: bool
) -> tuple[Cohort, WeightedMean | Select]:
    """The cohort with the weights that the rule chose, and what reduces it.

    Raises:
        UpdatesRefused: values that are not finite, or that cannot be read.
    """
    choice = _choose_surely(cohort, rule, layout, threads) if isinstance(rule, ByNearness) else None
    if choice is None:
        choice = rule.choose(_measured(cohort, rule, layout, threads, allow_nonfinite), cohort.weights)
    kept = [(i, float(weight)) for i, weight in enumerate(choice.weights) if weight is not None]
    if not kept:
        raise EmptyCohort
    positions = tuple(cohort.positions[i] for i, _ in kept)
    chosen = tuple(weight for _, weight in kept)
    divisor = total_weight(positions, chosen) if choice.total is None else choice.total
    if divisor == 0:
        raise ZeroWeight
    picked = Cohort(tuple(cohort.sources[i] for i, _ in kept), positions, chosen, divisor)
    return picked, WeightedMean() if choice.rule is None else choice.rule


def _choose_surely(cohort: Cohort, rule: ByNearness, layout: Layout, threads: int) -> Choice | None:
    """The choice, if bounds on the distances leave one; None also where something is wrong with an update."""
    floats = [i for i, spec in enumerate(layout.specs) if is_float(spec.dtype)]
    if sum(layout.specs[i].size for i in floats) < LEAST_ELEMENTS:
        return None
    num = len(cohort.sources)
    kernel = pick_kernel(rule.kernel, num * layout.nbytes)
    for precision in PRECISIONS:
        near = Nearness(num, precision, kernel)

        def look(at: Range, near: Nearness = near) -> None:
            near.add(read_blocks(cohort, range(num), at))

        try:
            run_side_by_side((at for at in ranges(layout, NEARNESS_ELEMENTS) if at.index in floats), look, threads)
        except BlockRefused:
            return None
        bounds = near.bounds()
        choice = None if bounds is None else rule.choose_surely(bounds, cohort.weights)
        if choice is not None:
            return choice
    return None


def _measured(cohort: Cohort, rule: Gather, layout: Layout, threads: int, allow_nonfinite: bool) -> Stats:
    """Statistics of all arrays of floats.

    Raises:
        UpdatesRefused: see `weigh`. UpdateError: there are no such arrays.
    """
    pieces = [at for at in ranges(layout, MEASURE_ELEMENTS) if is_float(layout.specs[at.index].dtype)]
    rows, total, refused = RowReader(cohort), _InOrder(), dict[int, str]()

    def measure(item: tuple[int, Range]) -> None:
        number, at = item
        try:
            blocks = rows.read(at)
            if not allow_nonfinite:
                refuse_nonfinite(cohort, blocks)
            total.add(number, rule.measure(blocks))
        except BlockRefused as found:
            for position, reason in found.reasons.items():
                refused.setdefault(position, f"{reason} in {describe(layout.specs[at.index])}")
            total.add(number, None)

    run_side_by_side(iter(enumerate(pieces)), measure, threads)
    if refused:
        raise UpdatesRefused(refused)
    if total.value is None:
        raise UpdateError(f"expected at least one array of floats for {type(rule).__name__}, found none")
    return total.value


class _InOrder:
    """Adds up statistics in the order of their numbers, in whichever order they come."""

    def __init__(self) -> None:
        self.value: Stats | None = None
        self._waiting: dict[int, Stats | None] = {}
        self._next = 0
        self._lock = threading.Lock()

    def add(self, number: int, stats: Stats | None) -> None:
        with self._lock:
            self._waiting[number] = stats
            while self._next in self._waiting:
                found = self._waiting.pop(self._next)
                self._next += 1
                if found is not None:
                    self.value = found if self.value is None else self.value + found
