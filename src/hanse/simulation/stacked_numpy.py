"""Many perceptrons trained at once in NumPy: `hs.mlp`'s, and PyTorch's `nn.Sequential` of linear layers and rectifiers.

Every layer's products are one `matmul` over the group, every step one pass over weights that stay in cache. The first
step goes through one model, since all begin from it. The result is that of one site after another up to rounding (other
shapes of products sum in another order).
"""

from typing import Any

import numpy as np

from hanse.clients.numpy_optimizers import stepper_of
from hanse.clients.perceptrons import Shape, Stack
from hanse.clients.training import Stepper, Training
from hanse.core.arrays import Array, Layout
from hanse.simulation.ragged import Schedule

CACHE_BYTES = 3 << 19
"""Weights of one group: half again as much as a core's second-level cache usually holds of them and their gradients."""


class NumpyStack:
    """Trains groups of one shape, each from the same model.

    Args:
        shape: of the models.
        training: what each does.
        size: sites in a group at most.
    """

    name = "numpy"

    def __init__(self, shape: Shape, training: Training, size: int) -> None:
        self._stack, self._training = Stack(shape, size), training
        self._stepper: Stepper = stepper_of(training.optimizer, self._stack.values)
        self.size, self.width, self.layout = size, shape.layout.size, shape.layout
        ends = np.cumsum([spec.size for spec in shape.layout.specs]).tolist()
        self.slices = [slice(start, stop) for start, stop in zip([0, *ends], ends, strict=False)]

    def train(
        self, model: Array, X: Array, y: Array, schedule: Schedule, *, lr: float, proximal_mu: float
    ) -> tuple[Array, Array]:
        """Train a group.

        Args:
            model: `(parameters,)`.
            X, y: the examples of all sites, end to end.

        Returns:
            New weights `(k, parameters)`, a view that the next call overwrites, and the sum of losses `(k,)`, both in
            the order of `schedule.members`.
        """
        stack, loss, optimizer = self._stack, self._training.loss, self._training.optimizer
        values, grads = stack.values[: len(schedule.members)], stack.grads
        is_plain = optimizer.is_plain and not proximal_mu  # a step is −lr · gradient: derived with it at once
        self._stepper.begin(lr)
        totals = np.zeros(len(values))
        if loss != "cross_entropy" and y.ndim == 1:
            y = y[:, None]
        for step, k in enumerate(schedule.active):
            places = schedule.places[step, :k]
            full = schedule.is_full[step]
            share: Any = 1.0 / places.shape[1] if full else schedule.share(step, values.dtype)
            losses = stack.gradients(
                X.take(places, axis=0),
                y.take(places, axis=0),
                -lr * share if is_plain else share,
                loss,
                model=None if step else model,
            )
            moved = grads[:k]
            if not is_plain:
                if not step:
                    values[...] = model
                elif proximal_mu:
                    moved += proximal_mu * (values[:k] - model)
                self._stepper.step(values[:k], moved)
            elif step:
                values[:k] += moved
            else:
                np.add(moved, model, out=values)
            totals[:k] += losses.sum(axis=1) if full else (losses * (share > 0)).sum(axis=1)
        return values, totals


def shape_of_sequential(module: Any, layout: Layout) -> Shape | None:
    """A PyTorch module as a perceptron: `nn.Sequential` of Linear, ReLU, …, Linear with biases; None for any other.

    Args:
        layout: of the arrays that travel, which then are the layers' weights and biases in order.
    """
    from hanse.clients.flat_perceptron import is_perceptron

    if not is_perceptron(module):
        return None
    linear = list(module)[::2]
    names = tuple(spec.name for spec in layout.specs)
    shape = Shape((linear[0].in_features, *(layer.out_features for layer in linear)), layout.specs[0].dtype, names)
    return shape if shape.layout == layout else None
