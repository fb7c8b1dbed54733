"""A site's half of an analysis: the question looks at the granted data set, and at nothing else."""

from hanse.analytics import Question, Table
from hanse.clients.client import Answer, Client, Config
from hanse.clients.site import Site
from hanse.core.arrays import Arrays


class AnalysisClient(Client):
    """Answers one question, phase by phase."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self._table: Table | None = None

    def step(self, arrays: Arrays | None, config: Config, site: Site) -> Answer:
        """See `Client.step`; the number of rows is not told."""
        if self._table is None:
            self._table = Table.of(site.load(self.question.data))
        return Answer(self.question.tell(site.phase, self._table, arrays), 0, {})
