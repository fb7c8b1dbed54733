"""How often Python looks for cycles while a process simulates: seldom."""

import gc
from collections.abc import Callable


def collect_rarely() -> Callable[[], None]:
    """Let Python look for cycles less often, and not among what is there already; answers what undoes it.

    A reply leaves a dozen objects, so that for some ten replies all recent ones would be looked through, and for some
    thousand everything that was ever imported: a tenth of the cost of a site.
    """
    thresholds, was_frozen = gc.get_threshold(), bool(gc.get_freeze_count())
    if thresholds[0]:
        gc.set_threshold(max(thresholds[0], 10_000), *thresholds[1:])
    gc.freeze()

    def undo() -> None:
        gc.set_threshold(*thresholds)
        if not was_frozen:
            gc.unfreeze()

    return undo
