"""Who got what, as one HTML page without scripts: how many examples each site has, and of which labels.

The second picture has an area for every site and label, as large as the number of examples; it says more than stacked
bars where there are many sites or more labels than colours.
"""

from pathlib import Path
from typing import Any

from hanse.datasets.partition import Partition
from hanse.rounds.report.page import style
from hanse.rounds.report.plots import HEIGHT, LEFT, TOP, WIDE, bar_plot, escape

MAX_LABELS = 100
BOTTOM = 36


def plot(
    partition: Partition, labels: Any = None, path: str | Path | None = None, *, title: str = "Who got what"
) -> str:
    """A page as text; written to `path` if there is one.

    Args:
        labels: `(num_examples,)`, for the second picture; it is left out for columns, and above 100 labels.

    Raises:
        ConfigError: labels of another number.
    """
    what = "columns" if partition.axis else "examples"
    sizes = partition.sizes
    bars = bar_plot(
        [(site, [num]) for site, num in sizes.items()],
        names=[what],
        unit="",
        about=f"number of {what} by site",
        axis="site",
    )
    figures = [(f"{what.capitalize()} of each site", bars)]
    if labels is not None and not partition.axis:
        known, counts = partition.counts(labels)
        if len(known) <= MAX_LABELS:
            figures.append(("Labels of each site", areas(list(sizes), [str(label) for label in known], counts)))
    drawn = "".join(f"<figure><figcaption>{name}</figcaption>{svg}</figure>" for name, svg in figures)
    facts = f"{partition.size} {what}, {len(sizes)} sites, {min(sizes.values())} to {max(sizes.values())} each"
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{style()}</style></head><body><main><h1>{escape(title)}</h1>"
        f"<p>{facts}</p><section class='plots'>{drawn}</section></main></body></html>\n"
    )
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def areas(sites: list[str], labels: list[str], counts: Any) -> str:
    """An area for each site and label, as `<svg>`; `counts`: `(num_sites, num_labels)`.

    Squares, or bars as wide as a site's place where there are so many sites that squares could not be told apart.
    """
    width, height = WIDE - LEFT - 16, HEIGHT - TOP - BOTTOM
    across, down = width / len(sites), height / len(labels)
    most = max(int(counts.max()), 1)
    is_crowded = across < down / 2
    parts = []
    for row, label in enumerate(labels):
        y = TOP + (row + 0.5) * down
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(label, 7)}</text>')
        for column, site in enumerate(sites):
            share = int(counts[column, row]) / most
            if share:
                wide = 0.8 * across if is_crowded else max(min(across, down) * share**0.5, 0.6)
                high = max(0.9 * down * share, 0.3) if is_crowded else wide
                foot = TOP + (row + 0.95) * down if is_crowded else y + high / 2
                x = LEFT + (column + 0.5) * across
                hint = escape(f"{site}, label {label}: {int(counts[column, row])}")
                parts.append(
                    f'<rect class="b0" x="{x - wide / 2:.1f}" y="{foot - high:.1f}" width="{wide:.1f}" '
                    f'height="{high:.1f}"><title>{hint}</title></rect>'
                )
    every = max(1, -(-len(sites) // 10))
    for column, site in list(enumerate(sites))[::every]:
        x = LEFT + (column + 0.5) * across
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{escape(site, 12)}</text>')
    parts.append(f'<text class="tick" x="{LEFT + width / 2}" y="{HEIGHT - 6}" text-anchor="middle">site</text>')
    about = f"examples by site and label; the largest area is {most}"
    return f'<svg viewBox="0 0 {WIDE} {HEIGHT}" role="img" aria-label="{escape(about)}">{"".join(parts)}</svg>'
