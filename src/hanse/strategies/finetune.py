"""FedAvg whose model every site fits to its own data before it is evaluated.

Wang, Mathews, Kiddon, Eichner, Beaufays, Ramage, "Federated evaluation of on-device personalization", 2019,
https://arxiv.org/abs/1910.10252; Cheng, Chadha, Duchi, "Federated asymptotics: a model to compare federated learning
algorithms", 2021, https://arxiv.org/abs/2108.07313, section 3 (FTFA): the average, then local steps from it.

In an evaluation the site trains from the received model (`config["personal"]` is true then) and evaluates what comes
of it; metrics of the received one are called `global_…`. Nothing of it is kept or sent.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FineTune(FedAvg):
    """FedAvg, evaluated after a training at each site.

    Args:
        weights: see `FedAvg`.
    """

    name: ClassVar[str] = "finetune"
    has_client_part: ClassVar[bool] = True
