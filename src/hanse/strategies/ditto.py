"""Ditto: beside the common model every site trains one of its own, which is held near the common one.

Li, Hu, Beirami, Smith, "Ditto: Fair and robust federated learning through personalization", ICML 2021,
https://arxiv.org/abs/2012.04221, Equation 1 and Algorithm 1 (with FedAvg for the common model):

    min_{v_k} F_k(v_k) + (λ/2) ‖v_k − w*‖²

A site trains twice in a task: the received w, for the server, and its own v, which stays in its state. For v,
`config["personal"]` is true, and each gradient gets λ (v − w): user code adds `config["proximal_mu"] * (v -
v_received)` and `config["correction"]`, as for FedProx and SCAFFOLD, which come to that. Evaluated is v; metrics of w
are called `global_…`.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.fedavg import FedAvg
from hanse.strategies.strategy import check_number


@dataclass(frozen=True)
class Ditto(FedAvg):
    """FedAvg, and a personal model at every site.

    Args:
        weights: see `FedAvg`.
        pull: λ ≥ 0. 0 leaves every site alone; the paper tries 0.05 to 2.

    Raises:
        ConfigError: out of range.
    """

    pull: float = 1.0

    name: ClassVar[str] = "ditto"
    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("ditto.pull", self.pull, 0.0)
