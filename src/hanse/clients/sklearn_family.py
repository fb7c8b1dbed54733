"""`Family`: how one kind of scikit-learn estimator becomes arrays that may be averaged, and arrays an estimator.

Labels are class numbers 0 … num_classes − 1 throughout; the real ones come back in `sklearn.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError

Parameters = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Effort:
    """What a round asks of local training.

    Args:
        round: counts from 1.
        epochs: passes over the data, ≥ 1; families that need one pass make one.
        proximal_mu: FedProx's μ; 0 for none.
        correction: what SCAFFOLD or FedDyn add to every gradient, by name of array; empty for none.
    """

    round: int = 1
    epochs: int = 1
    proximal_mu: float = 0.0
    correction: Parameters = field(default_factory=dict)


class Family:
    """One kind of estimator. Stateless: everything a round needs arrives in its arguments.

    Args:
        estimator: the user's, unfitted; never changed, only cloned.
        num_classes: ≥ 2 for classifiers; 0 for regressors.
    """

    averaged = ""
    """What the arrays hold, in words, for messages."""
    takes_mu = False
    """Whether local training can add FedProx's proximal term, and corrections of its gradients."""

    def __init__(self, estimator: Any, num_classes: int) -> None:
        self.prototype = estimator
        self.num_classes = num_classes
        self.check()

    def check(self) -> None:
        """Refuse settings that cannot be federated.

        Raises:
            ConfigError: the setting and what to use instead.
        """

    def initial(self, num_features: int, seed: int) -> dict[str, Array]:
        """Arrays before the first round, the same at every site, without a fit."""
        raise NotImplementedError

    def train(self, arrays: Parameters, X: Any, y: Array, effort: Effort) -> dict[str, Array]:
        """Arrays after local training from `arrays` on float64 `X`, `(n, num_features)`, and `y`, `(n,)`, n ≥ 1."""
        raise NotImplementedError

    def steps(self, X: Any, y: Array, effort: Effort) -> dict[str, float]:
        """`num_steps` of a round, and `client_lr`, the rate of each; empty where steps are of other kinds."""
        return {}

    def estimator(self, arrays: Parameters) -> Any:
        """A fitted estimator with class numbers as labels."""
        raise NotImplementedError

    def clone(self) -> Any:
        """A fresh, unfitted copy of the user's estimator."""
        from sklearn.base import clone

        return clone(self.prototype)

    @property
    def num_rows(self) -> int:
        """Rows of a linear classifier's coefficients: one for two classes, otherwise one a class."""
        return 1 if self.num_classes == 2 else self.num_classes

    def refuse(self, setting: str, instead: str) -> None:
        """Raise for a setting of the estimator."""
        raise ConfigError(f"hs.sklearn: {type(self.prototype).__name__}({setting}) cannot be federated; {instead}")
