"""`NumPyClient`: Flower's three methods on lists of ndarrays, with exactly its signatures.

The base class is optional: any object with these three methods is a client. Names of arrays come from the model, in
order ('0', '1', … where it was made from a list).
"""

from typing import Any

import numpy.typing as npt

from hanse.clients.client import Answer, Client, Config, taken_apart, with_loss
from hanse.clients.site import Site
from hanse.core.arrays import Arrays

NDArrays = list[npt.NDArray[Any]]

METHODS = ("get_parameters", "fit", "evaluate")


class NumPyClient:
    """Base for clients that speak in lists of ndarrays. Override what the run needs.

    Example:
        >>> class Mean(NumPyClient):
        ...     def __init__(self, X): self.X = X
        ...     def get_parameters(self, config): return [0.0 * self.X[0]]
        ...     def fit(self, parameters, config): return [self.X.mean(axis=0)], len(self.X), {}
        ...     def evaluate(self, parameters, config):
        ...         return float(((self.X - parameters[0]) ** 2).mean()), len(self.X), {}
    """

    def get_parameters(self, config: Config) -> NDArrays:
        """Initial parameters; one site is asked."""
        raise NotImplementedError("get_parameters")

    def fit(self, parameters: NDArrays, config: Config) -> tuple[NDArrays, int, dict[str, Any]]:
        """Train from `parameters` (may be changed in place) and return the new ones, num_examples and metrics."""
        raise NotImplementedError("fit")

    def evaluate(self, parameters: NDArrays, config: Config) -> tuple[float, int, dict[str, Any]]:
        """Return loss, num_examples and metrics of `parameters` on local data. The loss becomes metric `loss`."""
        raise NotImplementedError("evaluate")


def is_numpy_client(value: Any) -> bool:
    """Whether `value` has the three methods."""
    return all(callable(getattr(value, method, None)) for method in METHODS)


class NumPyAdapter(Client):
    """An object with Flower's three methods as a `Client`."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`."""
        return self.wrapped.get_parameters(config)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        answer = self.wrapped.fit(arrays.to_list(), config)
        return Answer(*taken_apart(answer, 3, "fit to return (list of arrays, num_examples, metrics)"))

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        answer = self.wrapped.evaluate(arrays.to_list(), config)
        loss, num_examples, metrics = taken_apart(answer, 3, "evaluate to return (loss, num_examples, metrics)")
        return Answer(None, num_examples, with_loss(metrics, loss))
