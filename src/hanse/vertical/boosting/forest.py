"""Trees whose questions lie at several parties: what the guest keeps, what each host keeps, and the canonical list.

A tree is a complete binary tree of its greatest depth; node i has the children 2i + 1 and 2i + 2. The guest knows of a
host's question which of the host's splits it is, no column's name, bin or threshold.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.core.codec import canonical_json

Wide = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
LEAF = -1


@dataclass(frozen=True, slots=True)
class Questions:
    """One party's own splits, in the order in which they were made.

    Attributes:
        column: int64, `(num_splits,)`.
        bin: int64: the last bin on the left; the number of the column's edges where missing values alone go right.
        threshold: float64: rows with x ≤ threshold go left; infinite in that case.
        missing_left: bool: where missing values go.
    """

    column: Array
    bin: Array
    threshold: Wide
    missing_left: Mask

    def lefts(self, table: Wide) -> Mask:
        """Which rows go left at each split.

        Args:
            table: float64, `(n, num_columns)`.

        Returns:
            bool, `(n, num_splits)`.
        """
        made = np.empty((len(table), len(self.column)), np.bool_)
        for at, column in enumerate(self.column.tolist()):
            values = table[:, column]
            made[:, at] = np.where(np.isnan(values), self.missing_left[at], values <= self.threshold[at])
        return made


@dataclass(frozen=True, slots=True)
class Forest:
    """What the guest holds of all trees. Arrays are `(num_trees, 2**(depth + 1) − 1)`.

    Attributes:
        base: float64, `(num_outputs,)`: margins without any tree; tree t belongs to output t modulo num_outputs.
        party: int64: who asks: 0 for the guest, then the hosts; −1 at a leaf.
        question: int64: which of that party's splits; 0 at a leaf.
        column: int64: the place of the column in that party's table.
        value: float64: what a leaf adds.
        gain: float64: of a split, in the loss's own scale.
        heavier_left: bool: whether the left child has the larger Σh, where an absent host's rows go.
        weight: float64: Σh of the node's rows.
    """

    base: Wide
    party: Array
    question: Array
    column: Array
    value: Wide
    gain: Wide
    heavier_left: Mask
    weight: Wide

    @property
    def num_trees(self) -> int:
        """How many."""
        return len(self.party)

    def first(self, count: int) -> "Forest":
        """The first trees alone; questions that only later ones ask stay where they are."""
        names = ("party", "question", "column", "value", "gain", "heavier_left", "weight")
        return Forest(self.base, **{name: getattr(self, name)[:count] for name in names})

    def margins(self, num_rows: int, lefts: Sequence[Mask | None]) -> Wide:
        """Margins of rows, float64, `(num_outputs, num_rows)`, added tree by tree.

        Args:
            num_rows: how many.
            lefts: of each party what `Questions.lefts` says; None for one that is away.
        """
        made = np.repeat(self.base[:, None], num_rows, axis=1)
        for tree in range(self.num_trees):
            made[tree % len(self.base)] += self.value[tree, self._leaves(tree, num_rows, lefts)]
        return made

    def _leaves(self, tree: int, num_rows: int, lefts: Sequence[Mask | None]) -> Array:
        place = np.zeros(num_rows, np.int64)
        for _ in range((self.party.shape[1] + 1).bit_length() - 2):
            asked = self.party[tree, place]
            for party, said in enumerate(lefts):
                rows = np.flatnonzero(asked == party)
                if not len(rows):
                    continue
                here = place[rows]
                left = self.heavier_left[tree, here] if said is None else said[rows, self.question[tree, here]]
                place[rows] = 2 * here + np.where(left, 1, 2)
        return place

    def canonical(self, questions: Sequence[Questions]) -> bytes:
        """The canonical tree list of the specification, §8, which takes every party's questions.

        A leaf is `["leaf", value]` with the value as `float.hex` writes it; a split is
        `[party, column, bin, missing_left, left, right]`.
        """
        return canonical_json([self._nested(tree, 0, questions) for tree in range(self.num_trees)])

    def digest(self, questions: Sequence[Questions]) -> str:
        """SHA-256 of the canonical tree list, in hexadecimal."""
        return hashlib.sha256(self.canonical(questions)).hexdigest()

    def _nested(self, tree: int, node: int, questions: Sequence[Questions]) -> list[Any]:
        party = int(self.party[tree, node])
        if party == LEAF:
            return ["leaf", float(self.value[tree, node]).hex()]
        asked, at = questions[party], int(self.question[tree, node])
        return [
            party,
            int(asked.column[at]),
            int(asked.bin[at]),
            int(asked.missing_left[at]),
            self._nested(tree, 2 * node + 1, questions),
            self._nested(tree, 2 * node + 2, questions),
        ]
