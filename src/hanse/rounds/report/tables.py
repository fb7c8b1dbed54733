"""The tables of a page about a run: models compared, what became of each site, and every round."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hanse.rounds.causes import by_cause
from hanse.rounds.record import RoundRecord, fate_of
from hanse.rounds.report.measures import (
    MAX_NAMED_SITES,
    MAX_PLOTS,
    TRAIN_PREFIX,
    format_bytes,
    format_seconds,
    measures_of,
    title_of,
    value_of,
)
from hanse.rounds.report.plots import escape, number


def comparison_table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    columns: list[str] = []
    for row in rows:
        columns.extend(name for name in row if name != "name" and name not in columns)
    best = {name: _best(name, [value_of(row.get(name)) for row in rows]) for name in columns}
    head = "".join(f'<th class="n">{title_of(name)}</th>' for name in columns)
    lines = []
    for row in rows:
        name = str(row.get("name", ""))
        cells = "".join(_cell(value_of(row.get(column)), best[column]) for column in columns)
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


def site_table(rounds: Sequence[RoundRecord], sites: Sequence[str]) -> str:
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
    head = "".join(f'<th class="n">{title_of(measure)}</th>' for measure in measures)
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
                return value_of(metrics[name])
    return math.nan


def round_table(rounds: Sequence[RoundRecord]) -> str:
    if not rounds:
        return "<section><h2>Rounds</h2><p>No round was completed.</p></section>"
    every = measures_of(rounds)
    measures = [name for name in every if any(name in record.metrics for record in rounds)][:4]
    if not measures:  # nothing was evaluated
        trained = [TRAIN_PREFIX + name for name in every]
        measures = [name for name in trained if any(name in record.metrics for record in rounds)][:4]
    heads = (
        f"{title_of(name.removeprefix(TRAIN_PREFIX))}{' in training' * name.startswith(TRAIN_PREFIX)}"
        for name in measures
    )
    head = "".join(f'<th class="n">{name}</th>' for name in heads)
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
