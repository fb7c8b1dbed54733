"""FedAsync: every model that arrives is mixed into the server's, the less the staler it is.

Xie, Koyejo, Gupta, "Asynchronous federated optimization", OPT 2020, https://arxiv.org/abs/1903.03934, Algorithm 1 and
section 5.2 (hinge and polynomial staleness; the paper's values are a = 10, b = 4 and a = 0.5).

Sites minimise F_k(x) + (ρ/2) ‖x − x_τ‖², so user code adds `config["proximal_mu"] * (w - w_received)` to its gradients,
as with FedProx; ρ = 0 leaves it out. Sites that are set to work are drawn uniformly, as in the paper.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array
from hanse.core.records import Config
from hanse.core.spec import RunSpec
from hanse.strategies.asynchronous import Asynchronous, check_damping, damping
from hanse.strategies.strategy import Context, FoldInput, Memory, check_number


@dataclass(frozen=True)
class FedAsync(Asynchronous):
    """x_t ← (1 − α_t) x_{t−1} + α_t x_new with α_t = α s(t − τ).

    Args:
        alpha: α in (0, 1], how much a fresh model counts.
        staleness: s: `constant`, `hinge` or `polynomial`.
        a, b: parameters of `hinge` (a ≥ 0, b ≥ 0) and `polynomial` (a ≥ 0).
        proximal_mu: ρ ≥ 0.

    Raises:
        ConfigError: out of range.
    """

    alpha: float = 0.6
    staleness: str = "polynomial"
    a: float = 0.5
    b: int = 4
    proximal_mu: float = 0.0

    name: ClassVar[str] = "fedasync"

    def __post_init__(self) -> None:
        check_number("fedasync.alpha", self.alpha, 0.0, 1.0, open_low=True)
        check_damping("fedasync", self.staleness, self.a, self.b)
        check_number("fedasync.proximal_mu", self.proximal_mu, 0.0)

    def config(self, context: Context, site: str) -> Config:
        """ρ for training, where there is one."""
        return {"proximal_mu": float(self.proximal_mu)} if context.phase == "train" and self.proximal_mu else {}

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """1: there is one."""
        return [1.0] * len(replies)

    def remember(self, spec: RunSpec, memory: Memory, replies: Sequence[FoldInput]) -> Memory:
        """α_t, for `scalars`."""
        mixing = self.alpha * damping(self.staleness, replies[0].staleness, self.a, self.b)
        return {**super().remember(spec, memory, replies), "mixing": mixing}

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """α_t."""
        return {"mixing": memory["mixing"]}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        mixing = scalars["mixing"]
        return np.asarray((1 - mixing) * model + mixing * reduced)
