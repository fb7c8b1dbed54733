"""FedProx: FedAvg whose clients stay near the model they were given.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks", MLSys 2020,
https://arxiv.org/abs/1812.06127, Equation 2 and Algorithm 2.

The difference is at the client, which no server can make for it. Each site minimises, perhaps inexactly,

    h_k(w; w^t) = F_k(w) + (μ/2) ‖w − w^t‖²                                                          (Eq. 2)

so every gradient step of user code adds `config["proximal_mu"] * (w - w_received)` to its gradient. A client that
ignores `proximal_mu` computes FedAvg. The paper samples clients by their share of the data and takes the plain mean;
here clients are sampled uniformly and weighed by their number of examples, as in FedAvg.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.core.records import Config
from hanse.strategies.strategy import Context, Strategy, check_number


@dataclass(frozen=True)
class FedProx(Strategy):
    """FedAvg that puts `proximal_mu` into the config of every training task.

    Args:
        proximal_mu: μ ≥ 0 of Eq. 2. 0 is FedAvg; the paper tries 0.001, 0.01, 0.1 and 1.

    Raises:
        ConfigError: `proximal_mu` is negative or not a finite number.
    """

    proximal_mu: float = 0.01

    name: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        check_number("fedprox.proximal_mu", self.proximal_mu, 0.0)

    def config(self, context: Context, site: str) -> Config:
        """μ for training; nothing for evaluation, which measures F_k and not h_k."""
        return {"proximal_mu": float(self.proximal_mu)} if context.phase == "train" else {}
