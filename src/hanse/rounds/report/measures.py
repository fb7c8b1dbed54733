"""What a page about a run names and counts: its sites and measures, and numbers as people read them."""

import math
from collections.abc import Sequence

from hanse.rounds.record import SERVER_PREFIX, RoundRecord
from hanse.rounds.report.plots import NUM_COLOURS, drawable, escape

MAX_NAMED_SITES = NUM_COLOURS
"""With more sites than colours, lines of sites are grey and only the best, the worst and the mean bear a name."""
MAX_PLOTS = 6
TRAIN_PREFIX = "train_"
FIRST_METRICS = ("loss", "auc", "roc_auc", "accuracy")
SHARES = {"auc", "roc_auc", "accuracy", "precision", "recall", "f1"}
"""Measures between 0 and 1, of which more is better."""
TITLES = {
    "auc": "AUC",
    "roc_auc": "AUC",
    "log_loss": "Log loss",
    "log loss": "Log loss",
    "f1": "F1",
    "ks": "KS",
    "r2": "R²",
    "d2": "D²",
    "rmse": "RMSE",
    "mae": "MAE",
}


def sites_of(rounds: Sequence[RoundRecord]) -> list[str]:
    """Every site that a record names, sorted."""
    names: set[str] = set()
    for record in rounds:
        names.update(record.folded, record.late, record.failed, record.by_site)
    return sorted(names)


def measures_of(rounds: Sequence[RoundRecord]) -> list[str]:
    """Names of what is plotted, without the prefixes of where it was measured; the best known ones first."""
    found: set[str] = set()
    for record in rounds:
        for name in record.metrics:
            found.add(name.removeprefix(SERVER_PREFIX).removeprefix(TRAIN_PREFIX))
    first = [name for name in FIRST_METRICS if name in found]
    return first + sorted(found.difference(first))


def title_of(measure: str) -> str:
    return escape(TITLES.get(measure, measure[:1].upper() + measure[1:].replace("_", " ")), 40)


def value_of(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def format_bytes(count: float) -> str:
    """1.5 MB: powers of a thousand."""
    unit, scale = byte_unit(count)
    return f"{count / scale:.0f} {unit}" if unit == "B" else f"{count / scale:.1f} {unit}"


def byte_unit(largest: float) -> tuple[str, float]:
    """The unit in which `largest` is a short number, and its size in bytes."""
    units = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(((unit, scale) for unit, scale in units if largest >= scale), ("B", 1.0))


def format_seconds(seconds: float) -> str:
    """850 ms, 12.3 s, 4 min 05 s, 2 h 03 min."""
    if not drawable(seconds):
        return "–"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
