"""Descent on weights that a party holds in the clear, its gradients learnt step by step; state and early end.

What protocols share in which each party sees the gradients of its own columns.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import Progress
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical.glm.families import Table
from hanse.vertical.glm.plaintext import Optimiser
from hanse.vertical.glm.training import Batch, Training, batches, first_step, has_ended

LARGEST_SCORE = 2.0**24
"""Of one party's part: what fixed point holds."""


@dataclass(slots=True)
class Descent:
    """One party's weights on their way.

    Attributes:
        num_rows: of the table.
        optimiser: holds the weights.
        changes: how far each epoch moved all parties' weights; empty without a tolerance.
        taken: steps, of earlier sessions too.
        before: weights when the epoch began.
    """

    num_rows: int
    training: Training
    optimiser: Optimiser
    changes: list[float]
    taken: int
    before: Table = field(init=False)

    def __post_init__(self) -> None:
        self.before = self.weights

    @classmethod
    def begun(
        cls, num_rows: int, training: Training, start: Table, penalised: npt.NDArray[np.bool_], progress: Progress
    ) -> "Descent":
        """From `start`, or where an earlier session left off.

        Raises:
            RefusedError: a checkpoint of other weights.
        """
        optimiser = Optimiser(training, start, penalised)
        taken = first_step(num_rows, training, progress.number)
        changes: list[float] = []
        if progress.number:
            kept = [np.array(progress.state[name], np.float64) for name in ("weights", "first", "second")]
            if any(each.shape != start.shape for each in kept):
                raise RefusedError(f"checkpoint: expected weights of {start.shape}, found others")
            optimiser.weights, optimiser.first, optimiser.second = kept
            optimiser.count, changes = taken, progress.state["changes"].tolist()
        return cls(num_rows, training, optimiser, changes, taken)

    @property
    def weights(self) -> Table:
        """As they are now, float64 `(num_columns, num_outputs)`."""
        return self.optimiser.weights

    @property
    def has_ended(self) -> bool:
        """Whether training ends early."""
        return has_ended(self.changes, self.training)

    def batches(self, done: int) -> Iterator[Batch]:
        """All steps after `done` epochs, until training ends early."""
        if self.has_ended:
            return
        for batch in batches(self.num_rows, self.training, done):
            yield batch
            if batch.ends_epoch and self.has_ended:
                return

    def step(self, batch: Batch, gradient: Table) -> None:
        """Move the weights by a batch's mean gradient."""
        self.optimiser.step(gradient)
        self.taken = batch.index + 1

    def squared_change(self) -> float:
        """How far this epoch moved the weights, squared."""
        return float(((self.weights - self.before) ** 2).sum())

    def close_epoch(self, squared: float) -> None:
        """Note how far the epoch moved all parties' weights, squared."""
        self.changes.append(float(np.sqrt(squared)))
        self.before = self.weights

    def state(self) -> Arrays:
        """For a checkpoint."""
        optimiser = self.optimiser
        state = {"weights": optimiser.weights, "first": optimiser.first, "second": optimiser.second}
        return Arrays({**state, "changes": np.array(self.changes)})


def checked_change(who: str, squared: float) -> float:
    """What another tells of its change.

    Raises:
        RefusedError: no finite number from 0 on.
    """
    if not (isfinite(squared) and squared >= 0):
        raise RefusedError(f"{who}: expected a finite change of the weights, found another")
    return float(squared)


def checked_scores(z: Table) -> Table:
    """A party's part of the scores, if fixed point holds it.

    Raises:
        ConfigError: it does not.
    """
    if not (np.abs(z) < LARGEST_SCORE).all():
        raise ConfigError("training diverged: expected finite scores; take a smaller learning rate, or more l2")
    return z
