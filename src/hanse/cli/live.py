"""A job on the screen while it runs: a bar over rounds and a line a site; plain lines where there is no terminal."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from hanse.cli.output import number
from hanse.cli.view import View, ending, line_of, trend
from hanse.rounds.causes import Cause, by_cause

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hanse.person.jobs import Job

Event = Mapping[str, Any]
WIDE = 100
_COLOURS = {"quiet": "dim", "busy": "cyan", "good": "green", "bad": "red"}
_MARKS = {"quiet": "·", "good": "✓", "bad": "✗"}
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_COLUMN = 9


class Display(Protocol):
    """Where events are shown; a context manager."""

    view: View

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def take(self, event: Event) -> None:
        """Show one event."""


class Lines:
    """A line an event, for pipes, logs and dumb terminals."""

    def __init__(self, view: View, *, every_reply: bool = False) -> None:
        self.view = view
        self._every_reply = every_reply
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def take(self, event: Event) -> None:
        """Print it, once."""
        self.view.take(event)
        line = line_of(self.view, event, every_reply=self._every_reply)
        if line and line != self._last:
            self._last = line
            print(line, flush=True)


class Silent:
    """Nothing is shown; for JSON."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def take(self, event: Event) -> None:
        """Learn of it."""
        self.view.take(event)


class Screen:
    """A picture that is redrawn in place."""

    def __init__(self, view: View) -> None:
        from rich.console import Console
        from rich.live import Live

        self.view = view
        self._console = Console()
        self._since = time.monotonic()
        self._live = Live(
            console=self._console, get_renderable=self._draw, refresh_per_second=12, redirect_stdout=False
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def take(self, event: Event) -> None:
        """Learn of it; the picture follows by itself."""
        self.view.take(event)

    def _draw(self) -> "RenderableType":
        now = time.monotonic() - self._since
        return draw(self.view, self._console.size.width, self._console.size.height, now)


def draw(view: View, width: int, height: int, seconds: float) -> "RenderableType":
    """The picture of a job.

    Args:
        width, height: of the terminal, in characters.
        seconds: since the start; moves the clock and the spinner.
    """
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = [_head(view, width, seconds), Text()]
    if view.sites:
        parts.append(_table(view, width, max(3, height - 9), seconds))
    told = by_cause({site.name: site.why for site in view.sites.values() if site.tone == "bad" and site.why})
    lines = [f" {_told(cause, len(view.sites))}" for cause in told[:8]]
    parts += [Text(line, style="red", overflow="ellipsis", no_wrap=True) for line in lines]
    if view.trouble:
        parts.append(
            Text(f" waiting for the server: {view.trouble}", style="yellow", overflow="ellipsis", no_wrap=True)
        )
    if view.over:
        parts += [Text(), Text(f" {ending(view)}", style="green" if view.status == "finished" else "red")]
    return Group(*parts[: max(4, height - 1)])


def _head(view: View, width: int, seconds: float) -> "RenderableType":
    from rich.console import Group
    from rich.padding import Padding
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    phase = {"train": "training", "evaluate": "evaluating", "parameters": "starting"}.get(view.phase, view.phase)
    counter = f"round {view.round}" + (f" of {view.rounds}" if view.rounds else "")
    if view.phase == "role":
        from hanse.rounds.report.measures import format_bytes

        counter, phase = f"session {view.round}", f"{format_bytes(view.moved_bytes)} exchanged"
    clock = f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
    title = Table.grid(padding=(0, 1), expand=True)
    title.add_column(no_wrap=True, overflow="ellipsis")
    title.add_column(no_wrap=True, justify="right")
    title.add_row(Text(f" {view.title}", style="bold"), Text(f"{clock} ", style="dim"))
    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(no_wrap=True, width=min(32, width // 2))
    total = max(view.rounds, view.completed, 1)
    drawn = ProgressBar(total=total, completed=view.completed, width=max(10, width - min(32, width // 2) - 3))
    bar.add_row(Padding(drawn, (0, 0, 0, 1)), Text(f"{counter} · {phase}" if view.round else phase))
    return Group(title, bar)


def _table(view: View, width: int, most: int, seconds: float) -> "RenderableType":
    from rich.table import Table
    from rich.text import Text

    widest = min(24, max(6, *(len(name) for name in view.sites)))
    has_trend = width >= WIDE and any(site.losses for site in view.sites.values())
    room = width - widest - 24 - (26 if has_trend else 0) - 10
    measures = view.measures()[: max(0, room // (_COLUMN + 2))]
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=True)
    table.add_column("site", width=widest, no_wrap=True)
    table.add_column("state", width=20, no_wrap=True, overflow="ellipsis")
    if not view.plays:
        table.add_column("examples", justify="right", width=8)
    for name in measures:
        table.add_column(name.removeprefix("train_").replace("_", " "), justify="right", width=_COLUMN, no_wrap=True)
    if has_trend:
        table.add_column("loss by round", width=24, no_wrap=True)
    shown = _chosen(view, most)
    for site in shown:
        mark = _MARKS.get(site.tone) or _SPINNER[int(seconds * 10) % len(_SPINNER)]
        row = [
            Text(site.name),
            Text(f"{mark} {site.state}", style=_COLOURS[site.tone]),
            *([] if view.plays else [Text(f"{site.examples:,}" if site.examples else "–")]),
            *(Text(number(site.metrics[name]) if name in site.metrics else "–") for name in measures),
        ]
        if has_trend:
            row.append(Text(trend(site.losses, 24), style="dim"))
        table.add_row(*row)
    if len(shown) < len(view.sites):
        table.add_row(Text(f"and {len(view.sites) - len(shown)} more", style="dim"))
    if view.metrics and not view.plays:
        whole = [
            Text("mean", style="bold"),
            Text(),
            Text(),
            *(Text(number(view.metrics[name]) if name in view.metrics else "–", style="bold") for name in measures),
        ]
        if has_trend:
            whole.append(Text(trend(view.losses, 24), style="dim"))
        table.add_row(*whole)
    return table


def _told(cause: Cause, total: int) -> str:
    """On one line, of which what does not fit is cut: so the names, which stand in the table, come last."""
    reason, sites = cause
    if len(sites) == 1:
        return f"{sites[0]}: {reason}"
    return f"{len(sites)} of {total} sites: {reason} ({', '.join(sites)})"


def _chosen(view: View, most: int) -> list[Any]:
    """The sites that fit; those in trouble and at work come first, the rest by name."""
    sites = list(view.sites.values())
    if len(sites) <= most:
        return sites
    order = {"bad": 0, "busy": 1, "good": 2, "quiet": 3}
    return sorted(sites, key=lambda site: (order[site.tone], site.name))[: most - 1]


def display(view: View, *, every_reply: bool = False) -> Display:
    """A screen where there is a terminal, lines elsewhere."""
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not every_reply:
        return Screen(view)
    return Lines(view, every_reply=every_reply)


def follow(job: "Job", shown: Display) -> View:
    """Show a job until its end; Ctrl-C stops the showing, not the job."""

    async def show() -> None:
        async for event in job.follow_async():
            shown.take(event)

    with shown:
        asyncio.run(show())
    return shown.view
