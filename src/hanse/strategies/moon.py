"""MOON: a site's representation is drawn to that of the received model, and away from that of its own last one.

Li, He, Song, "Model-contrastive federated learning", CVPR 2021, https://arxiv.org/abs/2103.16257, Equations 3 and 4 and
Algorithm 1. With z of the model that is trained, z_glob of the received one and z_prev of the site's last one,

    ℓ_con = −log( exp(sim(z, z_glob)/τ) / (exp(sim(z, z_glob)/τ) + exp(sim(z, z_prev)/τ)) ),   ℓ = ℓ_sup + μ ℓ_con

sim is the cosine. The loss is user code's: it finds `config["previous"]` (the site's last arrays, the received ones
at first), `config["contrast_mu"]` and `config["temperature"]`. For PyTorch, `hs.contrast` is μ ℓ_con. The server
computes FedAvg.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.core.records import Config
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.strategy import Context, check_number


@dataclass(frozen=True)
class Moon(FedAvg):
    """FedAvg that puts `contrast_mu` and `temperature` into the config of every training.

    Args:
        weights: see `FedAvg`.
        mu: μ ≥ 0. The paper tries 0.1, 1, 5 and 10.
        temperature: τ > 0.

    Raises:
        ConfigError: out of range.
    """

    mu: float = 1.0
    temperature: float = 0.5

    name: ClassVar[str] = "moon"
    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("moon.mu", self.mu, 0.0)
        check_number("moon.temperature", self.temperature, 0.0, open_low=True)

    def config(self, context: Context, site: str) -> Config:
        """μ and τ for training."""
        if context.phase != "train":
            return {}
        return {"contrast_mu": float(self.mu), "temperature": float(self.temperature)}
