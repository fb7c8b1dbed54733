"""FedAvgM: FedAvg with momentum at the server.

Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution for federated visual classification",
2019, https://arxiv.org/abs/1909.06335, section on FedAvgM: v ← β v + Δw, w ← w − v. The paper writes Δw for what is
subtracted; here deltas point the way the clients went, so signs are turned. Its server step is 1; `server_lr` is the η
of Algorithm 1 in Reddi et al., "Adaptive federated optimization", ICLR 2021, with SGD and momentum as SERVEROPT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array
from hanse.strategies.schedule import Rate, rate_at, set_rate
from hanse.strategies.strategy import Memory, Strategy, check_number


@dataclass(frozen=True)
class FedAvgM(Strategy):
    """v ← β v + Δ, then w ← w + η v, where Δ = Σ_k (n_k / n) (w_k − w) and v starts at zero.

    Args:
        momentum: β in [0, 1). With 0 and `server_lr=1` this is FedAvg.
        server_lr: η > 0, or a `Schedule`. A steady Δ moves the model by η Δ / (1 − β) a round.

    Raises:
        ConfigError: a parameter out of range.
    """

    momentum: float = 0.9
    server_lr: Rate = 1.0

    name: ClassVar[str] = "fedavgm"
    update_kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        check_number("fedavgm.momentum", self.momentum, 0.0, 1.0, open_high=True)
        set_rate(self, "server_lr", self.server_lr)

    def state_names(self) -> tuple[str, ...]:
        """`v`, the momentum."""
        return ("v",)

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """η."""
        return {"server_lr": rate_at(self.server_lr, round_)}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        (v,) = state
        v *= self.momentum
        v += reduced  # v ← β v + Δ
        return np.asarray(model + scalars["server_lr"] * v)  # w ← w + η v
