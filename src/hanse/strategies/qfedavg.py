"""q-FedAvg: sites with a high loss weigh more, so that accuracy is spread more evenly over sites.

Li, Sanjabi, Beirami, Smith, "Fair resource allocation in federated learning", ICLR 2020,
https://arxiv.org/abs/1905.10497, Equation 2 (q-FFL) and Algorithm 2 (q-FedAvg).

The server needs F_k(w^t), the loss of the model that site k was given, before it trains: the metric `loss_before`.
`hs.sklearn` answers it by itself. The paper samples sites by their share of the data; here they are sampled uniformly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.aggregation import Choice
from hanse.aggregation.gram import Stats, row_sums
from hanse.aggregation.selects import Rows
from hanse.strategies.strategy import FoldInput, Reducer, Strategy, check_number, number_in

LEAST_LOSS = 1e-10
"""A loss below it counts as it: for q < 1 the rule divides by it (as the authors' code does)."""
MOST_LOSS = 1e6
"""A higher one is refused; its powers stay finite."""


@dataclass(frozen=True)
class QFedAvg(Strategy):
    """w ← w − Σ_k Δ_k / Σ_k h_k over the cohort (Algorithm 2, steps 6 and 7).

        Δw_k = L (w − w_k),   Δ_k = F_k^q Δw_k,   h_k = q F_k^(q−1) ‖Δw_k‖² + L F_k^q

    With q = 0 it is FedAvg with equal weights. The loss is the site's own claim: not for federations in which somebody
    may lie.

    Args:
        q: from 0 to 20; the greater, the more even. The paper's values lie between 0.001 and 5.
        client_lr: 1 / L > 0, the learning rate of the clients' steps.

    Raises:
        ConfigError: out of range.
    """

    q: float = 1.0
    client_lr: float = 0.1

    name: ClassVar[str] = "qfedavg"
    update_kind: ClassVar[str] = "delta"
    wants: ClassVar[tuple[str, ...]] = ("loss_before",)

    def __post_init__(self) -> None:
        check_number("qfedavg.q", self.q, 0.0, 20.0)
        check_number("qfedavg.client_lr", self.client_lr, 0.0, open_low=True)

    def wrong(self, reply: FoldInput) -> str:
        """See `Strategy.wrong`; a loss that is not too high to be one."""
        if why := super().wrong(reply):
            return why
        loss = number_in(reply, "loss_before")
        return "" if loss <= MOST_LOSS else f"expected a metric 'loss_before' up to {MOST_LOSS:g}, found {loss:g}"

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """F_k(w): `_Fair` makes the weights of it."""
        return [max(number_in(reply, "loss_before"), LEAST_LOSS) for reply in replies]

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return _Fair(self.q, 1 / self.client_lr)


class _Fair:
    """A `Gather` whose weights, as they come, are losses."""

    def __init__(self, q: float, smoothness: float) -> None:
        self._q = q
        self._smoothness = smoothness

    def measure(self, blocks: Rows) -> Stats:
        """‖w_k − w‖²."""
        np.multiply(blocks, blocks, out=blocks)
        return row_sums(blocks)

    def choose(self, stats: Stats, weights: Sequence[float]) -> Choice:
        """See `Gather.choose`."""
        q, smoothness = self._q, self._smoothness
        total = 0.0
        kept = []
        for loss, square in zip(weights, stats.tolist(), strict=True):
            kept.append(loss**q * smoothness)  # of w_k − w, hence Δ_k with its sign turned
            total += q * loss ** (q - 1) * smoothness**2 * square + smoothness * loss**q
        return Choice(tuple(kept), total)
