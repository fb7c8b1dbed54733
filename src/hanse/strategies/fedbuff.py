"""FedBuff: the model moves whenever K updates are in the buffer, while the other sites go on with their work.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba, "Federated learning with buffered asynchronous aggregation",
AISTATS 2022, https://arxiv.org/abs/2106.06639, Algorithm 1. Each update is damped by 1 / √(1 + τ) as in the paper's
experiments (appendix D), where τ is its staleness; the sum is divided by K, not by the sum of the factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.aggregation import WeightedSum
from hanse.core.arrays import Array
from hanse.strategies.asynchronous import Asynchronous, check_damping, damping
from hanse.strategies.schedule import Rate, rate_at, set_rate
from hanse.strategies.strategy import FoldInput, Memory, Reducer, check_count


@dataclass(frozen=True)
class FedBuff(Asynchronous):
    """w ← w + η_g (1/K) Σ_i s(τ_i) Δ_i over the K updates in the buffer.

    Args:
        buffer: K ≥ 1. The paper takes 10.
        server_lr: η_g > 0, or a `Schedule`.
        staleness: s: `constant`, `hinge` or `polynomial`, which is 1 / √(1 + τ) with the default a.
        a, b: its parameters.

    Raises:
        ConfigError: out of range.
    """

    buffer: int = 10
    server_lr: Rate = 1.0
    staleness: str = "polynomial"
    a: float = 0.5
    b: int = 4

    name: ClassVar[str] = "fedbuff"
    update_kind: ClassVar[str] = "delta"

    def __post_init__(self) -> None:
        check_count("fedbuff.buffer", self.buffer, 1)
        set_rate(self, "server_lr", self.server_lr)
        check_damping("fedbuff", self.staleness, self.a, self.b)

    @property
    def step_size(self) -> int:
        """K."""
        return self.buffer

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """s(τ) / K; K is the number of updates that there are, should a deadline have cut the buffer short."""
        return [damping(self.staleness, reply.staleness, self.a, self.b) / len(replies) for reply in replies]

    def reducer(self) -> Reducer:
        """The sum: its weights say everything."""
        return WeightedSum()

    def scalars(self, round_: int, memory: Memory) -> Mapping[str, float]:
        """η_g."""
        return {"server_lr": rate_at(self.server_lr, round_)}

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        return np.asarray(model + scalars["server_lr"] * reduced)
