"""Every question by its kind, so that a job can hold one as plain data."""

from collections.abc import Mapping
from typing import Any

from hanse.analytics.correlation import Correlation
from hanse.analytics.crosstab import Crosstab
from hanse.analytics.describe import Describe, Quantiles
from hanse.analytics.histogram import Histogram
from hanse.analytics.question import Question
from hanse.analytics.survival import Survival
from hanse.analytics.top import TopK
from hanse.core.errors import ConfigError

QUESTIONS: dict[str, type[Question]] = {
    kind.kind: kind for kind in (Describe, Quantiles, Histogram, Correlation, Crosstab, TopK, Survival)
}


def question_of(kind: str, options: Mapping[str, Any]) -> Question:
    """Make a question from plain data.

    Raises:
        ConfigError: an unknown kind, or options that it does not take.
    """
    if kind not in QUESTIONS:
        raise ConfigError(f"question: expected one of {', '.join(QUESTIONS)}; found {str(kind)[:60]!r}")
    try:
        return QUESTIONS[kind](**options)
    except TypeError as error:
        raise ConfigError(f"question {kind}: {error}") from None
