"""One self-contained HTML page about a run: plots by round and site, times, bytes, every round.

Nothing is loaded from elsewhere and nothing is executed: style and drawings are inline, there is no script, and the
page forbids both in its own content policy. Everything that came from a site is escaped. The page holds metrics and
names of sites, and no data.
"""

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from hanse.rounds.record import SERVER_PREFIX, RoundRecord
from hanse.rounds.report import session
from hanse.rounds.report.costs import costs
from hanse.rounds.report.measures import TRAIN_PREFIX, measures_of, sites_of, title_of
from hanse.rounds.report.plots import escape, number
from hanse.rounds.report.progress import progress
from hanse.rounds.report.tables import comparison_table, round_table, site_table

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
    if session.is_session(rounds):
        roles = session.roles_in(facts)
        table = session.table(rounds[0], roles)
        sections = [comparison_table(comparison), table]
    else:
        sections = [
            comparison_table(comparison),
            progress(rounds, sites),
            site_table(rounds, sites),
            costs(rounds),
            round_table(rounds),
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
    """The page's style sheet, `page.css` beside this file."""
    return resources.files("hanse.rounds.report").joinpath("page.css").read_text(encoding="utf-8")


def _header(
    rounds: Sequence[RoundRecord], title: str, status: str, error: str, facts: Sequence[tuple[str, str]]
) -> str:
    known = {"finished": "good", "failed": "bad", "cancelled": "fair"}
    rows = "".join(
        f"<div><dt>{escape(name[:1].upper() + name[1:])}</dt><dd>{escape(text)}</dd></div>"
        for name, text in facts
        if text
    )
    if session.is_session(rounds):
        tiles = session.tiles(rounds[0])
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
            f'<div class="tile"><span>{title_of(measure)}</span><strong>{number(last)}</strong>'
            f"<small>{where}<br>{before}</small></div>"
        )
    return ""
