"""Analysis: a question of `hanse.analytics` as a strategy, phase by phase; no model is trained.

No paper of its own: each question names its sources. The sites' half is `clients/analysis.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from hanse.analytics import Question, question_of
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies.strategy import Context, PhasePlan, Strategy
from hanse.strategies.whole import Answers, Totals


@dataclass(frozen=True)
class Analysis(Strategy):
    """Ask the same sites in each phase; what is known so far is the model.

    Args:
        question: its kind, such as `quantiles`.
        options: its fields, as JSON values.

    Raises:
        ConfigError: no such question, or options that are wrong.
    """

    question: str
    options: Mapping[str, Any] = field(default_factory=dict)

    name: ClassVar[str] = "analysis"
    needs_model: ClassVar[bool] = False
    stepwise: ClassVar[bool] = True
    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.options, Mapping):
            raise ConfigError(f"analysis.options: expected a mapping, found {type(self.options).__name__}")
        self.asked  # noqa: B018 - refused now rather than later

    @cached_property
    def asked(self) -> Question:
        """The question itself."""
        return question_of(self.question, self.options)

    @classmethod
    def of(cls, question: Question) -> "Analysis":
        """The strategy that asks this question."""
        return cls(question.kind, question.options())

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """The question's."""
        return self.asked.phases()

    def folds(self, phase: str) -> bool:
        """Every phase."""
        return True

    def plan(self, context: Context) -> PhasePlan:
        """The sampled sites, then the same ones in every phase: numbers of others would not belong together."""
        return self._same(context, "step", quorum=None)

    def reducer_of(self, phase: str, model: Arrays | None) -> Totals | Answers:
        """Totals, or each site's answer by itself, as the question wants."""
        layout = self.asked.layout(phase, model)
        if layout is not None:
            return Totals(layout, lambda totals: self.asked.advance(phase, model, totals))
        return Answers(
            lambda told: self.asked.wrong(phase, model, told),
            lambda told: self.asked.join(phase, model, [arrays for _, arrays in told]),
        )

    def params(self) -> dict[str, Any]:
        """The question as JSON values."""
        return {"question": self.question, "options": dict(self.options)}
