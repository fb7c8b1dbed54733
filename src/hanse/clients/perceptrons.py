"""Linear models and small perceptrons in NumPy, many of one shape at a time: values, gradients, losses.

The weights of k models are the rows of one array `(k, size)`, layer after layer, each its weight `(out, in)` and then
its bias `(out,)`, as in a state dict of `nn.Sequential(nn.Linear, nn.ReLU, nn.Linear, …)`. One model is a stack of one.
Between layers stands the rectifier max(0, z); the last layer gives scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod

import numpy as np

from hanse.core.arrays import Array, ArraySpec, Layout


@dataclass(frozen=True)
class Shape:
    """Shape of a perceptron.

    Args:
        widths: features, hidden layers, outputs; two for a linear model.
        dtype: float32 or float64.
        names: of the arrays, weight and bias by layer; None for those of `nn.Sequential`.
    """

    widths: tuple[int, ...]
    dtype: np.dtype[np.floating]
    names: tuple[str, ...] | None = None

    @cached_property
    def layout(self) -> Layout:
        """Names, dtypes and shapes of the arrays that travel."""
        specs = []
        for layer, (fan_in, fan_out) in enumerate(pairwise(self.widths)):
            names = (
                self.names[2 * layer : 2 * layer + 2] if self.names else (f"{2 * layer}.weight", f"{2 * layer}.bias")
            )
            specs += [ArraySpec(names[0], self.dtype, (fan_out, fan_in)), ArraySpec(names[1], self.dtype, (fan_out,))]
        return Layout(tuple(specs))

    def initial(self, rng: np.random.Generator) -> dict[str, Array]:
        """Uniform in ±1/√(features of the layer), as PyTorch's linear layers begin."""
        bounds = [1 / fan_in**0.5 for fan_in in self.widths[:-1] for _ in range(2)]
        return {
            spec.name: rng.uniform(-bound, bound, spec.shape).astype(self.dtype)
            for spec, bound in zip(self.layout.specs, bounds, strict=True)
        }


class Stack:
    """Values and gradients of up to `count` models.

    Attributes:
        values, grads: `(count, size)`.
    """

    def __init__(self, shape: Shape, count: int) -> None:
        self.values: Array = np.empty((count, shape.layout.size), shape.dtype)
        self.grads: Array = np.empty_like(self.values)
        self._layout = shape.layout
        self._layers = _views(self.values, shape.layout)
        self._slopes = _views(self.grads, shape.layout)

    def __len__(self) -> int:
        return len(self.values)

    def scores(self, X: Array) -> Array:
        """Of the first k models on their examples, `(k, b, features)` → `(k, b, outputs)`."""
        return _forward(self._layers, X)[-1]

    def gradients(self, X: Array, y: Array, share: Array | float, loss: str, *, model: Array | None = None) -> Array:
        """Fill the first k rows of `grads`.

        Args:
            X: `(k, b, features)`, the batch of each model.
            y: `(k, b)` labels, or `(k, b, outputs)` targets.
            share: weight of each example in the sum that is derived, `(k, b)`, 0 for padding; or one for all.
            loss: one of `LOSSES`.
            model: `(size,)`, where all k models are this one, as before their first step; `values` are not looked at
                then, and what would be k products of small matrices is one of a large one.

        Returns:
            The loss of each example, `(k, b)`, unweighted.
        """
        k, b = X.shape[:2]
        layers = self._layers if model is None else _views(model[None], self._layout)
        *inputs, scores = _forward(layers, X if model is None else X.reshape(1, k * b, -1))
        losses, slopes = losses_of(loss, scores.reshape(k, b, -1), y)
        slopes *= share if isinstance(share, float) else share[:, :, None]
        for layer in range(len(inputs) - 1, -1, -1):
            weight_grads, bias_grads = self._slopes[2 * layer][:k], self._slopes[2 * layer + 1][:k]
            np.matmul(slopes.swapaxes(1, 2), inputs[layer].reshape(k, b, -1), out=weight_grads)
            np.add.reduce(slopes, axis=1, out=bias_grads)
            if layer:
                weights = layers[2 * layer][:k]
                slopes = np.matmul(slopes.reshape(len(weights), -1, slopes.shape[2]), weights)
                slopes *= inputs[layer] > 0  # after the rectifier: where it let pass
                slopes = slopes.reshape(k, b, -1)
        return losses


def _forward(layers: Sequence[Array], X: Array) -> list[Array]:
    """What goes into each layer, and the scores."""
    k, outputs = len(X), [X]
    for layer in range(0, len(layers), 2):
        z = np.matmul(outputs[-1], layers[layer][:k].swapaxes(1, 2))
        z += layers[layer + 1][:k, None]
        if layer + 2 < len(layers):
            np.maximum(z, 0, out=z)
        outputs.append(z)
    return outputs


def losses_of(loss: str, scores: Array, y: Array) -> tuple[Array, Array]:
    """Loss of each example and its slope in the scores, `(k, b)` and `(k, b, outputs)`; `scores` is used up."""
    if loss == "cross_entropy":
        return _cross_entropy(scores, y)
    if loss == "binary_cross_entropy":
        losses = np.maximum(scores, 0) - scores * y + np.log1p(np.exp(-np.abs(scores)))
        return losses[:, :, 0], _sigmoid(scores) - y
    gap = scores - y
    return np.square(gap).mean(axis=2), gap * (2 / scores.shape[2])


def _cross_entropy(scores: Array, y: Array) -> tuple[Array, Array]:
    """`losses_of` softmax and labels; each class is a row here, since maxima and sums of short rows are slow."""
    k, b, classes = scores.shape
    rows = np.ascontiguousarray(scores.reshape(-1, classes).T)
    own = y.reshape(-1) * (k * b) + np.arange(k * b)  # where each example's label lies in them, laid end to end
    rows -= np.maximum.reduce(rows, axis=0)
    losses = -rows.take(own)
    np.exp(rows, out=rows)
    sums = np.add.reduce(rows, axis=0)
    rows /= sums
    losses += np.log(sums)
    rows.reshape(-1)[own] -= 1
    scores.reshape(-1, classes)[...] = rows.T
    return losses.reshape(k, b), scores


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small)).astype(z.dtype)


def _views(flat: Array, layout: Layout) -> list[Array]:
    views, start = [], 0
    for spec in layout.specs:
        views.append(flat[:, start : start + prod(spec.shape)].reshape(len(flat), *spec.shape))
        start += spec.size
    return views
