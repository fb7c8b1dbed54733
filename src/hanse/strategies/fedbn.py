"""FedBN: layers that normalise are each site's own, so that sites whose inputs are distributed differently agree.

Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated learning on non-IID features via local batch normalization", ICLR 2021,
https://arxiv.org/abs/2102.07623, Algorithm 1: all parameters but those of batch normalisation are averaged. Its running
statistics stay with them.
"""

from dataclasses import dataclass
from typing import ClassVar

from hanse.strategies.at_home import AtHome
from hanse.strategies.fedavg import FedAvg


@dataclass(frozen=True)
class FedBN(AtHome, FedAvg):
    """FedAvg of all that is not a normalising layer.

    Args:
        weights: see `FedAvg`.
        home: their names. The default finds layers that are called so and every running statistic; in an
            `nn.Sequential` layers have numbers for names, so write them, such as `"1.*, 4.*"`.

    Raises:
        ConfigError: see `AtHome`.
    """

    home: str = "*bn*, *norm*, *running_mean, *running_var, *num_batches_tracked"

    name: ClassVar[str] = "fedbn"
