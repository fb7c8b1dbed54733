"""`hs.SGD` and `hs.Adam` on NumPy arrays, in place; the twins of those in `torch_optimizers.py`."""

from typing import Any

import numpy as np

from hanse.clients.training import SGD, Adam, Optimizer, Stepper
from hanse.core.arrays import Array


def stepper_of(optimizer: Optimizer, like: Array) -> Stepper:
    """A stepper for arrays of the shape of `like`, or for its first rows."""
    return _Descent(optimizer, like) if isinstance(optimizer, SGD) else _Adam(optimizer, like)


class _Descent:
    def __init__(self, optimizer: SGD, like: Array) -> None:
        self._declared, self._lr = optimizer, optimizer.lr
        self._memory = np.empty_like(like) if optimizer.momentum else None
        self._is_fresh = True

    def begin(self, lr: float) -> None:
        self._lr, self._is_fresh = lr, True

    def step(self, values: Any, grads: Any) -> None:
        declared = self._declared
        if declared.weight_decay:
            grads += declared.weight_decay * values
        if self._memory is not None:
            memory = self._memory[: len(values)]
            if self._is_fresh:
                memory[...] = grads
            else:
                memory *= declared.momentum
                memory += grads
            self._is_fresh = False
            if declared.nesterov:
                grads += declared.momentum * memory
            else:
                np.copyto(grads, memory)
        grads *= self._lr
        values -= grads


class _Adam:
    def __init__(self, optimizer: Adam, like: Array) -> None:
        self._declared, self._lr = optimizer, optimizer.lr
        self._first, self._second = np.empty_like(like), np.empty_like(like)
        self._steps = 0

    def begin(self, lr: float) -> None:
        self._lr, self._steps = lr, 0
        self._first[...] = 0
        self._second[...] = 0

    def step(self, values: Any, grads: Any) -> None:
        declared = self._declared
        self._steps += 1
        if declared.weight_decay:
            grads += declared.weight_decay * values
        first, second = self._first[: len(values)], self._second[: len(values)]
        first += (1 - declared.beta_1) * (grads - first)
        second *= declared.beta_2
        grads *= grads
        grads *= 1 - declared.beta_2
        second += grads
        denominator = np.sqrt(second)
        denominator /= (1 - declared.beta_2**self._steps) ** 0.5
        denominator += declared.epsilon
        np.divide(first, denominator, out=denominator)
        denominator *= self._lr / (1 - declared.beta_1**self._steps)
        values -= denominator
