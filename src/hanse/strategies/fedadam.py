"""FedAdam: Adam at the server, over the mean of the clients' deltas.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive federated optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, Algorithm 2. The algorithm has no bias correction, so there is none here; instead v
starts at τ² (the algorithm asks for v_{-1} ≥ τ²). Deltas are weighed by examples, as in the paper's experiments; its
pseudocode takes the plain mean.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.core.arrays import Array
from hanse.strategies.adaptive import adaptive_step, check_adaptive, move_first_moment
from hanse.strategies.schedule import Rate, rate_at
from hanse.strategies.strategy import Memory, Strategy


@dataclass(frozen=True)
class FedAdam(Strategy):
    """m ← β₁ m + (1 − β₁) Δ;  v ← β₂ v + (1 − β₂) Δ²;  x ← x + η m / (√v + τ).

    Args:
        server_lr: η > 0, or a `Schedule`.
        beta_1: decay of the first moment, in [0, 1).
        beta_2: decay of the second moment, in [0, 1).
        tau: τ > 0, the degree of adaptivity: the smaller, the more every coordinate moves by the same step. The
            paper finds 0.001 good on all but one of its tasks.

    Raises:
        ConfigError: a parameter out of range.
    """

    server_lr: Rate = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.99
    tau: float = 1e-3

    name: ClassVar[str] = "fedadam"
    update_kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        check_adaptive(self, self.server_lr, tau=self.tau, beta_1=self.beta_1, beta_2=self.beta_2)

    def state_names(self) -> tuple[str, ...]:
        """`m`, and `u`: the second moment without what is left of its start, v_t = u_t + β₂^t τ²."""
        return ("m", "u")

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """What is left of v_{-1} = τ² after `round_` steps. The recursion is linear, so stored state may start at 0.

        And η.
        """
        return {"v_start": self.beta_2**round_ * self.tau**2, "server_lr": rate_at(self.server_lr, round_)}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        m, u = state
        move_first_moment(m, reduced, self.beta_1)
        u *= self.beta_2
        u += (1 - self.beta_2) * reduced * reduced  # v_t ← β₂ v_{t−1} + (1 − β₂) Δ_t²
        v = u + scalars["v_start"]
        return adaptive_step(model, m, v, scalars["server_lr"], self.tau)
