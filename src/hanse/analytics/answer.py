"""`Answer`: what a question came to, as a plain table that prints, and turns into rows, JSON or an HTML page.

A number is None where there is none: no rows, or too few of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.analytics.drawing import STYLE, escape

Value = float | int | str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """A table and what belongs to it.

    Args:
        title: what was asked.
        rows: one mapping a line, all with the same keys.
        facts: single numbers beside the table, such as a p-value.
        notes: what the reader must know.
        drawing: an `<svg>`, or nothing.
    """

    title: str
    rows: tuple[Mapping[str, Value], ...]
    facts: Mapping[str, Value] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    drawing: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The table's columns, in order."""
        return tuple(self.rows[0]) if self.rows else ()

    def to_rows(self) -> list[dict[str, Value]]:
        """One dict a line, as `pandas.DataFrame` or `polars.DataFrame` take them."""
        return [dict(row) for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"title": self.title, "rows": self.to_rows(), "facts": dict(self.facts), "notes": list(self.notes)}

    def plot(self, path: str | Path | None = None) -> str:
        """The drawing as an SVG document, written to `path` if there is one; empty where there is nothing to draw."""
        if not self.drawing:
            return ""
        sheet = f"<style>{STYLE}</style>"
        text = self.drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        text = text.replace(">", f">{sheet}", 1)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    def report(self, path: str | Path) -> Path:
        """Write one HTML page, without scripts and outside resources; where it is."""
        path = Path(path)
        page = (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width">'
            f"<title>{escape(self.title)}</title><style>{STYLE}</style></head><body><main><h1>{escape(self.title)}</h1>"
            f"{self._repr_html_()}</main></body></html>\n"
        )
        path.write_text(page, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        kinds = {name: _kind(self.rows[0][name]) for name in self.columns}
        head = "".join(f'<th class="{kinds[name]}">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            "<tr>"
            + "".join(f'<td class="{_kind(row[n])}">{escape(shown(row[n]))}</td>' for n in self.columns)
            + "</tr>"
            for row in self.rows
        )
        facts = "".join(f"<dt>{escape(n)}</dt><dd>{escape(shown(v))}</dd>" for n, v in self.facts.items())
        notes = "".join(f"<p class='note'>{escape(note)}</p>" for note in self.notes)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if self.rows else ""
        return f"{self.drawing}{table}{f'<dl>{facts}</dl>' if facts else ''}{notes}"

    def __str__(self) -> str:
        lines = [self.title, *_aligned(self.columns, self.rows)]
        lines += [f"{name}: {shown(value)}" for name, value in self.facts.items()]
        return "\n".join([*lines, *self.notes])


def shown(value: Value) -> str:
    """A value for people: six significant digits, a dash where there is none."""
    if value is None:
        return "–"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _kind(value: Value) -> str:
    return "text" if isinstance(value, str) else "number"


def _aligned(columns: Sequence[str], rows: Sequence[Mapping[str, Value]]) -> list[str]:
    if not rows:
        return []
    cells = [list(columns), *[[shown(row[name]) for name in columns] for row in rows]]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    texts = [isinstance(rows[0][name], str) for name in columns]
    return [
        "  ".join(
            cell.ljust(width) if is_text else cell.rjust(width)
            for cell, width, is_text in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in cells
    ]
