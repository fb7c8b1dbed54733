"""FedDyn: every site's objective is bent so that what the sites agree on is a stationary point of them all.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama, "Federated learning based on dynamic regularization",
ICLR 2021, https://arxiv.org/abs/2111.04263, Equation 1 and Algorithm 1.

Site k minimises L_k(θ) − ⟨g_k, θ⟩ + (α/2) ‖θ − θ^{t−1}‖², so each gradient step of user code adds
`config["correction"]` (−g_k by name) and `config["proximal_mu"] * (θ − θ_received)` with μ = α. g_k is the site's
state, kept by `clients/corrections.py`: g_k ← g_k − α (θ_k − θ^{t−1}). The server's half is here:

    h ← h − α (1/m) Σ_{k∈P} (θ_k − θ^{t−1}),   θ^t ← (1/|P|) Σ_{k∈P} θ_k − h / α

Stored is h / α, so that α drops out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array
from hanse.core.records import Config
from hanse.strategies.strategy import Context, FoldInput, Strategy, check_number


@dataclass(frozen=True)
class FedDyn(Strategy):
    """h' ← h' − (|P| / m) Δ, then θ ← θ + Δ − h', with Δ the plain mean of the cohort's deltas and h' = h / α.

    Args:
        alpha: α > 0. The paper tries 0.001, 0.01, 0.1.
        participation: |P| / m in (0, 1], the share of all sites that a round asks: that of `hs.App(sample=...)`.

    Raises:
        ConfigError: out of range.
    """

    alpha: float = 0.01
    participation: float = 1.0

    name: ClassVar[str] = "feddyn"
    has_client_part: ClassVar[bool] = True
    update_kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        check_number("feddyn.alpha", self.alpha, 0.0, open_low=True)
        check_number("feddyn.participation", self.participation, 0.0, 1.0, open_low=True)

    def config(self, context: Context, site: str) -> Config:
        """Of training: α, under FedProx's name, since it is the same term."""
        return {"proximal_mu": float(self.alpha)} if context.phase == "train" else {}

    @property
    def weighs_by(self) -> str:
        """See `Strategy.weighs_by`."""
        return "equal" if type(self).weigh is FedDyn.weigh else ""

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """1 for every reply."""
        return [1.0] * len(replies)

    def state_names(self) -> tuple[str, ...]:
        """`h` / α."""
        return ("h",)

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        (h,) = state
        h -= self.participation * reduced
        return np.asarray(model + reduced - h)
