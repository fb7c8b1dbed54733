"""Two kinds of plot as SVG text: lines over rounds, and stacked bars. No library, no script, no outside resource.

Colours come from the page's style sheet (classes `s0` … `s7`, `mean`, `grey`), so one drawing serves light and dark.
Every text is escaped here. Values that cannot be drawn (NaN, infinite, absurdly large) leave a gap.
"""

import html
import math
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

NUM_COLOURS = 8
DRAWABLE = 1e150
"""Beyond this a value is left out: differences and logarithms stay finite."""

WIDE, NARROW = 540, 410
"""Widths for two and for three plots side by side, so that their letters come out equally large."""
HEIGHT = 300
LEFT, RIGHT, TOP, BOTTOM = 52, 136, 14, 40
BUCKETS = 120
"""A longer line is thinned to this many pieces, each with its first, lowest, highest and last point."""
LABEL_GAP = 14.0
MAX_HINTS = 600
"""Points of one plot that show their value when the pointer rests on them."""

Point = tuple[int, float]
Down = Callable[[float], float]
"""Where a value lies on the vertical axis."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `points` by round, NaN for a gap. `label` at its end if there is one; `style`: classes."""

    name: str
    points: tuple[Point, ...]
    style: str
    label: bool = True


def escape(text: str, limit: int = 200) -> str:
    """Text from anywhere as harmless HTML: escaped, shortened, without control and direction marks."""
    kept = "".join(c if unicodedata.category(c) not in _UNWANTED else " " for c in text[: limit + 1])
    return html.escape(kept if len(kept) <= limit else kept[: limit - 1] + "…", quote=True)


_UNWANTED = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def number(value: float) -> str:
    """A value for people: three decimals where that says enough, a dash where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
    return f"{value:.2e}"


def nice_step(span: float, count: int) -> float:
    """1, 2 or 5 times a power of ten, so that `span` holds about `count` of it."""
    raw = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from just below `low` to just above `high`; both ends of an axis are ticks."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        room = max(abs(low) * 0.1, 1e-6) if low else 1.0
        low, high = low - room, high + room
    step = nice_step(high - low, count)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def tick_label(value: float, step: float) -> str:
    """A tick with just the decimals that its step needs."""
    if value and (abs(value) >= 1e6 or step < 1e-5):
        return f"{value:.3g}"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}" if round(value, decimals) else "0"


def drawable(value: float) -> bool:
    """Whether a value can be placed on an axis."""
    return math.isfinite(value) and abs(value) < DRAWABLE


def thinned(points: Sequence[Point], buckets: int = BUCKETS) -> list[Point]:
    """A long line without the points that nobody could see: extremes, ends and gaps stay."""
    if len(points) <= 4 * buckets:
        return list(points)
    kept: list[Point] = []
    size = -(-len(points) // buckets)
    for start in range(0, len(points), size):
        piece = points[start : start + size]
        good = [point for point in piece if drawable(point[1])]
        if not good:
            kept.append(piece[0])
            continue
        ends = {piece[0], piece[-1], min(good, key=_height), max(good, key=_height)}
        kept.extend(point for point in piece if point in ends)
    return kept


def line_plot(
    lines: Sequence[Line],
    *,
    about: str,
    ceiling: float | None = None,
    floor: float | None = None,
    width: int = WIDE,
    axis: str = "round",
    start: int | None = None,
) -> str:
    """Lines over rounds as an `<svg>`; empty if no value can be drawn.

    Args:
        lines: drawn in this order, so the most important comes last.
        about: what it shows, for screen readers.
        ceiling, floor: ends beyond which the axis does not go, for measures that have them.
        axis: what points are placed by, whole numbers: rounds, or seconds.
        start: where that axis begins; by default with the first point.
    """
    values = [y for line in lines for _, y in line.points if drawable(y)]
    if not values:
        return ""
    ticks = nice_ticks(min(values), max(values))
    if ceiling is not None and max(values) <= ceiling:
        ticks = [tick for tick in ticks if tick <= ceiling + 1e-9] or ticks
    if floor is not None and min(values) >= floor:
        ticks = [tick for tick in ticks if tick >= floor - 1e-9] or ticks
    low, high = min(ticks[0], *values), max(ticks[-1], *values)
    rounds = [x for line in lines for x, _ in line.points]
    across = _Across(min(rounds) if start is None else start, max(rounds), width - RIGHT)

    def down(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_grid(ticks, down, across.right), _round_axis(across, axis)]
    hints = 0
    for line in lines:
        parts.extend(_stretch(line, stretch, across, down) for stretch in _stretches(thinned(line.points)))
        good = [point for point in line.points if drawable(point[1])]
        if line.label and hints + len(good) <= MAX_HINTS:
            hints += len(good)
            parts.extend(_hint(line.name, point, across, down, axis) for point in good)
    parts.extend(_end_labels(lines, across, down))
    return _svg(parts, about, width)


def bar_plot(
    bars: Sequence[tuple[str, Sequence[float]]], *, names: Sequence[str], unit: str, about: str, axis: str = "round"
) -> str:
    """Stacked bars as an `<svg>`; empty if there is nothing above zero.

    Args:
        bars: a label under the bar and one value ≥ 0 for each of `names`, from the bottom up.
        names: what is stacked, with the colours `b0`, `b1`, …
        unit: on the upright axis.
        axis: what a bar stands for.
    """
    heights = [sum(value for value in values if drawable(value)) for _, values in bars]
    if not any(heights):
        return ""
    ticks = nice_ticks(0.0, max(heights), 4)
    scale = (HEIGHT - TOP - BOTTOM) / ticks[-1]

    def down(value: float) -> float:
        return HEIGHT - BOTTOM - value * scale

    right = WIDE - 16
    pitch = (right - LEFT) / len(bars)
    width = min(pitch * 0.72, 44.0)
    parts = [_grid(ticks, down, right, unit)]
    every = max(1, -(-len(bars) // 10))
    for place, (label, values) in enumerate(bars):
        middle = LEFT + (place + 0.5) * pitch
        base = 0.0
        for index, value in enumerate(values):
            if not drawable(value) or value <= 0:
                continue
            hint = escape(f"{axis} {label}: {names[index]} {number(value)} {unit}")
            parts.append(
                f'<rect class="b{index % NUM_COLOURS}" x="{middle - width / 2:.1f}" y="{down(base + value):.1f}" '
                f'width="{width:.1f}" height="{max(value * scale, 0.3):.1f}"><title>{hint}</title></rect>'
            )
            base += value
        if place % every == 0:
            parts.append(_tick(middle, HEIGHT - BOTTOM + 16, escape(label)))
    parts.append(_axis_name((LEFT + right) / 2, axis))
    return _svg(parts, about, WIDE)


@dataclass(frozen=True, slots=True)
class _Across:
    """Where a round lies on the horizontal axis."""

    first: int
    last: int
    right: int

    def __call__(self, round_: float) -> float:
        if self.first == self.last:
            return (LEFT + self.right) / 2
        return LEFT + (round_ - self.first) / (self.last - self.first) * (self.right - LEFT)


def _svg(parts: Sequence[str], about: str, width: int) -> str:
    label = escape(about)
    return f'<svg viewBox="0 0 {width} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _grid(ticks: Sequence[float], down: Down, right: float, unit: str = "") -> str:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    parts = [
        f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{down(tick):.1f}" y2="{down(tick):.1f}"/>'
        + _tick(LEFT - 8, down(tick) + 4, tick_label(tick, step), "end")
        for tick in ticks
    ]
    if unit:
        parts.append(
            f'<text class="tick" x="{LEFT - 8}" y="{HEIGHT - BOTTOM + 16}" text-anchor="end">{escape(unit)}</text>'
        )
    return "".join(parts)


def _round_axis(across: _Across, axis: str) -> str:
    if across.first == across.last:
        ticks = [across.first]
    else:
        step = max(1, round(nice_step(across.last - across.first, 6)))
        ticks = [across.first, *range((across.first // step + 1) * step, across.last + 1, step)]
        if across.first > 0 and len(ticks) > 1 and across(ticks[1]) - across(ticks[0]) < 24:
            del ticks[1]
    marks = "".join(_tick(across(tick), HEIGHT - BOTTOM + 16, str(tick)) for tick in ticks)
    return marks + _axis_name((LEFT + across.right) / 2, axis)


def _axis_name(x: float, name: str = "round") -> str:
    return _tick(x, HEIGHT - 6, escape(name))


def _tick(x: float, y: float, text: str, anchor: str = "middle") -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _stretches(points: Sequence[Point]) -> list[list[Point]]:
    """Runs of points without a gap."""
    runs: list[list[Point]] = [[]]
    for point in points:
        if drawable(point[1]):
            runs[-1].append(point)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _stretch(line: Line, stretch: Sequence[Point], across: _Across, down: Down) -> str:
    if len(stretch) == 1:
        ((x, y),) = stretch
        return f'<circle class="dot {line.style}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5"/>'
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in stretch)
    return f'<polyline class="line {line.style}" points="{path}"/>'


def _hint(name: str, point: Point, across: _Across, down: Down, axis: str) -> str:
    x, y = point
    text = escape(f"{name}, {axis} {x}: {number(y)}")
    return f'<circle class="hint" cx="{across(x):.1f}" cy="{down(y):.1f}" r="6"><title>{text}</title></circle>'


def _end_labels(lines: Sequence[Line], across: _Across, down: Down) -> list[str]:
    """Names and last values at the right, moved apart where they would lie on each other."""
    wanted = []
    for line in lines:
        good = [point for point in line.points if drawable(point[1])]
        if line.label and good:
            wanted.append((down(good[-1][1]), good[-1], line))
    wanted.sort(key=lambda item: item[0])
    places = spread([place for place, _, _ in wanted], LABEL_GAP, TOP + 4, HEIGHT - BOTTOM)
    edge = across.right
    parts = []
    for place, (natural, (x, y), line) in zip(places, wanted, strict=True):
        parts.append(
            f'<polyline class="lead" points="{across(x) + 4:.1f},{natural:.1f} {edge + 6},{place:.1f}"/>'
            f'<text class="label {line.style}" x="{edge + 10}" y="{place + 4:.1f}">'
            f"{escape(line.name, 13)} <tspan>{number(y)}</tspan><title>{escape(line.name)}</title></text>"
        )
    return parts


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Sorted places moved as little as needed to be `gap` apart, inside [low, high] if they fit there."""
    result = list(places)
    for index in range(len(result)):
        least = result[index - 1] + gap if index else low
        result[index] = max(result[index], least)
    most = high
    for index in reversed(range(len(result))):
        result[index] = min(result[index], most)
        most = result[index] - gap
    return result


def _height(point: Point) -> float:
    return point[1]
