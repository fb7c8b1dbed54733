"""`hs.SGD` and `hs.Adam` on flat tensors: the operations of `torch.optim` in the same order, so the same bits.

The tensors may have any shape: one site's vector, or the stacked vectors of many sites, of which a step moves the
first k rows. What is remembered between steps is made once and starts afresh at `begin`.
"""

from typing import Any

from hanse.clients.training import SGD, Adam, Optimizer, Stepper


def stepper_of(optimizer: Optimizer, like: Any) -> Stepper:
    """A stepper for tensors of the shape of `like`."""
    return _Descent(optimizer, like) if isinstance(optimizer, SGD) else _Adam(optimizer, like)


class _Descent:
    """See `torch.optim.sgd._single_tensor_sgd`."""

    def __init__(self, optimizer: SGD, like: Any) -> None:
        self._declared, self._lr = optimizer, optimizer.lr
        self._memory = like.new_empty(like.shape) if optimizer.momentum else None
        self._is_fresh = True

    def begin(self, lr: float) -> None:
        self._lr, self._is_fresh = lr, True

    def step(self, values: Any, grads: Any) -> None:
        declared = self._declared
        if declared.weight_decay:
            grads.add_(values, alpha=declared.weight_decay)
        if self._memory is None:
            values.add_(grads, alpha=-self._lr)
            return
        memory = self._memory[: len(values)]
        if self._is_fresh:
            memory.copy_(grads)
        else:
            memory.mul_(declared.momentum).add_(grads)
        self._is_fresh = False
        if declared.nesterov:
            grads.add_(memory, alpha=declared.momentum)
            values.add_(grads, alpha=-self._lr)
        else:
            values.add_(memory, alpha=-self._lr)


class _Adam:
    """See `torch.optim.adam._single_tensor_adam`, neither capturable nor with a tensor as learning rate."""

    def __init__(self, optimizer: Adam, like: Any) -> None:
        self._declared, self._lr = optimizer, optimizer.lr
        self._first, self._second = like.new_empty(like.shape), like.new_empty(like.shape)
        self._steps = 0

    def begin(self, lr: float) -> None:
        self._lr, self._steps = lr, 0
        self._first.zero_()
        self._second.zero_()

    def step(self, values: Any, grads: Any) -> None:
        declared = self._declared
        self._steps += 1
        if declared.weight_decay:
            grads.add_(values, alpha=declared.weight_decay)
        first, second = self._first[: len(values)], self._second[: len(values)]
        first.lerp_(grads, 1 - declared.beta_1)
        second.mul_(declared.beta_2).addcmul_(grads, grads, value=1 - declared.beta_2)
        correction_1 = 1 - declared.beta_1**self._steps
        correction_2 = 1 - declared.beta_2**self._steps
        denominator = (second.sqrt() / correction_2**0.5).add_(declared.epsilon)
        values.addcdiv_(first, denominator, value=-(self._lr / correction_1))
