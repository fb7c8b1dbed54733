"""`Forest`: trees as arrays, which travel and are saved as any other model, and what they predict.

A tree is a complete binary tree of its greatest depth; node i has the children 2i + 1 and 2i + 2. All arrays are
`(trees, 2**(depth + 1) − 1)`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array, Arrays
from hanse.core.errors import UpdateError
from hanse.trees.objectives import Objective, objective_of

Wide = npt.NDArray[np.float64]
LEAF = -1
NAMES = ("feature", "threshold", "missing_left", "value")
_DTYPES = (np.int32, np.float64, np.uint8, np.float64)


@dataclass(frozen=True, slots=True)
class Forest:
    """Trees of one objective.

    Args:
        objective: what was minimised.
        base: float64, `(outputs,)`: margins without any tree.
        feature: int32: what a node asks about; −1 where it is a leaf.
        threshold: float64: rows with x < threshold go left.
        missing_left: uint8: where rows without a value go.
        value: float64: what a leaf adds to the margin of output (tree modulo outputs).
    """

    objective: Objective
    base: Wide
    feature: Array
    threshold: Wide
    missing_left: Array
    value: Wide

    @classmethod
    def empty(cls, objective: Objective, base: Wide, depth: int) -> "Forest":
        """Without trees yet."""
        shape = (0, 2 ** (depth + 1) - 1)
        return cls(objective, base, *(np.zeros(shape, dtype=dtype) for dtype in _DTYPES))

    # ---- as a model ----

    def arrays(self) -> dict[str, Array]:
        """As named arrays."""
        kind = np.frombuffer(self.objective.name.encode(), dtype=np.uint8)
        classes = np.array([self.objective.num_classes])
        return {"objective": kind, "num_classes": classes, "base": self.base,
                **{name: getattr(self, name) for name in NAMES}}  # fmt: skip

    @classmethod
    def of(cls, arrays: Mapping[str, Array]) -> "Forest":
        """Read what `arrays` made.

        Raises:
            UpdateError: something is missing or does not fit.
        """
        missing = [name for name in ("objective", "num_classes", "base", *NAMES) if name not in arrays]
        if missing:
            raise UpdateError(
                f"forest: expected an array {missing[0]!r}, found none; these are no trees of hs.Boosting"
            )
        objective = objective_of(arrays["objective"].tobytes().decode(errors="replace"), int(arrays["num_classes"][0]))
        made = cls(objective, arrays["base"], *(arrays[name] for name in NAMES))
        made.check()
        return made

    def check(self) -> None:
        """Whether every array fits the others.

        Raises:
            UpdateError: one does not.
        """
        shape = self.feature.shape
        for name, dtype in zip(NAMES, _DTYPES, strict=True):
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise UpdateError(
                    f"forest: expected {name} {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}"
                )
        nodes = shape[1] if len(shape) == 2 else 0
        if nodes & (nodes + 1) or not nodes or shape[0] % self.objective.num_outputs:
            raise UpdateError(f"forest: expected whole rounds of complete trees, found shape {shape}")
        if self.base.shape != (self.objective.num_outputs,) or (self.feature[:, nodes // 2 :] != LEAF).any():
            raise UpdateError("forest: expected one base for each output, and leaves at the greatest depth")

    # ---- growing ----

    @property
    def depth(self) -> int:
        """The greatest depth of a tree."""
        return int(self.feature.shape[1] + 1).bit_length() - 2

    @property
    def num_trees(self) -> int:
        """How many trees there are."""
        return len(self.feature)

    def first(self, count: int) -> "Forest":
        """The first trees alone."""
        return Forest(self.objective, self.base, *(getattr(self, name)[:count] for name in NAMES))

    def with_stumps(self, values: Wide) -> "Forest":
        """A copy with one tree more for each output, all leaf; `values`: `(outputs,)`."""
        count, nodes = len(values), self.feature.shape[1]
        blank = {name: np.zeros((count, nodes), dtype=dtype) for name, dtype in zip(NAMES, _DTYPES, strict=True)}
        blank["feature"][:] = LEAF
        blank["value"][:, 0] = values
        return Forest(
            self.objective, self.base, *(np.concatenate([getattr(self, name), blank[name]]) for name in NAMES)
        )

    def growing(self, level: int) -> list[tuple[int, int]]:
        """Tree and node of everything at this level of the last round's trees: those whose parent has split."""
        trees = range(max(0, self.num_trees - self.objective.num_outputs), self.num_trees)
        nodes = range(2**level - 1, 2 ** (level + 1) - 1)
        return [(t, n) for t in trees for n in nodes if level == 0 or self.feature[t, (n - 1) // 2] != LEAF]

    def split(self, tree: int, node: int, feature: int, threshold: float, missing_left: bool, leaves: Wide) -> None:
        """Make a leaf a question, with two leaves below it. Changes the arrays: only while they are one's own."""
        self.feature[tree, node], self.threshold[tree, node] = feature, threshold
        self.missing_left[tree, node], self.value[tree, node] = missing_left, 0.0
        below = slice(2 * node + 1, 2 * node + 3)
        self.feature[tree, below], self.value[tree, below] = LEAF, leaves

    # ---- predicting ----

    def nodes(self, x: Wide, tree: int, start: Array | None = None) -> Array:
        """The leaf that each row comes to.

        Args:
            x: float64, `(rows, features)`; NaN for missing.
            start: int64, `(rows,)`: nodes on the way that are known already; it is changed.

        Returns:
            int64, `(rows,)`.
        """
        place = np.zeros(len(x), dtype=np.int64) if start is None else start
        for _ in range(self.depth):
            asked = self.feature[tree, place]
            rows = np.flatnonzero(asked != LEAF)
            if not len(rows):
                break
            here = place[rows]
            values = x[rows, asked[rows]]
            unknown = np.isnan(values)
            is_left = np.where(unknown, self.missing_left[tree, here] != 0, values < self.threshold[tree, here])
            place[rows] = 2 * here + np.where(is_left, 1, 2)
        return place

    def add_margins(self, margins: Wide, x: Wide, start: int, stop: int) -> None:
        """Add what trees start … stop − 1 say to `margins`, `(outputs, rows)`, in place and in order."""
        for tree in range(start, stop):
            margins[tree % self.objective.num_outputs] += self.value[tree, self.nodes(x, tree)]

    def margins(self, x: npt.ArrayLike) -> Wide:
        """float64, `(outputs, rows)`.

        Raises:
            UpdateError: fewer columns than the trees ask about.
        """
        rows = np.asarray(x, dtype=np.float64)
        needed = int(self.feature.max(initial=LEAF)) + 1
        if rows.ndim != 2 or rows.shape[1] < needed:
            raise UpdateError(f"forest: expected rows of at least {needed} features, found shape {rows.shape}")
        made = np.repeat(self.base[:, None], len(rows), axis=1)
        self.add_margins(made, rows, 0, self.num_trees)
        return made

    def predict_proba(self, x: npt.ArrayLike) -> Wide:
        """Probabilities, `(rows, classes)`; for regression the values, `(rows,)`."""
        return self.objective.predict(self.margins(x))

    def predict(self, x: npt.ArrayLike) -> Array:
        """Places of classes, int64 `(rows,)`; for regression the values."""
        said = self.predict_proba(x)
        return said if said.ndim == 1 else np.asarray(said.argmax(axis=1))

    def to_arrays(self) -> Arrays:
        """As a model."""
        return Arrays(self.arrays())
