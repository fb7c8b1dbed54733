"""FedRep: a site first fits its own head to the shared representation, then the representation to its head.

Collins, Hassani, Mokhtari, Shakkottai, "Exploiting shared representations for personalized federated learning", ICML
2021, https://arxiv.org/abs/2102.07078, Algorithm 1: ClientUpdate of the head with φ fixed, then of φ with the head
fixed; φ is averaged.

User code is called twice in a task. It finds `config["part"]`, `head` and then `body`, by which it may take other
numbers of steps, and `config["frozen"]`, names of arrays whose gradient it takes for zero; `hs.torch` freezes them
itself. Frozen arrays that come back changed are put back.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.at_home import AtHome
from hanse.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedRep(AtHome, FedAvg):
    """FedAvg of the representation.

    Args:
        weights: see `FedAvg`. The paper's analysis takes the plain mean, `equal`.
        home: names of the head, such as `"head.*"`.

    Raises:
        ConfigError: see `AtHome`.
    """

    home: str = "head*"

    name: ClassVar[str] = "fedrep"
