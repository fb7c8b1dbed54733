"""What a run took: seconds by phase and bytes moved, as stacked bars by round."""

from collections.abc import Sequence

from hanse.rounds.record import RoundRecord
from hanse.rounds.report.measures import byte_unit, format_bytes, format_seconds
from hanse.rounds.report.plots import NUM_COLOURS, bar_plot, drawable, escape

MAX_BARS = 60


def costs(rounds: Sequence[RoundRecord]) -> str:
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
