"""FedProx: FedAvg whose clients stay near the model they were given, and may do less than all of their work.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith, "Federated optimization in heterogeneous networks", MLSys 2020,
https://arxiv.org/abs/1812.06127, Equation 2, Definition 2 and Algorithm 2.

The difference is at the client, which no server can make for it. Each site minimises, as exactly as it gets,

    h_k(w; w^t) = F_k(w) + (μ/2) ‖w − w^t‖²                                                          (Eq. 2)

so every gradient step of user code adds `config["proximal_mu"] * (w - w_received)` to its gradient. A client that
ignores `proximal_mu` computes FedAvg.

*Partial work* is part of the method: what a slow site has done by then is taken as it is (a γ-inexact solution),
where FedAvg would drop it. A site may always do less. To study it as the paper's section 5.2 does, `partial` asks a
share of the sites for a part of their epochs, by `config["work"]`, drawn uniformly.

The paper samples clients by their share of the data and takes the plain mean: `FedProx(weights="equal")` with
`hs.App(selection=hs.ByExamples())`. By default clients are sampled uniformly and weighed by examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.core.errors import ConfigError
from hanse.core.records import Config
from hanse.core.seeds import generator, key_of
from hanse.strategies.fedavg import WEIGHTS
from hanse.strategies.strategy import Context, FoldInput, Strategy, check_number


@dataclass(frozen=True)
class FedProx(Strategy):
    """FedAvg that puts `proximal_mu`, and where wanted `work`, into the config of every training task.

    Args:
        proximal_mu: μ ≥ 0 of Eq. 2. 0 is FedAvg; the paper tries 0.001, 0.01, 0.1 and 1.
        partial: chance in [0, 1] with which a site is asked for a part of its work in a round; the paper takes 0, 0.5
            and 0.9. `config["work"]` is then uniform in (0, 1], and otherwise 1: the share of the usual epochs.
        weights: `examples` or `equal`.

    Raises:
        ConfigError: out of range, or another word.
    """

    proximal_mu: float = 0.01
    partial: float = 0.0
    weights: str = "examples"

    name: ClassVar[str] = "fedprox"

    def __post_init__(self) -> None:
        check_number("fedprox.proximal_mu", self.proximal_mu, 0.0)
        check_number("fedprox.partial", self.partial, 0.0, 1.0)
        if self.weights not in WEIGHTS:
            raise ConfigError(f"fedprox.weights: expected {' or '.join(WEIGHTS)}, found {str(self.weights)[:60]!r}")

    def config(self, context: Context, site: str) -> Config:
        """μ and the share of work for training; nothing for evaluation, which measures F_k and not h_k."""
        if context.phase != "train":
            return {}
        work = {"work": self._work(context, site)} if self.partial else {}
        return {"proximal_mu": float(self.proximal_mu), **work}

    def _work(self, context: Context, site: str) -> float:
        rng = generator(key_of(context.spec.seed, round_=context.round, phase="train", site=site, purpose="work"))
        return 1.0 - float(rng.random()) if rng.random() < self.partial else 1.0

    @property
    def weighs_by(self) -> str:
        """By what `weigh` weighs, where no weight depends on another reply."""
        return self.weights if type(self).weigh is FedProx.weigh else ""

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """n_k, or 1 for every reply."""
        return [1.0] * len(replies) if self.weights == "equal" else super().weigh(replies)
