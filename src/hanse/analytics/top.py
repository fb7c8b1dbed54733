"""`TopK`: the most frequent values of a column whose values nobody has listed.

Three phases. Sites count values by hash (one array, however many values there are); those whose bucket is among the
heaviest are named by sites where at least `min_group` rows have them; these are counted. The counts are exact but for
rows of values that fewer than `min_group` rows of their site have. A value that is spread so thinly that no site may
name it is not found. The hash saves bytes and hides nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.analytics.answer import Answer, Value
from hanse.analytics.drawing import bars
from hanse.analytics.question import Question, check_text, check_whole, check_words, freeze, known_and, layout_for
from hanse.analytics.table import Table
from hanse.analytics.words import joined_words, pack_words, read_words, wrong_words
from hanse.core.arrays import Array, Arrays, Layout

BUCKETS = 4096
SPARE = 4
"""Buckets that are looked into for every value that is wanted: two values may share one."""


@dataclass(frozen=True)
class TopK(Question):
    """The `k` most frequent values of a column.

    Args:
        column: the column; its values are taken as texts.
        k: how many, from 1 to 256.
        words: the values to count, where they are known; then one phase is enough.
    """

    column: str
    k: int = 10
    words: Sequence[str] = ()

    kind: ClassVar[str] = "top"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_text("column", self.column)
        check_whole("k", self.k, 1, BUCKETS // 16)
        freeze(self, "words", check_words("words", self.words))

    def phases(self) -> tuple[str, ...]:
        """Buckets, names, counts."""
        return ("tell",) if self.words else ("buckets", "names", "tell")

    def tell(self, phase: str, table: Table, model: Arrays | None) -> Arrays:
        """See `Question.tell`."""
        counts = table.once(("counts", self.column), lambda: Counter(w for w in table.words(self.column) if w))
        frequent = {word: count for word, count in counts.items() if count >= self.min_group}
        if phase == "buckets":
            buckets = np.zeros(BUCKETS, dtype=np.int64)
            for word, count in frequent.items():
                buckets[bucket_of(word)] += count
            return Arrays({"buckets": buckets})
        if phase == "names":
            heavy = set() if model is None else set(model["heavy"].tolist())
            return Arrays({"words": pack_words(sorted(word for word in frequent if bucket_of(word) in heavy))})
        told = np.array([frequent.get(word, 0) for word in self._words(model)], dtype=np.int64)
        return Arrays({"count": told, "sites": (told > 0).astype(np.int64)})

    def layout(self, phase: str, model: Arrays | None) -> Layout | None:
        """See `Question.layout`."""
        if phase == "buckets":
            return layout_for({"buckets": (BUCKETS,)})
        cells = (len(self._words(model)),)
        return None if phase == "names" else layout_for({"count": cells, "sites": cells})

    def advance(self, phase: str, model: Arrays | None, totals: Arrays) -> Arrays:
        """See `Question.advance`."""
        if phase == "buckets":
            return Arrays({"heavy": _heaviest(totals["buckets"], SPARE * self.k)})
        return known_and(model, {"count": np.where(totals["sites"] >= self.min_sites, totals["count"], 0)})

    def wrong(self, phase: str, model: Arrays | None, told: Arrays) -> str:
        """See `Question.wrong`."""
        return wrong_words(told, ["words"])

    def join(self, phase: str, model: Arrays | None, told: Sequence[Arrays]) -> Arrays:
        """See `Question.join`."""
        return known_and(model, {"words": pack_words(joined_words(arrays["words"] for arrays in told))})

    def answer(self, model: Arrays) -> Answer:
        """A line for each value, the most frequent first; of equally frequent ones in order of the alphabet."""
        counted = zip(self._words(model), model["count"].tolist(), strict=True)
        found = sorted(((word, int(count)) for word, count in counted if count), key=lambda item: (-item[1], item[0]))
        found = found[: self.k]
        rows: tuple[dict[str, Value], ...] = tuple({self.column: word, "count": count} for word, count in found)
        drawing = bars([word for word, _ in found], {"rows": [count for _, count in found]}, self.column)
        return Answer(f"Most frequent values of {self.column}", rows, notes=self._notes(), drawing=drawing)

    def _words(self, model: Arrays | None) -> tuple[str, ...]:
        if self.words or model is None or "words" not in model:
            return tuple(self.words)
        return read_words(model["words"])


def bucket_of(word: str) -> int:
    """Where a value is counted."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "little") % BUCKETS


def _heaviest(buckets: Array, count: int) -> Array:
    order = np.argsort(-buckets, kind="stable")[:count]
    return np.sort(order[buckets[order] > 0])
