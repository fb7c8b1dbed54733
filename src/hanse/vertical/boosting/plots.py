"""Trees and importances as one HTML page with SVG, without anything from outside."""

from collections.abc import Mapping, Sequence
from html import escape

from hanse.vertical.boosting.forest import LEAF, Forest

_SLOT, _SPLIT_WIDTH, _LEAF_WIDTH, _HEIGHT, _STEP = 96, 184, 86, 40, 78
"""Pixels. A split lies above two slots at least, so it may be nearly as wide as two."""
_MAX_TEXT = 26
"""Letters of 12 px in the width of a split, 7 px each; the whole text is shown by the box's title."""
_STYLE = """
:root { color-scheme: light dark; --ink: #1b2733; --paper: #ffffff; --line: #9aa7b3; --soft: #eef2f5; --leaf: #f7f4ea;
  --p0: #2b6cb0; --p1: #b4570b; --p2: #2f7d4f; --p3: #7a4fb5; --p4: #a8325e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4eaf0; --paper: #14191e; --line: #5c6a77; --soft: #202830;
  --leaf: #2a2820; --p0: #6aa9e9; --p1: #e69a5b; --p2: #6fc490; --p3: #b795ea; --p4: #e57ba1; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 100rem; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
details { border: 1px solid var(--line); border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem; }
summary { cursor: pointer; } .scroll { overflow-x: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); text-anchor: middle; }
svg .small { font-size: 11px; opacity: .8; } svg path { stroke: var(--line); fill: none; }
svg rect { fill: var(--soft); stroke-width: 1.5; } svg rect.leaf { fill: var(--leaf); stroke: var(--line); }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: inline-block; height: .7rem; border-radius: 2px; vertical-align: middle; }
"""


def page(
    forest: Forest, questions: Sequence[Mapping[str, str]], importance: Mapping[str, Mapping[str, float]], title: str
) -> str:
    """The page.

    Args:
        forest: the trees.
        questions: for each party in order, its role as `role`, and by the number of the split, as text, what it asks.
        importance: role → column → the sum of gains.
        title: of the page.
    """
    roles = [each["role"] for each in questions]
    trees = "\n".join(
        f"<details{' open' if tree == 0 else ''}><summary>Tree {tree + 1}{_output(forest, tree)}</summary>"
        f'<div class="scroll">{tree_svg(forest, tree, questions)}</div></details>'
        for tree in range(forest.num_trees)
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><h2>Importance: sum of gains</h2>{_bars(importance, roles)}"
        f"<h2>Trees</h2><p>Left is yes. A leaf shows what it adds.</p>{trees}</body></html>\n"
    )


def _output(forest: Forest, tree: int) -> str:
    outputs = len(forest.base)
    return "" if outputs == 1 else f", round {tree // outputs + 1}, class {tree % outputs + 1}"


def _bars(importance: Mapping[str, Mapping[str, float]], roles: Sequence[str]) -> str:
    rows = [(gain, role, name) for role, columns in importance.items() for name, gain in columns.items() if gain > 0]
    rows.sort(key=lambda row: -row[0])
    if not rows:
        return "<p>No tree asks anything.</p>"
    most = rows[0][0]
    cells = "".join(
        f'<tr><td>{escape(role)}</td><td>{escape(name)}</td><td class="number">{gain:.4g}</td>'
        f'<td><span class="bar" style="width:{max(1, round(240 * gain / most))}px;'
        f'background:var(--p{roles.index(role) % 5})"></span></td></tr>'
        for gain, role, name in rows[:60]
    )
    return f"<table><tr><th>party</th><th>column</th><th>gain</th><th></th></tr>{cells}</table>"


def tree_svg(forest: Forest, tree: int, questions: Sequence[Mapping[str, str]]) -> str:
    """One tree as SVG; arguments as for `page`."""
    places: dict[int, tuple[float, int]] = {}
    _lay_out(forest, tree, 0, 0, places, [0])
    width = (max(x for x, _ in places.values()) + 1) * _SLOT
    height = max(y for _, y in places.values()) * _STEP + _HEIGHT + 8
    edges, boxes = [], []
    for node, (across, down) in places.items():
        x, y = (across + 0.5) * _SLOT, down * _STEP + 4
        if forest.party[tree, node] != LEAF:
            for child in (2 * node + 1, 2 * node + 2):
                to_x, to_y = (places[child][0] + 0.5) * _SLOT, places[child][1] * _STEP + 4
                middle = (y + _HEIGHT + to_y) / 2
                edges.append(
                    f'<path d="M{x:.0f} {y + _HEIGHT} C{x:.0f} {middle} {to_x:.0f} {middle} {to_x:.0f} {to_y}"/>'
                )
        boxes.append(_box(forest, tree, node, questions, x, y))
    return (
        f'<svg role="img" aria-label="tree {tree + 1}" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}">{"".join(edges)}{"".join(boxes)}</svg>'
    )


def _lay_out(
    forest: Forest, tree: int, node: int, down: int, places: dict[int, tuple[float, int]], free: list[int]
) -> None:
    """Leaves side by side, parents above the middle of their children."""
    if forest.party[tree, node] == LEAF:
        places[node] = float(free[0]), down
        free[0] += 1
        return
    for child in (2 * node + 1, 2 * node + 2):
        _lay_out(forest, tree, child, down + 1, places, free)
    places[node] = (places[2 * node + 1][0] + places[2 * node + 2][0]) / 2, down


def _box(forest: Forest, tree: int, node: int, questions: Sequence[Mapping[str, str]], x: float, y: float) -> str:
    party = int(forest.party[tree, node])
    width = _LEAF_WIDTH if party == LEAF else _SPLIT_WIDTH
    left = max(0.0, x - width / 2)
    if party == LEAF:
        first, second = f"{forest.value[tree, node]:+.4g}", f"Σh {forest.weight[tree, node] * 2.0**-26:.4g}"
        rect = f'<rect class="leaf" x="{left:.0f}" y="{y}" width="{width}" height="{_HEIGHT}" rx="6"/>'
    else:
        asks = questions[party].get(str(forest.question[tree, node])) or f"column {forest.column[tree, node] + 1}"
        first = asks if len(asks) <= _MAX_TEXT else asks[: _MAX_TEXT - 1] + "…"
        second = f"{questions[party]['role']}, gain {forest.gain[tree, node]:.3g}"
        rect = (
            f'<rect style="stroke:var(--p{party % 5})" x="{left:.0f}" y="{y}" width="{width}" height="{_HEIGHT}" '
            f'rx="3"><title>{escape(asks)}</title></rect>'
        )
    return (
        f'{rect}<text x="{x:.0f}" y="{y + 16}">{escape(first)}</text>'
        f'<text class="small" x="{x:.0f}" y="{y + 31}">{escape(second)}</text>'
    )
