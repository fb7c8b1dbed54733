"""Pictures of answers as SVG text: bars, steps with a band, a matrix. No library, no script, no outside resource."""

import html
import math
import unicodedata
from collections.abc import Mapping, Sequence

WIDE, HIGH = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 120, 14, 46
NUM_COLOURS = 6
MAX_BARS = 60

STYLE = """
:root{color-scheme:light dark;--ink:#1d2430;--paper:#fff;--line:#d5dae1;--soft:#667085}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--paper:#14181f;--line:#343b46;--soft:#98a2b3}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0}
main{max-width:60rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.4rem}
svg{max-width:44rem;width:100%;height:auto;font:12px system-ui,sans-serif;display:block;margin:1rem 0}
svg text{fill:var(--soft,#667085)}svg .axis{stroke:var(--line,#d5dae1);fill:none}
.b0{fill:#3566b0}.b1{fill:#d98032}.b2{fill:#3f9464}.b3{fill:#b04a6f}.b4{fill:#7a5fb5}.b5{fill:#8a7a3a}
.l0{stroke:#3566b0}.l1{stroke:#d98032}.l2{stroke:#3f9464}.l3{stroke:#b04a6f}.l4{stroke:#7a5fb5}.l5{stroke:#8a7a3a}
.line{fill:none;stroke-width:2}.band{opacity:.16}.minus{fill:#b0403a}.plus{fill:#3566b0}
table{border-collapse:collapse;font-size:.92rem;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;border-bottom:1px solid var(--line)}
th{text-align:left;color:var(--soft);font-weight:600}th.number,td.number{text-align:right;font-variant-numeric:tabular-nums}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{color:var(--soft)}dd{margin:0}
.note{color:var(--soft)}
""".strip()


def escape(text: str, limit: int = 200) -> str:
    """Text from anywhere as harmless HTML: escaped, shortened, without control and direction marks."""
    kept = "".join(" " if unicodedata.category(c)[0] == "C" else c for c in text[: limit + 1])
    return html.escape(kept if len(kept) <= limit else kept[: limit - 1] + "…", quote=True)


def bars(labels: Sequence[str], series: Mapping[str, Sequence[float]], axis: str) -> str:
    """A group of bars for each label, a colour for each series; at most 60 labels are drawn."""
    labels = labels[:MAX_BARS]
    shown = list(series.items())[:NUM_COLOURS]
    highest = max((value for _, values in shown for value in values), default=0)
    if not labels or highest <= 0:
        return ""
    across = (WIDE - LEFT - RIGHT) / len(labels)
    thick = across * 0.8 / max(1, len(shown))
    parts = [_frame(0, highest)]
    every = math.ceil(len(labels) / 12)
    for i, label in enumerate(labels):
        x = LEFT + across * i
        if i % every == 0:
            y = HIGH - BOTTOM + 16
            middle = x + across / 2
            parts.append(f'<text x="{middle:.1f}" y="{y}" text-anchor="middle">{escape(label, 12)}</text>')
        for s, (name, values) in enumerate(shown):
            tall = (HIGH - TOP - BOTTOM) * values[i] / highest
            where = f'x="{x + across * 0.1 + thick * s:.1f}" y="{HIGH - BOTTOM - tall:.1f}"'
            hint = escape(f"{name}, {label}: {values[i]:g}")
            parts.append(
                f'<rect class="b{s}" {where} width="{thick:.1f}" height="{tall:.1f}"><title>{hint}</title></rect>'
            )
    return _svg([*parts, _axis_name(axis), _legend([name for name, _ in shown])], f"bars by {axis}")


def steps(curves: Mapping[str, Sequence[tuple[float, float, float, float]]], axis: str) -> str:
    """Falling steps with a band: for each name points (time, value, low, high), values from 0 to 1."""
    shown = [(name, points) for name, points in curves.items() if points][:NUM_COLOURS]
    last = max((points[-1][0] for _, points in shown), default=0)
    if last <= 0:
        return ""
    parts = [_frame(0, 1)]
    for i, (_, points) in enumerate(shown):
        value = _path([(0.0, 1.0), *((time, y) for time, y, _, _ in points)], last)
        low = _path([(0.0, 1.0), *((time, y) for time, _, y, _ in points)], last)
        high = _path([(0.0, 1.0), *((time, y) for time, _, _, y in points)], last)
        back = " ".join(f"L{point}" for point in reversed(low.split()))
        parts.append(f'<path class="b{i} band" d="M{" L".join(high.split())} {back}Z"/>')
        parts.append(f'<path class="l{i} line" d="M{" L".join(value.split())}"/>')
    for share in (0, 0.5, 1):
        x = LEFT + (WIDE - LEFT - RIGHT) * share
        parts.append(f'<text x="{x:.1f}" y="{HIGH - BOTTOM + 16}" text-anchor="middle">{last * share:.4g}</text>')
    return _svg([*parts, _axis_name(axis), _legend([name for name, _ in shown])], f"survival over {axis}")


def matrix(names: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """A square for each pair, its area the size of a correlation, its colour the sign; at most 40 names."""
    if len(names) > 40:
        return ""
    left, side = 110, min(44.0, 420 / len(names))
    parts = []
    for i, name in enumerate(names):
        middle = side * (i + 0.5)
        parts.append(f'<text x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{escape(name, 15)}</text>')
        for j, value in enumerate(values[i]):
            if value is None:
                continue
            edge = max(1.0, (side - 4) * math.sqrt(abs(value)))
            x, y = left + side * (j + 0.5) - edge / 2, middle - edge / 2
            hint = escape(f"{name}, {names[j]}: {value:.3f}")
            parts.append(
                f'<rect class="{"minus" if value < 0 else "plus"}" x="{x:.1f}" y="{y:.1f}" width="{edge:.1f}" '
                f'height="{edge:.1f}"><title>{hint}</title></rect>'
            )
    size = side * len(names)
    return (
        f'<svg viewBox="0 0 {left + size:.0f} {size:.0f}" role="img" aria-label="correlations" '
        f'style="max-width:{left + size:.0f}px">{"".join(parts)}</svg>'
    )


def _path(points: Sequence[tuple[float, float]], last: float) -> str:
    placed: list[str] = []
    before = 1.0
    for time, value in points:
        x = LEFT + (WIDE - LEFT - RIGHT) * time / last
        placed += [f"{x:.1f},{_down(before):.1f}", f"{x:.1f},{_down(value):.1f}"]
        before = value
    return " ".join(placed)


def _down(value: float) -> float:
    return TOP + (HIGH - TOP - BOTTOM) * (1 - value)


def _frame(low: float, high: float) -> str:
    lines = []
    for share in (0, 0.5, 1):
        y = HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * share
        lines.append(f'<path class="axis" d="M{LEFT} {y:.1f}H{WIDE - RIGHT}"/>')
        value = low + (high - low) * share
        lines.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.4g}</text>')
    return "".join(lines)


def _axis_name(axis: str) -> str:
    x = LEFT + (WIDE - LEFT - RIGHT) / 2
    return f'<text x="{x:.1f}" y="{HIGH - 8}" text-anchor="middle">{escape(axis, 40)}</text>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    x = WIDE - RIGHT + 12
    return "".join(
        f'<rect class="b{i}" x="{x}" y="{TOP + 18 * i}" width="10" height="10"/>'
        f'<text x="{x + 16}" y="{TOP + 9 + 18 * i}">{escape(name, 14)}</text>'
        for i, name in enumerate(names)
    )


def _svg(parts: Sequence[str], about: str) -> str:
    return f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape(about)}">{"".join(parts)}</svg>'
