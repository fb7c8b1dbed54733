"""`hs.mlp`: a linear model or a small perceptron in NumPy, trained as declared. No other library is needed.

Arrays have the names and shapes of `nn.Sequential(nn.Linear(…), nn.ReLU(), nn.Linear(…))`'s state dict, so a result
loads into that module, and the other way round. Sites of one process share one set of vectors, one after another.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.clients.client import Config
from hanse.clients.declared import Declared
from hanse.clients.numpy_optimizers import stepper_of
from hanse.clients.perceptrons import Shape, Stack, losses_of
from hanse.clients.site import Site
from hanse.clients.training import Effort, Optimizer, Order, Stepper, Training, quality_of, training_of
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.core.seeds import generator


def mlp(
    X: Any,
    y: Any,
    *,
    optimizer: Optimizer,
    hidden: Sequence[int] = (),
    classes: int | None = None,
    loss: str = "cross_entropy",
    epochs: int = 1,
    batch_size: int = 32,
    test: float | tuple[Any, Any] = 0.0,
    seed: int = 0,
    dtype: npt.DTypeLike = np.float32,
) -> "Perceptron":
    """A client that trains a perceptron, or without hidden layers a linear model.

    Args:
        X: `(n, features)`.
        y: for `cross_entropy` whole labels below `classes`, for `binary_cross_entropy` 0/1, `(n,)`; for `mse` numbers,
            `(n,)` or `(n, outputs)`.
        optimizer: `hs.SGD(lr, …)` or `hs.Adam(lr, …)`; fresh in every round.
        hidden: widths of the hidden layers, each followed by a rectifier.
        classes: number of labels in the whole federation; needed for `cross_entropy` only.
        loss: `cross_entropy` (softmax regression without hidden layers), `binary_cross_entropy` (logistic), `mse`.
        epochs: passes over the site's examples in a round; `config["epochs"]` of a task overrides it, as
            `config["client_lr"]` does the learning rate.
        batch_size: examples of a step; the last batch of an epoch may be smaller.
        test: share of the examples held out for evaluation, or `(X, y)`; 0 evaluates nothing.
        seed: of the choice of what is held out.
        dtype: float32 or float64, of the model and of all computation.

    Raises:
        ConfigError: an argument that is wrong, by name.
    """
    return Perceptron(X, y, training_of(loss, optimizer, epochs, batch_size), hidden, classes, test, seed, dtype)


class Perceptron(Declared):
    """See `mlp`."""

    def __init__(
        self,
        X: Any,
        y: Any,
        training: Training,
        hidden: Sequence[int],
        classes: int | None,
        test: float | tuple[Any, Any],
        seed: int,
        dtype: npt.DTypeLike,
    ) -> None:
        kind = np.dtype(dtype)
        if kind not in (np.float32, np.float64):
            raise ConfigError(f"hs.mlp: dtype: expected float32 or float64, found {kind}")
        X, y = _examples(X, y, training.loss, classes, kind)
        if isinstance(test, tuple) and len(test) == 2:
            test = _examples(*test, training.loss, classes, kind)
        super().__init__(training, X, y, test, seed)
        outputs = classes if training.loss == "cross_entropy" else 1 if y.ndim == 1 else y.shape[1]
        assert outputs is not None  # `_examples` has refused cross_entropy without classes
        self.shape = _shape((X.shape[1], *_widths(hidden), outputs), kind)

    def draws(self, call: str) -> bool:
        """See `Client`: examples are arrays of numpy's own, and nothing else is the user's."""
        return type(self) is not Perceptron

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`: uniform numbers from the job's seed, scaled by each layer's width."""
        return self.shape.initial(generator(site.key("initial")))

    def trained(self, arrays: Arrays, order: Order, effort: Effort, site: Site) -> tuple[Arrays, float]:
        """See `Declared`."""
        one = _one(self.shape, self.training.optimizer)
        start = one.load(arrays, (site.round, site.phase))
        return one.arrays, one.train(self, start, order, effort)

    def measured(self, arrays: Arrays, data: tuple[Any, Any], site: Site) -> Mapping[str, float]:
        """See `Declared`."""
        one = _one(self.shape, self.training.optimizer)
        one.load(arrays, (site.round, site.phase))
        X, y = data
        scores = one.stack.scores(X[None])
        quality = quality_of(self.training.loss, scores[0], y)
        losses, _ = losses_of(self.training.loss, scores, targets_of(self.training.loss, y)[None])
        return {"loss": float(losses.mean(dtype=np.float64)), **quality}


class _One:
    """The vectors of one model, which the sites of a process use one after another."""

    def __init__(self, shape: Shape, optimizer: Optimizer) -> None:
        self.stack = Stack(shape, 1)
        self.arrays = Arrays.end_to_end(shape.layout, self.stack.values[0])
        self._shape = shape
        ends = list(accumulate(spec.size for spec in shape.layout.specs))
        self._parts = [slice(first, end) for first, end in zip([0, *ends], ends, strict=False)]
        self._model: Array = np.empty_like(self.stack.values[0])
        self._loaded: tuple[object, Arrays] | None = None
        self._stepper: Stepper = stepper_of(optimizer, self.stack.values)

    def load(self, arrays: Arrays, when: object) -> Array:
        """Give the model to the site; its vector."""
        if self._loaded is None or self._loaded[1] is not arrays or self._loaded[0] != when:
            self._loaded = None
            flat_of(arrays, self._shape, out=self._model)
            self._loaded = when, arrays
        self.stack.values[0] = self._model
        return self._model

    def train(self, client: Perceptron, start: Array, order: Order, effort: Effort) -> float:
        training, stack = client.training, self.stack
        y = targets_of(training.loss, client.y)
        correction = flat_of(effort.correction, self._shape) if effort.correction else None
        held = [part for spec, part in zip(self._shape.layout.specs, self._parts, strict=True)
                if spec.name in effort.frozen]  # fmt: skip
        self._stepper.begin(effort.lr)
        total = 0.0
        for epoch in order:
            for first in range(0, len(epoch), training.batch_size):
                rows = epoch[first : first + training.batch_size]
                losses = stack.gradients(client.X[None, rows], y[None, rows], 1.0 / len(rows), training.loss)
                if effort.proximal_mu:
                    stack.grads += effort.proximal_mu * (stack.values - start)
                if correction is not None:
                    stack.grads += correction
                self._stepper.step(stack.values, stack.grads)
                for part in held:
                    stack.values[0, part] = start[part]
                total += float(losses.sum(dtype=np.float64))
        return total / order.size


@lru_cache(maxsize=8)
def _one(shape: Shape, optimizer: Optimizer) -> _One:
    return _One(shape, optimizer)


@lru_cache(maxsize=64)
def _shape(widths: tuple[int, ...], dtype: "np.dtype[np.floating]") -> Shape:
    return Shape(widths, dtype)


def flat_of(arrays: Mapping[str, Array], shape: Shape, out: Array | None = None) -> Array:
    """A model's arrays as one vector.

    Raises:
        ConfigError: names or shapes that are not this perceptron's.
    """
    expected = {spec.name: spec.shape for spec in shape.layout.specs}
    found = {name: array.shape for name, array in arrays.items()}
    if expected != found:
        raise ConfigError(
            f"hs.mlp: expected a model of shapes {expected}, found {found}; use the same features, hidden layers and "
            "classes at every site"
        )
    vectors = [arrays[name].reshape(-1) for name in expected]
    return np.concatenate(vectors, out=out) if out is not None else np.concatenate(vectors).astype(shape.dtype)


def targets_of(loss: str, y: Array) -> Array:
    """Targets as `Stack` takes them: labels as they are, numbers with one column for each output."""
    return y if loss == "cross_entropy" or y.ndim == 2 else y[:, None]


def _widths(hidden: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(hidden) if isinstance(hidden, list | tuple) else ()
    if not isinstance(hidden, list | tuple) or any(type(width) is not int or width < 1 for width in widths):
        raise ConfigError(f"hs.mlp: hidden: expected widths such as (64, 32), found {str(hidden)[:60]}")
    return widths


def _examples(X: Any, y: Any, loss: str, classes: int | None, dtype: "np.dtype[Any]") -> tuple[Array, Array]:
    try:
        X, y = np.asarray(X, dtype), np.asarray(y, np.int64 if loss == "cross_entropy" else dtype)
    except (TypeError, ValueError):
        raise ConfigError("hs.mlp: X and y: expected numbers; encode text and categories first") from None
    dimensions = (1, 2) if loss == "mse" else (1,)
    if X.ndim != 2 or y.ndim not in dimensions:
        wanted = "(n,) or (n, outputs)" if loss == "mse" else "(n,)"
        raise ConfigError(f"hs.mlp: expected X (n, features) and y {wanted}, found {X.shape} and {y.shape}")
    if loss == "cross_entropy":
        if type(classes) is not int or classes < 2:
            raise ConfigError(f"hs.mlp: classes: expected the number of labels in the federation, found {classes!r}")
        if y.size and not (y.min() >= 0 and y.max() < classes):
            raise ConfigError(f"hs.mlp: y: expected labels 0 to {classes - 1}, found others; number them from 0")
    elif loss == "binary_cross_entropy" and not ((y == 0) | (y == 1)).all():
        raise ConfigError("hs.mlp: y: expected 0 or 1 for binary_cross_entropy, found other values")
    return X, y
