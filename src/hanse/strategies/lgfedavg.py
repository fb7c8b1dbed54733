"""LG-FedAvg: representations are each site's own, what is built on them is shared. FedPer the other way round.

Liang, Liu, Ziyin, Allen, Auerbach, Brent, Salakhutdinov, Morency, "Think locally, act globally: Federated learning with
local and global representations", 2020, https://arxiv.org/abs/2001.01523, Algorithm 1. (The paper's networks of sites
may have different lower layers; so may ours, since what stays at home has no common layout.)
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.at_home import AtHome
from hanse.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class LGFedAvg(AtHome, FedAvg):
    """FedAvg of the upper layers.

    Args:
        weights: see `FedAvg`.
        home: names of the layers below, such as `"encoder.*"`.

    Raises:
        ConfigError: see `AtHome`.
    """

    home: str = "encoder*"

    name: ClassVar[str] = "lgfedavg"
