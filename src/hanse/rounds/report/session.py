"""What the page of a run says where sites have played roles: one session, and who told and sent what in it."""

from collections.abc import Mapping, Sequence
from typing import Any

from hanse.rounds.record import ROLE_PHASE, RoundRecord
from hanse.rounds.report.measures import TITLES, format_bytes, format_seconds
from hanse.rounds.report.plots import escape, number

COUNTERS = ("sent_messages", "sent_bytes", "received_messages", "received_bytes", "turns")
"""What every channel counts."""
FIRST = ("auc", "accuracy", "log_loss", "r2", "rmse", "d2", "common")
MAX_TILES = 4


def is_session(rounds: Sequence[RoundRecord]) -> bool:
    """Whether this is a session of roles, and no rounds with a server in the middle."""
    return len(rounds) == 1 and set(rounds[0].seconds_by_phase) == {ROLE_PHASE}


def told(record: RoundRecord) -> list[tuple[str, str, int | float]]:
    """Site, name and value of every number that a role told, the best known first."""
    found = [
        (site, name, value)
        for site, metrics in record.by_site.items()
        for name, value in metrics.items()
        if name not in COUNTERS and isinstance(value, int | float)
    ]
    return sorted(found, key=lambda each: (FIRST.index(each[1]) if each[1] in FIRST else len(FIRST), each[1], each[0]))


def tiles(record: RoundRecord) -> str:
    """The first few of what was told, each measure once."""
    shown: dict[str, tuple[str, int | float]] = {}
    for site, name, value in told(record):
        shown.setdefault(name, (site, value))
    drawn = "".join(
        f'<div class="tile"><span>{escape(_shown(name), 60)}</span><strong>{_number(value)}</strong>'
        f"<small>told by {escape(site, 63)}</small></div>"
        for name, (site, value) in list(shown.items())[:MAX_TILES]
    )
    return f'<div class="tiles">{drawn}</div>' if drawn else ""


def table(record: RoundRecord, roles: Mapping[str, str]) -> str:
    """Who played what, what each told, and what it sent and received.

    Args:
        roles: site → role, where it is known.
    """
    names = list(dict.fromkeys(name for _, name, _ in told(record)))
    head = "".join(f'<th class="n">{escape(_shown(name), 60)}</th>' for name in names)
    lines = []
    for site in sorted(record.by_site, key=lambda site: roles.get(site, site)):
        metrics = record.by_site[site]
        cells = "".join(f'<td class="n">{_number(metrics.get(name))}</td>' for name in names)
        moved = "".join(f'<td class="n">{_bytes(metrics.get(f"{way}_bytes"))}</td>' for way in ("sent", "received"))
        count = _number(metrics.get("sent_messages"))
        who = f'<th scope="row">{escape(site, 63)}</th><td>{escape(roles.get(site, ""), 63)}</td>'
        lines.append(f'<tr>{who}{cells}{moved}<td class="n">{count}</td></tr>')
    return (
        f"<section><h2>Who played what</h2><p>One session of {format_seconds(record.seconds)}. What roles told is all "
        "that the server, and whoever submitted the job, have learned of their data.</p>"
        f'<div class="scroll"><table><thead><tr><th>Site</th><th>Role</th>{head}'
        f'<th class="n">Sent</th><th class="n">Received</th><th class="n">Messages</th></tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def roles_in(facts: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Site → role, of the fact that says `guest: bank, host: shop`."""
    text = dict(facts).get("roles", "")
    pairs = (each.partition(": ") for each in text.split(", ") if ": " in each)
    return {site: role for role, _, site in pairs}


def _shown(name: str) -> str:
    return TITLES.get(name, name.replace("_", " ").capitalize())


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return number(value) if isinstance(value, float) else "–"


def _bytes(value: Any) -> str:
    return format_bytes(value) if isinstance(value, int | float) else "–"
