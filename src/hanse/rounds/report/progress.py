"""How the model came along: one plot for each measure, with a line for each site and for the mean."""

from collections.abc import Mapping, Sequence

from hanse.rounds.record import SERVER_PREFIX, RoundRecord
from hanse.rounds.report.measures import (
    MAX_NAMED_SITES,
    MAX_PLOTS,
    SHARES,
    TRAIN_PREFIX,
    measures_of,
    title_of,
    value_of,
)
from hanse.rounds.report.plots import NARROW, WIDE, Line, drawable, line_plot

MEAN = "all sites"


def progress(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> str:
    every = [(name, _lines(rounds, sites, name)) for name in measures_of(rounds)]
    drawn = [(name, lines) for name, lines in every if any(_has_value(line) for line in lines)][:MAX_PLOTS]
    if not drawn:
        return ""
    three = len(drawn) % 3 == 0
    width = NARROW if three else WIDE
    figures = "".join(
        f"<figure><figcaption>{title_of(name)} by round</figcaption>{_plot(name, lines, width)}</figure>"
        for name, lines in drawn
    )
    return (
        f"<section><h2>How the model came along</h2><p>{_reading(rounds, sites)}</p>"
        f'<div class="plots{" three" if three else ""}">{figures}</div></section>'
    )


def _reading(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> str:
    """How to read the lines, naming only those that there are."""
    names = {name for record in rounds for name in record.metrics}
    if any(not name.startswith((TRAIN_PREFIX, SERVER_PREFIX)) for name in names):
        thick = "Thick: the mean over sites, weighted by their number of cases. " if len(sites) > 1 else ""
        notes = [f"{thick}Thin: each site on its own held-out cases."]
    else:
        notes = ["Thin: each site in training."]
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
        site: tuple((record.number, value_of(record.by_site.get(site, {}).get(prefix + measure))) for record in asked)
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
