"""`hs.compare`: several strategies or apps, each with several seeds, run on the same sites and shown together.

The page is like a run's report: one HTML file, no script, nothing loaded from elsewhere.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse.clients.app import App
from hanse.clients.loader import stop_if_loading
from hanse.core.errors import ConfigError, JobFailed
from hanse.rounds.report.measures import SHARES, format_seconds
from hanse.rounds.report.page import style
from hanse.rounds.report.plots import NUM_COLOURS, WIDE, Line, Point, drawable, escape, line_plot, number
from hanse.rounds.result import Result
from hanse.simulation.simulate import simulate
from hanse.simulation.sites import to_stderr
from hanse.strategies import Strategy

TIME_UNITS = (("ms", 0.001, 20.0), ("s", 1.0, 20_000.0), ("min", 60.0, math.inf))
"""The unit of an axis of time, its seconds, and the longest run that is drawn in it."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Args:
        results: name → one result for each seed; of runs that failed, what there was.
        seeds: in the order of results.
    """

    results: Mapping[str, tuple[Result, ...]]
    seeds: tuple[int, ...]

    def __repr__(self) -> str:
        """What was compared, and by what one may ask for it."""
        return f"Comparison({', '.join(self.results)}; seeds {list(self.seeds)}; metrics {', '.join(self.metrics)})"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what was measured in any run, sorted."""
        found = {name for results in self.results.values() for r in results for one in r.rounds for name in one.metrics}
        return tuple(sorted(found))

    def rows(self, metric: str) -> list[dict[str, Any]]:
        """One row for each name: `name`, `mean` and `std` over seeds of the last value, and the number of `runs`.

        `std` is the sample's standard deviation; NaN for fewer than two runs.

        Raises:
            ConfigError: nothing was measured under that name, but something under others.
        """
        if self.metrics:  # none at all where every run failed, which its rows say
            self._check_metric(metric)
        rows = []
        for name, results in self.results.items():
            last = [values[-1][1] for result in results if (values := _values(result, metric))]
            mean, std = _spread(last)
            rows.append({"name": name, "mean": mean, "std": std, "runs": len(last)})
        return rows

    def time_to(self, metric: str, value: float) -> list[dict[str, Any]]:
        """One row for each name: virtual seconds until the metric first was as good as `value`.

        `name`; `mean` and `std` over the seeds that came so far, NaN for none and for fewer than two; `reached`, how
        many did; `runs`. As good is as low where the metric's name has `loss` or `error` in it, otherwise as high.

        Raises:
            ConfigError: nothing was measured under that name, or time was not virtual.
        """
        self._check_metric(metric)
        if not self._last_s:
            raise ConfigError("time_to: expected runs with durations, found runs on the wall clock")
        falls = "loss" in metric or "error" in metric
        rows = []
        for name, results in self.results.items():
            times = []
            for result in results:
                measured = [(one.time_s, one.metrics[metric]) for one in result.rounds if metric in one.metrics]
                times += [at for at, found in measured if (found <= value if falls else found >= value)][:1]
            mean, std = _spread(times)
            rows.append({"name": name, "mean": mean, "std": std, "reached": len(times), "runs": len(results)})
        return rows

    @property
    def _last_s(self) -> float:
        """When the last of all runs was over, in virtual seconds; 0 where there are none."""
        return max((r.rounds[-1].time_s for results in self.results.values() for r in results if r.rounds), default=0)

    def _check_metric(self, metric: str) -> None:
        known = self.metrics
        if metric not in known:
            raise ConfigError(f"metric: expected one of {', '.join(known) or 'none'}, found {metric[:60]!r}")

    def plot(self, path: str | Path, metric: str | None = None, *, time: bool = False, title: str = "") -> Path:
        """Write one page with a picture and a table for each metric.

        Args:
            metric: only this one.
            time: along virtual time instead of rounds; see `durations` of `hs.simulate`.

        Raises:
            ConfigError: nothing was measured under that name, or time was not virtual.
        """
        if metric is not None:
            self._check_metric(metric)
        known, last_s = self.metrics, self._last_s
        if time and not last_s:
            raise ConfigError("time: expected runs with durations, found runs on the wall clock")
        sections = [self._section(name, last_s if time else 0.0) for name in (known if metric is None else (metric,))]
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        heading = escape(title or f"{len(self.results)} compared, {seeds} each")
        reading = "Each line is one seed" if time else "Thick: the mean over seeds. Thin: each seed"
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
            f"<title>{heading}</title><style>{style()}</style></head><body><main><header><h1>{heading}</h1></header>"
            f"<p>{reading}. In the table, the mean of the last round and its standard deviation over "
            f"seeds.</p>{''.join(sections)}"
            "<footer>Written by Hanse. This page loads nothing and runs nothing; it holds measurements only.</footer>"
            "</main></body></html>\n"
        )
        Path(path).write_text(page, encoding="utf-8")
        return Path(path)

    def _section(self, metric: str, last_s: float) -> str:
        unit, scale = next(((unit, s) for unit, s, longest in TIME_UNITS if last_s <= longest)) if last_s else ("", 0.0)
        share = metric.rpartition("_")[2] in SHARES
        drawing = line_plot(
            self._lines(metric, scale),
            about=f"{metric} of each",
            ceiling=1.0 if share else None,
            floor=0.0 if share or "loss" in metric else None,
            width=WIDE,
            axis=f"time in {unit}" if unit else "round",
            start=0 if unit else None,
        )
        body = "".join(
            f'<tr><th scope="row">{escape(row["name"])}</th><td class="n">{number(row["mean"])}</td>'
            f'<td class="n">{number(_unless_rounding(row["std"], row["mean"]))}</td>'
            f'<td class="n">{row["runs"]}</td></tr>'
            for row in self.rows(metric)
        )
        return (
            f'<section><h2>{escape(metric)}</h2><div class="plots"><figure>{drawing}</figure><div class="scroll">'
            '<table><thead><tr><th></th><th class="n">Mean</th><th class="n">Deviation</th><th class="n">Runs</th>'
            f"</tr></thead><tbody>{body}</tbody></table></div></div></section>"
        )

    def _lines(self, metric: str, scale: float) -> list[Line]:
        """Seeds first, means last and so on top. Along time there is no mean: seeds do not meet."""
        thin: list[Line] = []
        thick: list[Line] = []
        for place, (name, results) in enumerate(self.results.items()):
            colour = f"s{place % NUM_COLOURS}"
            every = [_points(result, metric, scale) for result in results]
            one = len(every) == 1
            if not one:
                thin.extend(
                    Line(name, points, colour if scale else f"{colour} faint", label=bool(scale) and first == 0)
                    for first, points in enumerate(every)
                    if points
                )
            if one or not scale:
                thick.append(Line(name, every[0] if one else _mean(every), colour))
        return thin + [line for line in thick if line.points]


def compare(
    what: App | Mapping[str, App] | Sequence[App],
    sites: Any,
    *,
    strategies: Sequence[Strategy] | Mapping[str, Strategy] | None = None,
    seeds: Sequence[int] | None = None,
    progress: bool | None = None,
    **options: Any,
) -> Comparison:
    """Run several apps, or one app with several strategies, with each of several seeds, on the same sites.

    Args:
        what: an app, or apps by name, or a list of apps, which are called after their strategies.
        sites: as in `hs.simulate`.
        strategies: to run the one app with, by name or in a list.
        seeds: of each run; by default the apps' own.
        progress: say on standard error which run begins, and show its bars; as in `hs.simulate`.
        options: of `hs.simulate`, such as `engine` and `durations`.

    Raises:
        ConfigError: nothing to compare, or strategies beside several apps.

    Example:
        >>> import numpy as np
        >>> import hanse as hs
        >>> app = hs.App(rounds=3, initial=[np.zeros(1)])
        >>> @app.train
        ... def train(arrays, config, site):
        ...     return [arrays["0"] + 1], 1, {"seen": float(arrays["0"][0])}
        >>> found = compare(app, 4, strategies=[hs.FedAvg(), hs.FedMedian()], seeds=[0, 1], progress=False)
        >>> [(row["name"], row["mean"]) for row in found.rows("train_seen")]
        [('fedavg', 2.0), ('fedmedian', 2.0)]
    """
    stop_if_loading()
    apps = _apps(what, strategies)
    for unwanted in ("checkpoint", "resume"):
        if options.get(unwanted):
            raise ConfigError(f"{unwanted}: expected none for several runs; use hs.simulate for each")
    own = sorted({app.spec().seed for app in apps.values()})
    if seeds is not None and not isinstance(seeds, Iterable):
        raise ConfigError(f"seeds: expected several, such as [0, 1, 2] or range(3), found {type(seeds).__name__}")
    chosen = tuple(own[:1] if seeds is None else seeds)
    if not chosen:
        raise ConfigError("seeds: expected at least one, found none")
    results: dict[str, tuple[Result, ...]] = {}
    for name, app in apps.items():
        found = []
        for seed in chosen:
            if progress:
                to_stderr(f"{name}, seed {seed}")
            try:
                found.append(simulate(app.variant(seed=seed), sites, progress=progress, **options))
            except JobFailed as error:
                to_stderr(f"{name}, seed {seed}: {error}")
                found.append(error.result or Result("failed", error=str(error)))
        results[name] = tuple(found)
        if progress:
            to_stderr(f"{name}: {format_seconds(sum(record.seconds for r in found for record in r.rounds))}")
    return Comparison(results, chosen)


def _apps(what: Any, strategies: Any) -> dict[str, App]:
    if strategies is not None:
        if not isinstance(what, App):
            raise ConfigError(f"strategies: expected one app beside them, found {type(what).__name__}")
        if not isinstance(strategies, Iterable) or isinstance(strategies, str):
            found = type(strategies).__name__
            raise ConfigError(f"strategies: expected several, such as [hs.FedAvg(), hs.FedMedian()], found {found}")
        if not isinstance(strategies, Mapping):
            several = list(strategies)
            strategies = dict(zip(_names(several), several, strict=True))
        made = {name: what.variant(strategy=strategy) for name, strategy in strategies.items()}
    elif isinstance(what, Mapping):
        made = dict(what)
    else:
        apps = [what] if isinstance(what, App) else list(what)
        made = dict(zip(_names([app.given_strategy or app.spec().strategy for app in apps]), apps, strict=True))
    if not made or not all(isinstance(app, App) for app in made.values()):
        raise ConfigError("compare: expected at least one app, or strategies, found none")
    return made


def _names(things: Sequence[Any]) -> list[str]:
    """Each after its strategy; those of one name are told apart by their parameters, or by numbers."""
    plain = [thing if isinstance(thing, str) else thing.name or type(thing).__name__ for thing in things]
    names: list[str] = []
    for thing, name in zip(things, plain, strict=True):
        if plain.count(name) > 1 and isinstance(thing, Strategy):
            name = f"{name} {', '.join(f'{key}={value}' for key, value in thing.params().items())}".strip()
        while name in names:
            name = f"{name} again"
        names.append(name)
    return names


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and the sample's standard deviation, NaN where there is none."""
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def _unless_rounding(std: float, mean: float) -> float:
    """A deviation that is only that of equal numbers' sums is none."""
    return 0.0 if std < 1e-12 * abs(mean) else std


def _values(result: Result, metric: str) -> list[tuple[int, float]]:
    return [(one.number, float(one.metrics[metric])) for one in result.rounds if metric in one.metrics]


def _points(result: Result, metric: str, scale: float) -> tuple[Point, ...]:
    """By round, or by time in units of `scale` seconds where that is not 0."""
    if not scale:
        return tuple(_values(result, metric))
    return tuple(
        (round(one.time_s / scale), float(one.metrics[metric])) for one in result.rounds if metric in one.metrics
    )


def _mean(every: Sequence[Sequence[Point]]) -> tuple[Point, ...]:
    """Of the rounds that all runs have reached."""
    by_round: dict[int, list[float]] = {}
    for points in every:
        for x, y in points:
            by_round.setdefault(x, []).append(y)
    return tuple(
        (x, statistics.fmean(values) if all(map(drawable, values)) else math.nan)
        for x, values in sorted(by_round.items())
        if len(values) == len(every)
    )
