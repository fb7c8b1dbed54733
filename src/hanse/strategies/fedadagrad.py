"""FedAdagrad: Adagrad at the server, over the mean of the clients' deltas.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive federated optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, Algorithm 2. v starts at τ²; stored is v − τ², which starts at 0. The algorithm box
keeps β₁ for all three methods; the paper's experiments use β₁ = 0 here. Deltas are weighed by examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from hanse.core.arrays import Array
from hanse.strategies.adaptive import adaptive_step, check_adaptive, move_first_moment
from hanse.strategies.schedule import Rate, rate_at
from hanse.strategies.strategy import Memory, Strategy


@dataclass(frozen=True)
class FedAdagrad(Strategy):
    """m ← β₁ m + (1 − β₁) Δ;  v ← v + Δ²;  x ← x + η m / (√v + τ).

    Args:
        server_lr: η > 0, or a `Schedule`.
        beta_1: decay of the first moment, in [0, 1).
        tau: τ > 0, the degree of adaptivity.

    Raises:
        ConfigError: a parameter out of range.
    """

    server_lr: Rate = 0.1
    beta_1: float = 0.0
    tau: float = 1e-3

    name: ClassVar[str] = "fedadagrad"
    update_kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        check_adaptive(self, self.server_lr, tau=self.tau, beta_1=self.beta_1)

    def state_names(self) -> tuple[str, ...]:
        """`m`, and `u` = v − τ²."""
        return ("m", "u")

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """η."""
        return {"server_lr": rate_at(self.server_lr, round_)}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        m, u = state
        move_first_moment(m, reduced, self.beta_1)
        u += reduced * reduced  # v_t ← v_{t−1} + Δ_t²
        return adaptive_step(model, m, u + self.tau**2, scalars["server_lr"], self.tau)
