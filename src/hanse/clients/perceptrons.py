"""Linear models and small perceptrons in NumPy, many of one shape at a time: values, gradients, losses.

The weights of k models are the rows of one array `(k, size)`, layer after layer, each its weight `(out, in)` and then
its bias `(out,)`, as in a state dict of `nn.Sequential(nn.Linear, nn.ReLU, nn.Linear, …)`. One model is a stack of one.
Between layers stands the rectifier max(0, z); the last layer gives scores.
"""

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
        self._layers = _views(self.values, shape.layout)
        self._slopes = _views(self.grads, shape.layout)

    def __len__(self) -> int:
        return len(self.values)

    def scores(self, X: Array) -> Array:
        """Of the first k models on their examples, `(k, b, features)` → `(k, b, outputs)`."""
        return self._forward(X)[-1]

    def gradients(self, X: Array, y: Array, share: Array | float, loss: str) -> Array:
        """Fill the first k rows of `grads`.

        Args:
            X: `(k, b, features)`, the batch of each model.
            y: `(k, b)` labels, or `(k, b, outputs)` targets.
            share: weight of each example in the sum that is derived, `(k, b)`, 0 for padding; or one for all.
            loss: one of `LOSSES`.

        Returns:
            The loss of each example, `(k, b)`, unweighted.
        """
        k = len(X)
        *inputs, scores = self._forward(X)
        losses, slopes = losses_of(loss, scores, y)
        slopes *= share if isinstance(share, float) else share[:, :, None]
        for layer in range(len(inputs) - 1, -1, -1):
            weight_grads, bias_grads = self._slopes[2 * layer][:k], self._slopes[2 * layer + 1][:k]
            np.matmul(slopes.swapaxes(1, 2), inputs[layer], out=weight_grads)
            np.add.reduce(slopes, axis=1, out=bias_grads)
            if layer:
                slopes = np.matmul(slopes, self._layers[2 * layer][:k])
                slopes *= np.sign(inputs[layer])  # after the rectifier: 1 where it let pass, 0 elsewhere
        return losses

    def _forward(self, X: Array) -> list[Array]:
        k, outputs = len(X), [X]
        for layer in range(0, len(self._layers), 2):
            z = np.matmul(outputs[-1], self._layers[layer][:k].swapaxes(1, 2))
            z += self._layers[layer + 1][:k, None]
            if layer + 2 < len(self._layers):
                np.maximum(z, 0, out=z)
            outputs.append(z)
        return outputs


def losses_of(loss: str, scores: Array, y: Array) -> tuple[Array, Array]:
    """Loss of each example and its slope in the scores, `(k, b)` and `(k, b, outputs)`; `scores` is used up."""
    if loss == "cross_entropy":
        scores -= scores.max(axis=2, keepdims=True)
        own = np.take_along_axis(scores, y[:, :, None], axis=2)
        np.exp(scores, out=scores)
        sums = np.add.reduce(scores, axis=2, keepdims=True)
        scores /= sums
        losses = (np.log(sums) - own)[:, :, 0]
        models, places = np.ogrid[: len(y), : y.shape[1]]
        scores[models, places, y] -= 1
        return losses, scores
    if loss == "binary_cross_entropy":
        losses = np.maximum(scores, 0) - scores * y + np.log1p(np.exp(-np.abs(scores)))
        return losses[:, :, 0], _sigmoid(scores) - y
    gap = scores - y
    return np.square(gap).mean(axis=2), gap * (2 / scores.shape[2])


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small)).astype(z.dtype)


def _views(flat: Array, layout: Layout) -> list[Array]:
    views, start = [], 0
    for spec in layout.specs:
        views.append(flat[:, start : start + prod(spec.shape)].reshape(len(flat), *spec.shape))
        start += spec.size
    return views
