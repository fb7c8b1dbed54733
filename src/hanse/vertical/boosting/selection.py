"""Cross-validation of trees: which depth and how many rounds, by the loss on rows that no tree was grown on.

For every depth that is tried and every fold, trees are grown on the rows outside the fold, and after each round the
loss on those inside is noted; the depth and number of rounds with the lowest mean loss then grow the model on all rows.
The folds are a function of the seed and the common order alone: docs/explanation/boosting-spec.md, section 4.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Arrays
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.boosting.training import Grown

Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Selection:
    """What cross-validation found.

    Attributes:
        depths: that were tried.
        losses: float64, `(len(depths), num_trees)`: the mean loss of all rows, each by trees that did not know it,
            after each round.
    """

    depths: tuple[int, ...]
    losses: Wide

    @property
    def depth(self) -> int:
        """The best."""
        return self.depths[self._best[0]]

    @property
    def num_trees(self) -> int:
        """Rounds, at the best depth."""
        return self._best[1] + 1

    @property
    def loss(self) -> float:
        """The lowest."""
        return float(self.losses[self._best])

    @property
    def _best(self) -> tuple[int, int]:
        """The first lowest: the depth that was named first, then the fewest rounds."""
        at, turn = divmod(int(np.argmin(self.losses)), self.losses.shape[1])
        return at, turn

    def kept(self) -> Arrays:
        """For a checkpoint."""
        return Arrays({"tried_depths": np.array(self.depths, np.int64), "tried_losses": self.losses})

    @classmethod
    def resumed(cls, state: Arrays) -> "Selection":
        """From a checkpoint."""
        return cls(tuple(state["tried_depths"].tolist()), np.array(state["tried_losses"]))


def trainings(settings: Settings) -> Iterator[Settings]:
    """Depth after depth, fold after fold."""
    for depth in settings.tried:
        for fold in range(1, settings.cross_validate + 1):
            yield replace(settings, depth=depth, depths=(), fold=fold)


def final(settings: Settings, depth: int, num_trees: int) -> Settings:
    """Of the training on all rows."""
    return replace(settings, cross_validate=0, depths=(), depth=depth, num_trees=num_trees)


def selected(settings: Settings, grown: Sequence[Grown]) -> Selection:
    """What follows from the ends of `trainings`, in their order."""
    losses = np.empty((len(settings.tried), settings.num_trees))
    for at in range(len(losses)):
        folds = grown[at * settings.cross_validate : (at + 1) * settings.cross_validate]
        sizes = [int(fold.held_out.sum()) for fold in folds]
        for turn in range(settings.num_trees):
            parts = (fold.losses[turn] * size for fold, size in zip(folds, sizes, strict=True))
            losses[at, turn] = math.fsum(parts) / sum(sizes)
    return Selection(settings.tried, losses)
