"""`Survival`: Kaplan and Meier's curves with Greenwood's band, and the log-rank test between groups.

E. L. Kaplan, P. Meier, "Nonparametric estimation from incomplete observations", JASA 53(282), 1958; M. Greenwood, 1926;
the band on the scale of log(−log S) as J. D. Kalbfleisch, R. L. Prentice, "The Statistical Analysis of Failure Time
Data", 2nd ed., Wiley 2002; the test as N. Mantel, Cancer Chemotherapy Reports 50, 1966, with its
variance.

A site tells times of events and of losses, each as means of `min_group` (`release.microaggregated`): first which event
times there are, then how many events and losses lie at and between the times of all sites. With `min_group` 1 the
curves are those of the pooled rows; above, they end where fewer rows are at risk than `min_group` a site, and the
number of events until any time is wrong by less than 2·min_group − 1 a site and group, and so is that of losses.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.analytics.answer import Answer
from hanse.analytics.drawing import steps as drawn_steps
from hanse.analytics.question import GROUPS, GroupedQuestion, check_numbers, check_text, known_and, layout_for
from hanse.analytics.release import microaggregated
from hanse.analytics.significance import chi_squared_tail
from hanse.analytics.table import Table
from hanse.core.arrays import Array, Arrays, Layout
from hanse.core.errors import ConfigError

MAX_TIMES = 100_000
Wide = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Survival(GroupedQuestion):
    """Survival curves.

    Args:
        time: the column with times, ≥ 0.
        event: the column that says whether the event happened then (1) or the row was lost (0).
        unit: times are rounded up to multiples of it; 0 leaves them as they are.
        level: of the confidence band.
    """

    time: str
    event: str
    unit: float = 0.0
    level: float = 0.95

    kind: ClassVar[str] = "survival"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("time", self.time)
        check_text("event", self.event)
        check_numbers("unit", self.unit, 0.0)
        check_numbers("level", self.level, 0.5, 0.9999)

    def steps(self) -> tuple[str, ...]:
        """Which event times there are, then how many rows at each."""
        return ("times", "tell")

    def tell_groups(
        self, phase: str, table: Table, model: Arrays | None, rows: Sequence[npt.NDArray[np.intp]]
    ) -> Arrays:
        """See `GroupedQuestion.tell_groups`."""
        released = [self._released(table, places) for places in rows]
        if phase == "times":
            return Arrays({"times": np.unique(np.concatenate([events for events, _ in released] or [np.empty(0)]))})
        times = np.empty(0) if model is None else model["times"]
        made = {s.name: np.zeros(s.shape, dtype=np.int64) for s in self._cells(len(rows), len(times)).specs}
        for g, (events, lost) in enumerate(released):
            if not np.isin(events, times).all():
                raise ConfigError("survival: this site's times are not those that it told in the phase before")
            if len(events) + len(lost):
                made["sites"][g] = 1
                made["events"][g] = np.bincount(np.searchsorted(times, events), minlength=len(times))
                made["lost"][g] = np.bincount(np.searchsorted(times, lost, side="right"), minlength=len(times) + 1)
        return Arrays(made)

    def layout_of(self, phase: str, model: Arrays | None, num_groups: int) -> Layout | None:
        """See `GroupedQuestion.layout_of`."""
        return None if phase == "times" or model is None else self._cells(num_groups, len(model["times"]))

    def wrong(self, phase: str, model: Arrays | None, told: Arrays) -> str:
        """See `Question.wrong`."""
        if phase == GROUPS:
            return super().wrong(phase, model, told)
        times = told.get("times")
        if list(told) != ["times"] or times is None or times.dtype != np.float64 or times.ndim != 1:
            return "expected a list of times"
        if len(times) > MAX_TIMES or not (np.isfinite(times).all() and (times >= 0).all()):
            return f"expected at most {MAX_TIMES} times, finite and ≥ 0; round them with unit=…"
        return ""

    def join(self, phase: str, model: Arrays | None, told: Sequence[Arrays]) -> Arrays:
        """See `Question.join`."""
        if phase == GROUPS:
            return super().join(phase, model, told)
        times = np.unique(np.concatenate([arrays["times"] for arrays in told]))
        if len(times) > MAX_TIMES:
            raise ConfigError(f"survival: expected at most {MAX_TIMES} times; round them with unit=…")
        return known_and(model, {"times": times})

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        keep = (totals["sites"] >= self.min_sites)[:, None]
        cells = {name: np.where(keep, totals[name], 0) for name in ("events", "lost")}
        return known_and(model, {**cells, "sites": np.where(keep[:, 0], totals["sites"], 0)})

    def answer(self, model: Arrays) -> Answer:
        """A line for each group and time at which there are events; `survival` with its band."""
        names = self.names(model)
        rows: list[dict[str, Any]] = []
        curves: dict[str, list[tuple[float, float, float, float]]] = {}
        facts: dict[str, Any] = {}
        for g, name in enumerate(names):
            at_risk = at_risk_of(model["events"][g], model["lost"][g])
            lines = curve(model["times"], model["events"][g], at_risk, self.level)
            if self.min_group > 1:  # beyond, what was lost and what happened may well have changed places
                lines = [line for line in lines if line["at_risk"] >= self.min_group * int(model["sites"][g])]
            curves[name or "all"] = [(r["time"], r["survival"], r["low"], r["high"]) for r in lines]
            rows += [{**self._labelled(name), **line} for line in lines]
            label = f"median of {name}" if name else "median"
            facts[label] = next((line["time"] for line in lines if line["survival"] <= 0.5), None)
        if len(names) > 1:
            statistic, degrees = log_rank(model["events"], model["lost"])
            facts |= {"log-rank chi2": statistic, "degrees of freedom": degrees}
            facts["p"] = None if statistic is None else chi_squared_tail(statistic, degrees)
        title = f"Survival by {self.by}" if self.by else "Survival"
        end = ("Curves end where fewer rows are at risk than min_group for each site.",) if self.min_group > 1 else ()
        return Answer(title, tuple(rows), facts, (*self._notes(), *end), drawn_steps(curves, self.time))

    def _cells(self, num_groups: int, num_times: int) -> Layout:
        shape = {"events": (num_groups, num_times), "lost": (num_groups, num_times + 1), "sites": (num_groups,)}
        return layout_for(shape)

    def _released(self, table: Table, places: npt.NDArray[np.intp]) -> tuple[Wide, Wide]:
        """Times of events and of losses; none where either are few."""
        times, happened = table.numbers(self.time)[places], table.numbers(self.event)[places]
        known = ~(np.isnan(times) | np.isnan(happened))
        times, happened = times[known], happened[known]
        if (times < 0).any() or not np.isin(happened, (0.0, 1.0)).all():
            raise ConfigError(f"expected {self.time[:60]!r} ≥ 0 and {self.event[:60]!r} to be 0 or 1, found others")
        if self.unit:
            times = np.ceil(times / self.unit) * self.unit
        events, lost = times[happened == 1], times[happened == 0]
        if any(0 < len(part) < self.min_group for part in (events, lost)):
            return times[:0], times[:0]
        return microaggregated(events, self.min_group), microaggregated(lost, self.min_group)


def at_risk_of(events: Array, lost: Array) -> Array:
    """Rows at risk just before each time.

    Args:
        events: int64, `(times,)`. lost: int64, `(times + 1,)`: before the first time, then from each time on; a row
            that is lost at the time of an event was at risk of it.
    """
    gone = np.concatenate([[0], np.cumsum(events)])[:-1] + np.cumsum(lost)[:-1]
    return np.asarray(events.sum() + lost.sum() - gone)


def curve(times: Wide, events: Array, at_risk: Array, level: float) -> list[dict[str, Any]]:
    """Lines of one curve: Ŝ(t) = Π (1 − d/n), var log Ŝ = Σ d / (n (n − d))."""
    z = NormalDist().inv_cdf(0.5 + level / 2)
    survival, spread = 1.0, 0.0
    lines: list[dict[str, Any]] = []
    for time, d, n in zip(times.tolist(), events.tolist(), at_risk.tolist(), strict=True):
        if not d:
            continue
        survival *= 1 - d / n
        spread = spread + d / (n * (n - d)) if n > d else math.inf
        low, high = _band(survival, spread, z)
        lines.append({"time": time, "at_risk": n, "events": d, "survival": survival, "low": low, "high": high})
    return lines


def _band(survival: float, spread: float, z: float) -> tuple[float, float]:
    """S^exp(±θ) with θ = z √(var log Ŝ) / log Ŝ; nothing is known once everyone is gone."""
    if not 0 < survival < 1:
        return (1.0, 1.0) if survival >= 1 else (0.0, 0.0)
    theta = z * math.sqrt(spread) / math.log(survival)
    ends = survival ** math.exp(theta), survival ** math.exp(-theta)
    return min(ends), max(ends)


def log_rank(events: Array, lost: Array) -> tuple[float | None, int]:
    """χ² = (O − E)ᵀ V⁻ (O − E) over groups, and its degrees of freedom; groups without rows are left out.

    Args:
        events: int64, `(groups, times)`. lost: int64, `(groups, times + 1)`.
    """
    held = (events.sum(axis=1) + lost.sum(axis=1)) > 0
    events, lost = events[held], lost[held]
    if len(events) < 2:
        return None, 0
    n = np.array([at_risk_of(e, c) for e, c in zip(events, lost, strict=True)], dtype=np.float64)
    d, total = events.sum(axis=0).astype(np.float64), n.sum(axis=0)
    use = (total > 1) & (d > 0)
    n, d, total, seen = n[:, use], d[use], total[use], events[:, use]
    share = n / total
    difference = (seen - share * d).sum(axis=1)
    factor = d * (total - d) / (total - 1)
    variance = np.diag((share * factor).sum(axis=1)) - (share * factor) @ share.T
    kept = len(difference) - 1
    v, z = variance[:kept, :kept], difference[:kept]
    if not len(d) or np.linalg.matrix_rank(v) < kept:
        return None, kept
    return float(z @ np.linalg.solve(v, z)), kept
