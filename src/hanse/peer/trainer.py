"""What a peer's program asks of its site: train on this vector, evaluate that one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from hanse.core.arrays import Array
from hanse.core.records import Metrics


@dataclass(frozen=True, slots=True)
class Trained:
    """What one local training came to.

    Args:
        vector: the new values, float32 or float64, (n,).
        num_examples: ≥ 0.
    """

    vector: Array
    num_examples: int
    metrics: Metrics = field(default_factory=dict)


class Trainer(Protocol):
    """One peer's own side."""

    def train(self, round_: int, vector: Array) -> Trained:
        """Train from `vector`, which is not changed.

        Raises:
            TaskError: user code failed.
        """
        ...

    def done(self, round_: int, vector: Array, trained: Trained, memory: Mapping[str, Array] | None = None) -> None:
        """The round is over at this peer, with this vector, and what else the program needs to go on from here."""
        ...
