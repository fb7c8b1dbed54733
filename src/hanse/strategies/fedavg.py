"""FedAvg: the weighted mean of the clients' models.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks from decentralized
data", AISTATS 2017, https://arxiv.org/abs/1602.05629, Algorithm 1. What the paper calls C is `sample` here; local
epochs E, batch size B and learning rate η belong to the client's code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.core.errors import ConfigError
from hanse.strategies.strategy import FoldInput, Strategy

WEIGHTS = ("examples", "equal")


@dataclass(frozen=True)
class FedAvg(Strategy):
    """w_{t+1} ← Σ_k (n_k / n) w^k_{t+1} over the cohort, n = Σ_k n_k (Algorithm 1, server, last line).

    Everything else is the default of `Strategy`: sampled sites train, the reduced values are the model. Where no site
    counted an example, all weigh the same.

    Args:
        weights: `examples` (n_k, as in the paper: every example counts the same), or `equal` (1: every site counts the
            same, so that a small hospital is not drowned; the plain mean 1/K of Li et al., FedProx, Algorithm 2).

    Raises:
        ConfigError: another word.

    Example:
        >>> FedAvg().name
        'fedavg'
    """

    weights: str = "examples"

    name: ClassVar[str] = "fedavg"

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ConfigError(f"fedavg.weights: expected {' or '.join(WEIGHTS)}, found {str(self.weights)[:60]!r}")

    @property
    def weighs_by(self) -> str:
        """See `Strategy.weighs_by`."""
        return self.weights if type(self).weigh is FedAvg.weigh else ""

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """n_k, or 1 for every reply."""
        return [1.0] * len(replies) if self.weights == "equal" else super().weigh(replies)
