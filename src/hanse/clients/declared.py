"""`Declared`: a client whose local training is declared (`training.py`), whatever library computes it.

A subclass says how one site is trained and evaluated; what a task's config asks, the order of examples and the answer
are here. An engine of the simulation may take `training`, `X`, `y` and the stream "batches" instead of calling `train`.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from hanse.clients.client import Answer, Client, Config
from hanse.clients.site import Site
from hanse.clients.training import Effort, Order, Training, effort_of, held_out, order_of, steps_of, wanted_metrics
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError


class Declared(Client):
    """A client that trains as declared.

    Args:
        training: the declaration.
        X, y: the site's examples, one a row; anything with `len` and NumPy's indexing by a list of places.
        test: what is evaluated on: a share of the examples, held out, or `(X, y)`; 0 for nothing.
        seed: of the choice of what is held out.

    Raises:
        ConfigError: X and y of different lengths, no examples, or a wrong `test`.
    """

    changes_arrays: ClassVar[bool] = False

    def __init__(self, training: Training, X: Any, y: Any, test: float | tuple[Any, Any], seed: int) -> None:
        self.training = training
        _check_lengths("X and y", X, y)
        self.test: tuple[Any, Any] | None = None
        if isinstance(test, tuple):
            if len(test) != 2:
                raise ConfigError(f"test: expected (X, y), found {len(test)} parts")
            _check_lengths("test: X and y", *test)
            self.test = test
        elif parts := held_out(len(y), test, seed):
            train, out = parts
            self.test = X[out], y[out]
            X, y = X[train], y[train]
        self.X, self.y = X, y

    @property
    def num_examples(self) -> int:
        """Examples that are trained on."""
        return len(self.y)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`. Answers the loss of the training, each batch's before its step, and what the strategy wants."""
        effort = effort_of(self.training, config)
        before = self.measured(arrays, (self.X, self.y), site)["loss"] if "loss_before" in effort.wants else None
        order = order_of(site.key("batches"), self.num_examples, effort.epochs)
        new, loss = self.trained(arrays, order, effort, site)
        steps = steps_of(self.num_examples, self.training.batch_size, effort.epochs)
        return Answer(new, self.num_examples, {"loss": loss, **wanted_metrics(effort, steps, before)})

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        if self.test is None:
            return Answer(None, 0, {})
        return Answer(None, len(self.test[1]), self.measured(arrays, self.test, site))

    def trained(self, arrays: Arrays, order: Order, effort: Effort, site: Site) -> tuple[Arrays, float]:
        """Train one site from `arrays`; the new values (the next call may overwrite them) and the mean loss."""
        raise NotImplementedError

    def measured(self, arrays: Arrays, data: tuple[Any, Any], site: Site) -> Mapping[str, float]:
        """`loss` and what else is known of `arrays` on `data`."""
        raise NotImplementedError


def _check_lengths(what: str, X: Any, y: Any) -> None:
    try:
        found = len(X), len(y)
    except TypeError:
        raise ConfigError(f"{what}: expected arrays, found {type(X).__name__} and {type(y).__name__}") from None
    if found[0] != found[1] or not found[0]:
        raise ConfigError(f"{what}: expected equally many examples, at least one; found {found[0]} and {found[1]}")
