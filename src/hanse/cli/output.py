"""What commands print: tables for people, JSON for programs, times and sizes in words."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def clean(text: str, limit: int = 4000) -> str:
    """Text of others, fit for a terminal: no escape sequences, no control characters but line ends."""
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text[:limit])


def say(text: str = "") -> None:
    """A line for a person."""
    print(clean(text))


def note(text: str) -> None:
    """A line beside the output proper."""
    print(clean(text), file=sys.stderr)


def show_json(value: Any) -> None:
    """One JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(rows: Sequence[Row], columns: Mapping[str, str], *, empty: str) -> None:
    """A table without lines.

    Args:
        columns: key → heading.
        empty: what to say of no rows.
    """
    if not rows:
        say(empty)
        return
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    heads = list(columns.values())
    widths = [max(len(line[place]) for line in [heads, *cells]) for place in range(len(heads))]
    for line in [heads, *cells]:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def show_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        print(f"{name.ljust(width)}  {_cell(value, 4000)}".rstrip())


def show_reveals(reveals: Sequence[Row]) -> None:
    """What a job of roles tells whom about whom, all of it.

    Args:
        reveals: each with `to`, `about`, `what` and `detail`.
    """
    columns = {"to": "LEARNS", "about": "ABOUT", "what": "WHAT", "detail": "THAT IS"}
    show_table(reveals, columns, empty="Nothing is revealed.")


def _cell(value: Any, limit: int = 200) -> str:
    if value is None:
        return "–"
    if isinstance(value, list | tuple):
        value = ", ".join(str(item) for item in value) or "–"
    text = str(value)
    return clean(text, limit).replace("\n", " ") + "…" * (len(text) > limit)


def when(ms: int | None) -> str:
    """A moment, in local time."""
    return "–" if not ms else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ms / 1000))


def day(ms: int | None) -> str:
    """A day, in local time."""
    return "–" if not ms else time.strftime("%Y-%m-%d", time.localtime(ms / 1000))


def number(value: Any) -> str:
    """A metric in at most six characters, or so."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return clean(str(value), 12)
    if value != value:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}" if abs(value) < 1e7 else f"{value:.1e}"
    return f"{value:.3f}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}"
