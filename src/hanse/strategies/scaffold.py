"""SCAFFOLD: control variates take the drift of each site out of its steps.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic controlled averaging for federated learning",
ICML 2020, https://arxiv.org/abs/1910.06378, Algorithm 1 with Option II, Equations 3 to 5.

What travels is the model x and, as arrays `control/<name>` beside it, the server's control variate c; the site's c_i is
its `site.state`. Both halves of an update are averaged in one walk. Which part is whose, and the site's half of the
algorithm, are in `clients/corrections.py`; why it is so, in docs/decisions/2026-11-25-control-variates-travel.md.

The mean over the cohort is a plain one, as in the paper: sites are not weighed by their examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.core.records import Config
from hanse.strategies.strategy import Context, FoldInput, Strategy, check_number, cohort_size

CONTROL = "control/"
"""What the names of c's arrays begin with."""


@dataclass(frozen=True)
class Scaffold(Strategy):
    """x ← x + η_g mean(Δy_i),  c ← c + (|S| / N) mean(Δc_i): Equation 5.

    Args:
        server_lr: η_g > 0.

    Raises:
        ConfigError: out of range. From `initial`: the model has arrays named `control/…` of its own.
    """

    server_lr: float = 1.0

    name: ClassVar[str] = "scaffold"
    has_client_part: ClassVar[bool] = True
    update_kind: ClassVar[str] = "delta"
    wants: ClassVar[tuple[str, ...]] = ("num_steps", "client_lr")

    def __post_init__(self) -> None:
        check_number("scaffold.server_lr", self.server_lr, 0.0, open_low=True)

    def initial(self, arrays: Arrays) -> Arrays:
        """With c = 0 for every array of floats."""
        clash = [name for name in arrays if name.startswith(CONTROL)]
        if clash:
            raise ConfigError(f"scaffold: expected a model without arrays named {CONTROL}…, found {clash[0][:60]!r}")
        return Arrays([*arrays.items(), *controls_of(arrays).items()])

    def shown(self, arrays: Arrays) -> Arrays:
        """The model alone."""
        return without_control(arrays)

    def config(self, context: Context, site: str) -> Config:
        """Of training: `control_scale` = |S| / (N η_g), by which sites multiply Δc_i: `update` moves x and c alike."""
        if context.phase != "train":
            return {}
        known = len(context.sites) + len(context.busy)
        share = cohort_size(context.spec, known) / known
        return {**super().config(context, site), "control_scale": share / self.server_lr}

    @property
    def weighs_by(self) -> str:
        """See `Strategy.weighs_by`."""
        return "equal" if type(self).weigh is Scaffold.weigh else ""

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """1 for every reply."""
        return [1.0] * len(replies)

    def update(self, model: Array, reduced: Array, state: Sequence[Array], scalars: Mapping[str, float]) -> Array:
        """One block; all float64, `(block,)`."""
        return np.asarray(model + self.server_lr * reduced)


def controls_of(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Zeros for every array of floats, by the names under which they travel."""
    return {CONTROL + name: np.zeros_like(array) for name, array in arrays.items() if array.dtype.kind not in "biu"}


def without_control(arrays: Mapping[str, Array]) -> Arrays:
    """The model alone, such as `without_control(result.arrays)`."""
    return Arrays((name, array) for name, array in arrays.items() if not name.startswith(CONTROL))
