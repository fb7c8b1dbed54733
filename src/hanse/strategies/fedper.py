"""FedPer: the last layers are each site's own, the base is shared.

Arivazhagan, Aggarwal, Singh, Choudhary, "Federated learning with personalization layers", 2019,
https://arxiv.org/abs/1912.00818, Algorithms 1 and 2: a site trains base and head together and sends the base.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.at_home import AtHome
from hanse.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedPer(AtHome, FedAvg):
    """FedAvg of the base.

    Args:
        weights: see `FedAvg`; the paper weighs by examples.
        home: names of the personal layers, such as `"head.*"`.

    Raises:
        ConfigError: see `AtHome`.
    """

    home: str = "head*"

    name: ClassVar[str] = "fedper"
