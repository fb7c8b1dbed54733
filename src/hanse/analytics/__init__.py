"""Federated statistics: questions that every site answers about its own rows, and what the answers add up to.

`question.py` is the contract; one file a statistic. They are pure functions over arrays: what sends them, and checks
the site's policy, lies above.
"""

from hanse.analytics.answer import Answer
from hanse.analytics.catalogue import question_of
from hanse.analytics.correlation import Correlation
from hanse.analytics.crosstab import Crosstab
from hanse.analytics.describe import Describe, Quantiles
from hanse.analytics.histogram import Histogram
from hanse.analytics.question import Question
from hanse.analytics.survival import Survival
from hanse.analytics.table import Table
from hanse.analytics.top import TopK

__all__ = [
    "Answer",
    "Correlation",
    "Crosstab",
    "Describe",
    "Histogram",
    "Quantiles",
    "Question",
    "Survival",
    "Table",
    "TopK",
    "question_of",
]
