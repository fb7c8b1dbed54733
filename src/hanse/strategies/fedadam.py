"""FedAdam: Adam at the server, over the mean of the clients' deltas.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive federated optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, Algorithm 2. The algorithm has no bias correction, so there is none here; instead v
starts at τ² (the algorithm asks for v_{-1} ≥ τ²). Deltas are weighed by examples, as in the paper's experiments; its
pseudocode takes the plain mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array
from hanse.strategies.strategy import Strategy, check_number


@dataclass(frozen=True)
class FedAdam(Strategy):
    """m ← β₁ m + (1 − β₁) Δ;  v ← β₂ v + (1 − β₂) Δ²;  x ← x + η m / (√v + τ).

    Args:
        server_lr: η > 0.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        tau: τ > 0, the degree of adaptivity: the smaller, the more every coordinate moves by the same step. The
            paper finds 0.001 good on all but one of its tasks.

    Raises:
        ConfigError: a parameter out of range.
    """

    server_lr: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    name: ClassVar[str] = "fedadam"
    update_kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        check_number("fedadam.server_lr", self.server_lr, 0.0, open_low=True)
        check_number("fedadam.beta_1", self.beta_1, 0.0, 1.0, open_high=True)
        check_number("fedadam.beta_2", self.beta_2, 0.0, 1.0, open_high=True)
        check_number("fedadam.tau", self.tau, 0.0, open_low=True)

    def state_names(self) -> tuple[str, ...]:
        """`m`, and `u`: the second moment without what is left of its start, v_t = u_t + β₂^t τ²."""
        return ("m", "u")

    def scalars(self, round_: int) -> Mapping[str, float]:
        """What is left of v_{-1} = τ² after `round_` steps. The recursion is linear, so stored state may start at 0."""
        return {"v_start": self.beta_2**round_ * self.tau**2}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        m, u = state
        m *= self.beta_1
        m += (1 - self.beta_1) * reduced  # m_t ← β₁ m_{t−1} + (1 − β₁) Δ_t
        u *= self.beta_2
        u += (1 - self.beta_2) * reduced * reduced  # v_t ← β₂ v_{t−1} + (1 − β₂) Δ_t²
        v = u + scalars["v_start"]
        return np.asarray(model + self.server_lr * m / (np.sqrt(v) + self.tau))  # x_{t+1} ← x_t + η m_t / (√v_t + τ)
