"""FedAvg: the weighted mean of the clients' models.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-efficient learning of deep networks from decentralized
data", AISTATS 2017, https://arxiv.org/abs/1602.05629, Algorithm 1. It has no parameters here: what the paper calls C is
`sample`, and local epochs E, batch size B and learning rate η belong to the client's code.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.strategy import Strategy


@dataclass(frozen=True)
class FedAvg(Strategy):
    """w_{t+1} ← Σ_k (n_k / n) w^k_{t+1} over the cohort, n = Σ_k n_k (Algorithm 1, server, last line).

    Everything is the default of `Strategy`: sampled sites train, their number of examples is the weight, the
    reduced values are the model. Where no site counted an example, all weigh the same.

    Example:
        >>> FedAvg().name
        'fedavg'
    """

    name: ClassVar[str] = "fedavg"
