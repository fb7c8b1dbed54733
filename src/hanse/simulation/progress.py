"""A bar over rounds on standard error, or nothing."""

from collections.abc import Callable
from typing import Any

Advance = Callable[[dict[str, Any]], None]


class Bar:
    """A context whose value takes a run's events. rich is imported only where a bar is shown."""

    def __init__(self, rounds: int, shown: bool, *, done: int = 0) -> None:
        self._progress: Any = None
        self._replies = self._asked = 0
        if shown:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("[bold]{task.fields[what]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[last]}"),
            )
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._rounds = self._progress.add_task("", total=rounds, completed=done, what="rounds", last="")
            self._phase = self._progress.add_task("", total=None, what="sites ", last="")

    def __enter__(self) -> Advance | None:
        if self._progress is None:
            return None
        self._progress.start()
        return self._advance

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def _advance(self, event: dict[str, Any]) -> None:
        what = event["what"]
        if what == "phase":
            self._progress.reset(self._phase, total=event["asked"], what="sites ", last=event["phase"])
        elif what == "reply":
            self._progress.advance(self._phase)
        elif what == "round" and event["record"]["number"] > 0:
            metrics = event["record"]["metrics"]
            shown = [f"{k}={v:.4g}" for k, v in metrics.items() if isinstance(v, float) and "train_" not in k][:3]
            self._progress.update(self._rounds, advance=1, last="  ".join(shown))
