"""One self-contained HTML page about a run: plots by round and site, times, bytes, every round.

Nothing is loaded from elsewhere and nothing is executed: style and drawings are inline, there is no script, and the
page forbids both in its own content policy. Everything that came from a site is escaped. The page holds metrics and
names of sites, and no data.
"""

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from hanse.rounds import report_session
from hanse.rounds.causes import by_cause
from hanse.rounds.plots import NARROW, NUM_COLOURS, WIDE, Line, bar_plot, drawable, escape, line_plot, number
from hanse.rounds.record import SERVER_PREFIX, RoundRecord, fate_of

MAX_NAMED_SITES = NUM_COLOURS
"""With more sites than colours, lines of sites are grey and only the best, the worst and the mean bear a name."""
MAX_PLOTS = 6
MAX_BARS = 60
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
MEAN = "all sites"
TRAIN_PREFIX = "train_"
_WHERE = {"": "mean over the sites' test rows", SERVER_PREFIX: "at the server", TRAIN_PREFIX: "in training"}


def render(
    rounds: Sequence[RoundRecord],
    *,
    title: str,
    status: str,
    error: str = "",
    facts: Sequence[tuple[str, str]] = (),
    comparison: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page.

    Args:
        rounds: in order; none is fine.
        status: shown beside the title.
        facts: name and text pairs for the header.
        comparison: rows with `name` and measures such as `accuracy`, `auc`, `log_loss`.
    """
    sites = sites_of(rounds)
    if report_session.is_session(rounds):
        roles = report_session.roles_in(facts)
        table = report_session.table(rounds[0], roles, TITLES, format_bytes, format_seconds)
        sections = [_comparison(comparison), table]
    else:
        sections = [
            _comparison(comparison),
            _progress(rounds, sites),
            _site_table(rounds, sites),
            _costs(rounds),
            _round_table(rounds),
        ]
    body = [
        _header(rounds, title, status, error, facts),
        *sections,
        "<footer>Written by Hanse. This page loads nothing and runs nothing; it holds measurements, no data.</footer>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{style()}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def style() -> str:
    """The page's style sheet, `report.css` beside this file."""
    return resources.files("hanse.rounds").joinpath("report.css").read_text(encoding="utf-8")


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


# The sections of the page, from the top down.


def _header(
    rounds: Sequence[RoundRecord], title: str, status: str, error: str, facts: Sequence[tuple[str, str]]
) -> str:
    known = {"finished": "good", "failed": "bad", "cancelled": "fair"}
    rows = "".join(
        f"<div><dt>{escape(name[:1].upper() + name[1:])}</dt><dd>{escape(text)}</dd></div>"
        for name, text in facts
        if text
    )
    if report_session.is_session(rounds):
        tiles = report_session.tiles(rounds[0], TITLES)
    else:
        drawn = "".join(_tile(rounds, measure) for measure in measures_of(rounds)[:4])
        tiles = f'<div class="tiles">{drawn}</div>' if drawn else ""
    cause = f'<p class="cause">{escape(error, 2000)}</p>' if error else ""
    return (
        f'<header><h1>{escape(title)} <span class="status {known.get(status, "fair")}">{escape(status)}</span></h1>'
        f'{cause}<dl class="facts">{rows}</dl></header>{tiles}'
    )


def _tile(rounds: Sequence[RoundRecord], measure: str) -> str:
    for prefix, where in _WHERE.items():
        name = prefix + measure
        seen = [(record.number, record.metrics[name]) for record in rounds if name in record.metrics]
        if not seen:
            continue
        (first_round, first), (_, last) = seen[0], seen[-1]
        before = f"was {number(first)} after round {first_round}" if len(seen) > 1 else f"after round {first_round}"
        return (
            f'<div class="tile"><span>{_title(measure)}</span><strong>{number(last)}</strong>'
            f"<small>{where}<br>{before}</small></div>"
        )
    return ""


def _comparison(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns: list[str] = []
    for row in rows:
        columns.extend(name for name in row if name != "name" and name not in columns)
    best = {name: _best(name, [_value(row.get(name)) for row in rows]) for name in columns}
    head = "".join(f'<th class="n">{_title(name)}</th>' for name in columns)
    lines = []
    for row in rows:
        name = str(row.get("name", ""))
        cells = "".join(_cell(_value(row.get(column)), best[column]) for column in columns)
        marked = ' class="marked"' if name.startswith("Joint") or "federated" in name.casefold() else ""
        lines.append(f'<tr{marked}><th scope="row">{escape(name)}</th>{cells}</tr>')
    return (
        "<section><h2>What working together brings</h2>"
        "<p>Every row is a model, judged on the same held-out cases. The best value of a column is bold.</p>"
        f'<div class="scroll"><table class="comparison"><thead><tr><th>Model</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _cell(value: float, best: float) -> str:
    text = number(value)
    return f'<td class="n">{f"<b>{text}</b>" if text == number(best) and not math.isnan(best) else text}</td>'


def _best(name: str, values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return min(known) if "loss" in name.casefold() or "error" in name.casefold() else max(known)


def _value(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _progress(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> str:
    every = [(name, _lines(rounds, sites, name)) for name in measures_of(rounds)]
    drawn = [(name, lines) for name, lines in every if any(_has_value(line) for line in lines)][:MAX_PLOTS]
    if not drawn:
        return ""
    three = len(drawn) % 3 == 0
    width = NARROW if three else WIDE
    figures = "".join(
        f"<figure><figcaption>{_title(name)} by round</figcaption>{_plot(name, lines, width)}</figure>"
        for name, lines in drawn
    )
    return (
        f"<section><h2>How the model came along</h2><p>{_reading(rounds, sites)}</p>"
        f'<div class="plots{" three" if three else ""}">{figures}</div></section>'
    )


def _reading(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> str:
    """How to read the lines, naming only those that there are."""
    names = {name for record in rounds for name in record.metrics}
    thick = "Thick: the mean over sites, weighted by their number of cases. "
    notes = [f"{thick if len(sites) > 1 else ''}Thin: each site on its own held-out cases."]
    if any(name.startswith(TRAIN_PREFIX) for name in names):
        notes.append("Dotted: the mean over sites in training.")
    if any(name.startswith(SERVER_PREFIX) for name in names):
        notes.append("Dashed: measured at the server.")
    if len(sites) > MAX_NAMED_SITES:
        notes.append(f"Of {len(sites)} sites, only the highest and the lowest at the end bear their names.")
    return " ".join(notes)


def _plot(measure: str, lines: Sequence[Line], width: int) -> str:
    share = measure in SHARES
    floor = 0.0 if share or "loss" in measure else None
    about = f"{measure} by round and site"
    return line_plot(lines, about=about, ceiling=1.0 if share else None, floor=floor, width=width)


def _has_value(line: Line) -> bool:
    return any(drawable(y) for _, y in line.points)


def _lines(rounds: Sequence[RoundRecord], sites: Sequence[str], measure: str) -> list[Line]:
    """The lines of one measure: sites first, the mean last and so on top."""
    prefix = "" if any(measure in record.metrics for record in rounds) else TRAIN_PREFIX
    asked = [record for record in rounds if prefix + measure in record.metrics]
    by_site = {
        site: tuple((record.number, _value(record.by_site.get(site, {}).get(prefix + measure))) for record in asked)
        for site in sites
    }
    by_site = {site: points for site, points in by_site.items() if any(drawable(y) for _, y in points)}
    named = set(by_site) if len(sites) <= MAX_NAMED_SITES else _extremes(by_site)
    lines = [
        Line(site, points, f"s{sites.index(site)}" if len(sites) <= MAX_NAMED_SITES else "grey", site in named)
        for site, points in by_site.items()
    ]
    wholes = [(TRAIN_PREFIX, "in training", "train"), (SERVER_PREFIX, "at the server", "server"), ("", MEAN, "mean")]
    for where, name, style in wholes:
        points = tuple((r.number, float(r.metrics[where + measure])) for r in rounds if where + measure in r.metrics)
        # With one site its line is the mean.
        if points and not (where == prefix and len(by_site) == 1):
            lines.append(Line(name, points, style))
    return lines


def _extremes(by_site: Mapping[str, Sequence[tuple[int, float]]]) -> set[str]:
    last = {site: [y for _, y in points if drawable(y)][-1] for site, points in by_site.items()}
    return {max(last, key=last.__getitem__), min(last, key=last.__getitem__)} if last else set()


def _site_table(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> str:
    if not sites:
        return ""
    measures = measures_of(rounds)[:MAX_PLOTS]
    lines = []
    for index, site in enumerate(sites):
        fates = [fate_of(record, site)[0] for record in rounds if _took_part(record, site)]
        cells = "".join(f'<td class="n">{number(_last(rounds, site, measure))}</td>' for measure in measures)
        colour = f'<i class="b{index}"></i>' if len(sites) <= MAX_NAMED_SITES else ""
        counts = "".join(f'<td class="n">{fates.count(fate) or "–"}</td>' for fate in ("folded", "late", "failed"))
        lines.append(f'<tr><th scope="row">{colour}{escape(site, 63)}</th>{counts}{cells}</tr>')
    tall = " tall" if len(sites) > 12 else ""
    head = "".join(f'<th class="n">{_title(measure)}</th>' for measure in measures)
    return (
        "<section><h2>Sites</h2><p>In how many rounds a site's update was folded into the model, came late or failed, "
        f'and what the site measured last.</p><div class="scroll{tall}"><table><thead><tr><th>Site</th>'
        f'<th class="n">Folded</th><th class="n">Late</th><th class="n">Failed</th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _took_part(record: RoundRecord, site: str) -> bool:
    return site in record.folded or site in record.late or site in record.failed


def _last(rounds: Sequence[RoundRecord], site: str, measure: str) -> float:
    for record in reversed(rounds):
        metrics = record.by_site.get(site, {})
        for name in (measure, TRAIN_PREFIX + measure):
            if name in metrics:
                return _value(metrics[name])
    return math.nan


def _costs(rounds: Sequence[RoundRecord]) -> str:
    figures = [_time_figure(rounds), _bytes_figure(rounds)]
    drawn = [figure for figure in figures if figure]
    if not drawn:
        return ""
    return f'<section><h2>What it took</h2><div class="plots">{"".join(drawn)}</div></section>'


def _time_figure(rounds: Sequence[RoundRecord]) -> str:
    phases = _phases(rounds)
    unit, scale = (
        ("ms", 1000.0) if max((r.seconds for r in rounds if drawable(r.seconds)), default=0.0) < 1 else ("s", 1.0)
    )
    bars = _bars(rounds, [[r.seconds_by_phase.get(phase, 0.0) * scale for phase in phases] for r in rounds])
    drawing = bar_plot(bars, names=phases, unit=unit, about="seconds by phase and round")
    totals = [(phase, format_seconds(sum(r.seconds_by_phase.get(phase, 0.0) for r in rounds))) for phase in phases]
    return _bar_figure("Time by phase", drawing, totals, len(rounds))


def _bytes_figure(rounds: Sequence[RoundRecord]) -> str:
    ways = [("down", "to the sites"), ("up", "from the sites")]
    unit, scale = byte_unit(max((r.moved_bytes for r in rounds), default=0))
    bars = _bars(rounds, [[r.bytes.get(way, 0) / scale for way, _ in ways] for r in rounds])
    drawing = bar_plot(bars, names=[name for _, name in ways], unit=unit, about="bytes moved by round")
    totals = [(name, format_bytes(sum(r.bytes.get(way, 0) for r in rounds))) for way, name in ways]
    return _bar_figure("Bytes moved", drawing, totals, len(rounds))


def _bar_figure(title: str, drawing: str, totals: Sequence[tuple[str, str]], num_rounds: int) -> str:
    if not drawing:
        return ""
    legend = "".join(
        f'<span><i class="b{index % NUM_COLOURS}"></i>{escape(name, 40)} <b>{total}</b></span>'
        for index, (name, total) in enumerate(totals)
    )
    size = -(-num_rounds // MAX_BARS)
    mean = f", mean of {size} rounds a bar" if size > 1 else ""
    return f'<figure><figcaption>{title}{mean}</figcaption><div class="legend">{legend}</div>{drawing}</figure>'


def _bars(rounds: Sequence[RoundRecord], values: Sequence[Sequence[float]]) -> list[tuple[str, list[float]]]:
    """A bar for each round, or for the mean of several where there are too many to see."""
    size = -(-len(rounds) // MAX_BARS) or 1
    bars = []
    for start in range(0, len(rounds), size):
        piece = values[start : start + size]
        bars.append((str(rounds[start].number), [sum(column) / len(piece) for column in zip(*piece, strict=True)]))
    return bars


def _phases(rounds: Sequence[RoundRecord]) -> list[str]:
    """In the order in which rounds go through them, as far as a name tells."""
    found = {phase for record in rounds for phase in record.seconds_by_phase}
    order = {"parameters": 0, "train": 1, "evaluate": 3, "server": 4}
    return sorted(found, key=lambda phase: (order.get(phase, 2), phase))


def _round_table(rounds: Sequence[RoundRecord]) -> str:
    if not rounds:
        return "<section><h2>Rounds</h2><p>No round was completed.</p></section>"
    measures = [name for name in measures_of(rounds) if any(name in record.metrics for record in rounds)][:4]
    head = "".join(f'<th class="n">{_title(measure)}</th>' for measure in measures)
    lines = []
    for record in rounds:
        cells = "".join(f'<td class="n">{number(record.metrics.get(measure, math.nan))}</td>' for measure in measures)
        failed = "<br>".join(
            f"<b>{_whose(cause.sites)}</b> {escape(cause.reason)}" for cause in by_cause(record.failed)[:12]
        )
        failed = f'<td class="failed">{failed}</td>' if failed else "<td>–</td>"
        lines.append(
            f'<tr><th scope="row" class="n">{record.number}</th><td>{_names(record.folded)}</td>'
            f"<td>{_names(record.late)}</td>{failed}{cells}"
            f'<td class="n">{format_seconds(record.seconds)}</td>'
            f'<td class="n">{format_bytes(record.moved_bytes)}</td></tr>'
        )
    return (
        '<section><h2>Rounds</h2><div class="scroll tall"><table><thead><tr><th class="n">Round</th><th>Folded</th>'
        f'<th>Late</th><th>Failed</th>{head}<th class="n">Time</th><th class="n">Bytes</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _names(sites: Sequence[str]) -> str:
    if not sites:
        return "–"
    names = ", ".join(sites)
    if len(sites) > 4:
        return f'<span title="{escape(names, 2000)}">{len(sites)} sites</span>'
    return escape(names)


def _whose(sites: Sequence[str]) -> str:
    """The sites of one cause; all names of more than four show when pointed at."""
    return escape(sites[0], 63) if len(sites) == 1 else _names(sites)


def _title(measure: str) -> str:
    return escape(TITLES.get(measure, measure[:1].upper() + measure[1:].replace("_", " ")), 40)
