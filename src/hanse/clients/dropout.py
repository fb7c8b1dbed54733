"""Dropout masks from a counter: the same for the same task, whatever else was drawn before or beside them.

PyTorch draws masks on the CPU from its one generator of that device, in order, so that a mask depends on everything
drawn before it. Here the m-th mask of a task is a function of (seed, round, phase, site, attempt, "dropout") and m:
words of Philox (Salmon et al., SC 2011) under that key, from the counter m·2⁶⁴ on, 32 bits for each element, which is
kept if they are at least p·2³². What is kept is divided by 1 − p (Srivastava et al., JMLR 2014, in the form that
leaves evaluation alone).

`nn.Dropout`, `nn.Dropout1d` to `3d` and their functions are covered, through PyTorch's own way of overriding them. What
draws inside of a kernel (dropout of attention and of recurrent layers, alpha dropout) keeps PyTorch's generator, which
is seeded for every task. On other devices PyTorch's generator is a counter-based one already, and is left alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from math import prod
from typing import Any

import numpy as np

from hanse.clients.tensors import imported
from hanse.core.seeds import words


class Masks:
    """The masks of one task; a context in which a module's dropout takes them.

    Args:
        key: gives the key of the task's stream; asked for the first mask, since most trainings take none.

    Attributes:
        count: masks drawn so far.
    """

    def __init__(self, key: Callable[[], int]) -> None:
        self.count = 0
        self._key_of = key
        self._key = 0
        self._entered = 0
        self._mode: Any = None

    @property
    def may_be_taken(self) -> bool:
        """Whether a module took any when it was called first. Looking on costs microseconds for every layer."""
        return self.count > 0 or not self._entered

    def __enter__(self) -> None:
        self._entered += 1
        if self._mode is None:
            self._mode = _mode_class()(self)
        self._mode.__enter__()

    def __exit__(self, *raised: object) -> None:
        self._mode.__exit__(*raised)

    def applied(self, input: Any, p: float, inplace: bool, shape: tuple[int, ...]) -> Any:
        """`input`, elements of it dropped together where `shape` has a 1."""
        if not self.count:
            self._key = self._key_of()
        size = prod(shape)
        drawn = words(self._key, -(-size // 2), self.count).view(np.uint32)[:size].reshape(shape)
        self.count += 1
        scale = 1 / (1 - p) if p < 1 else 0.0
        noise = imported().from_numpy(drawn >= round(p * 2**32)).to(input.dtype).mul_(scale)
        return input.mul_(noise) if inplace else input * noise


@contextmanager
def drawing(module: Any, masks: Masks) -> Iterator[None]:
    """Let `module` take these masks whenever it is called, and leave it as it was."""
    depth = 0

    def begin(*_: Any) -> None:
        nonlocal depth
        depth += 1
        if depth == 1:
            masks.__enter__()

    def end(*_: Any) -> None:
        nonlocal depth
        depth -= 1
        if not depth:
            masks.__exit__(None, None, None)

    hooks = [module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@cache
def _mode_class() -> Any:
    torch = imported()
    functional = torch.nn.functional
    shapes: dict[Any, Callable[[Any], tuple[int, ...]]] = {
        torch.dropout: _each,
        functional.dropout: _each,
        functional.dropout1d: lambda input: _channels(input, unbatched=2),
        functional.dropout2d: _channels,  # takes three dimensions for examples, channels and a length, as PyTorch's
        functional.dropout3d: lambda input: _channels(input, unbatched=4),
    }

    base: Any = torch.overrides.TorchFunctionMode

    class Overriding(base):
        def __init__(self, masks: Masks) -> None:
            super().__init__()
            self._masks = masks

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = kwargs or {}
            if function in shapes:
                input, p, training, inplace = _arguments(function is torch.dropout, *args, **given)
                if training and p > 0 and input.device.type == "cpu" and p <= 1 and input.numel():
                    return self._masks.applied(input, p, inplace, shapes[function](input))
            return function(*args, **given)

    return Overriding


def _arguments(
    is_bare: bool, input: Any, p: float = 0.5, training: bool | None = None, inplace: bool = False, **more: Any
) -> tuple[Any, float, bool, bool]:
    """Of a dropout function. `torch.dropout(input, p, train)` has other names than those of `nn.functional`."""
    return input, p, bool(more.get("train", training)) if is_bare else training is not False, inplace


def _each(input: Any) -> tuple[int, ...]:
    return tuple(input.shape)


def _channels(input: Any, unbatched: int = 0) -> tuple[int, ...]:
    kept = 1 if input.dim() == unbatched else 2
    return (*input.shape[:kept], *(1 for _ in input.shape[kept:]))
