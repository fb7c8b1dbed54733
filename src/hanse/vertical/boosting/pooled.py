"""The pooled booster: the specification with all columns in one place, which joint training must equal bit by bit."""

from collections.abc import Sequence
from dataclasses import dataclass

from hanse.vertical.boosting.columns import BinnedColumns
from hanse.vertical.boosting.forest import Questions
from hanse.vertical.boosting.response import Response
from hanse.vertical.boosting.selection import Selection, final, selected, trainings
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.boosting.training import Grown, OwnColumns, boost


@dataclass(frozen=True, slots=True)
class Pooled:
    """What it ends with: the training's end, every party's questions, and what cross-validation chose, if it did."""

    grown: Grown
    questions: tuple[Questions, ...]
    selection: Selection | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical tree list."""
        return self.grown.forest.digest(self.questions)


def pooled(columns: Sequence[BinnedColumns], response: Response, settings: Settings) -> Pooled:
    """Train on the columns of all parties, the guest's first, in the clear."""
    if settings.cross_validate and not settings.fold:
        found = selected(settings, [pooled(columns, response, each).grown for each in trainings(settings)])
        last = pooled(columns, response, final(settings, found.depth, found.num_trees))
        return Pooled(last.grown, last.questions, found)
    sources = [OwnColumns(each, settings) for each in columns]
    training = boost(sources, response.objective, response.target, response.start(), settings)
    try:
        training.send(None)  # own columns never wait
    except StopIteration as stop:
        return Pooled(stop.value, tuple(source.asked.questions() for source in sources))
    raise AssertionError("own columns do not wait")
