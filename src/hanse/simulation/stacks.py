"""Which kernel trains which sites together, how many at a time, and why not.

A *kind* is what sites must share to be stacked. For each model and training this keeps the kernel's vectors, or the
reason why there is none, found at once or when it was tried.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hanse.aggregation.canonical import GROUP
from hanse.clients.declared import Declared
from hanse.clients.mlp import Perceptron
from hanse.clients.training import Effort, Training
from hanse.core.arrays import Array, Arrays, Layout
from hanse.core.errors import ConfigError
from hanse.simulation.ragged import Schedule
from hanse.simulation.stacked_numpy import CACHE_BYTES, NumpyStack, shape_of_sequential

KERNELS = ("auto", "numpy", "torch")
MAX_GROUP = 4096


class StackOfSites(Protocol):
    """What trains a group."""

    size: int
    width: int
    """Elements of a row."""
    layout: Layout
    slices: list[slice]
    """Where each array of the layout lies in a row."""

    def train(
        self, model: Array, X: Any, y: Any, schedule: Schedule, *, lr: float, proximal_mu: float
    ) -> tuple[Array, Array]:
        """See `stacked_numpy.NumpyStack.train`."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """What sites share that are stacked: the model (its shape or its module), the training, and the task's effort."""

    model: Hashable
    training: Training
    lr: float
    epochs: int
    proximal_mu: float
    wants: tuple[str, ...]


@dataclass(slots=True)
class Family:
    """What is kept for the trainings of one model.

    Args:
        stack: the kernel; None where there is none.
        reason: why there is none.
        level: 2**level canonical groups are stacked at a time.
    """

    stack: StackOfSites | None = None
    reason: str = ""
    level: int = 0


class Obstacle(Exception):
    """Why something cannot be stacked."""


class Stacks:
    """The kernels of one engine.

    Args:
        kernel: `numpy`, `torch`, or `auto`: NumPy where it can (perceptrons on the CPU), PyTorch where not.
        group: sites in a group, 4 · 2ⁿ; None for what fits.
        say: takes one line: why something is not stacked, or that a group was halved.

    Raises:
        ConfigError: a wrong kernel or group.
    """

    def __init__(self, kernel: str, group: int | None, say: Callable[[str], None]) -> None:
        if kernel not in KERNELS:
            raise ConfigError(f"kernel: expected one of {', '.join(KERNELS)}; found {str(kernel)[:40]!r}")
        if group is not None and (type(group) is not int or group < GROUP or group & (group - 1)):
            raise ConfigError(f"group: expected 4, 8, 16, … sites, found {str(group)[:40]!r}")
        self.kernel, self.group = kernel, group
        self._say = say
        self._families: dict[tuple[Hashable, Training], Family] = {}
        self._said: set[str] = set()
        self._last: tuple[Effort, Hashable, Training, Kind, Family] | None = None

    def kind_of(self, client: Declared, effort: Effort) -> Kind | None:
        """The kind of a task at a site; None where it must be computed alone, the reason said once."""
        if not effort.can_be_stacked:
            self.alone("control variates and losses of the received model are computed site by site")
            return None
        if isinstance(client, Perceptron):
            model: Hashable = client.shape
        else:
            model = getattr(client, "source", type(client)), getattr(client, "device", None)
        last = self._last
        if last is None or last[0] is not effort or last[1] != model or last[2] != client.training:
            kind = Kind(model, client.training, effort.lr, effort.epochs, effort.proximal_mu, effort.wants)
            last = self._last = effort, model, client.training, kind, self._family(kind, client)
        return None if last[4].reason else last[3]

    def family(self, kind: Kind) -> Family:
        """Of a kind that `kind_of` has answered."""
        return self._families[kind.model, kind.training]

    def level(self, kind: Kind | None) -> int:
        """Of the subtrees in which sites of this kind are stacked; 0 where they are computed alone."""
        if kind is None:
            return 0
        family = self.family(kind)
        return 0 if family.stack is None else family.level

    @property
    def largest(self) -> int:
        """Sites in the largest group; 0 where nothing is stacked."""
        return max((f.stack.size for f in self._families.values() if f.stack is not None), default=0)

    def failed(self, family: Family, client: Declared, error: Exception) -> bool:
        """A group could not be trained: whether to try again with half of it, after memory was short."""
        assert family.stack is not None
        if _is_memory(error) and family.level > 0:
            family.level -= 1
            size = GROUP << family.level
            family.stack = None  # freed before the smaller one is made
            family.stack = self._stack_of(client, size)
            self._tell(f"batched: memory was short; groups of {size} sites from here on")
            return True
        lines = str(error).strip().splitlines()
        family.stack, family.reason = None, lines[0][:200] if lines else type(error).__name__
        self.alone(family.reason)
        return False

    def alone(self, reason: str) -> None:
        """Say why sites are computed one after another."""
        self._tell(f"batched: one site after another here: {reason}")

    def clear(self) -> None:
        """Free the kernels' memory."""
        self._families.clear()
        self._last = None

    def _family(self, kind: Kind, client: Declared) -> Family:
        key = (kind.model, kind.training)
        family = self._families.get(key)
        if family is None:
            family = self._families[key] = Family()
            try:
                family.stack = self._stack_of(client, self.group)
            except Obstacle as obstacle:
                family.reason = str(obstacle)
                self.alone(family.reason)
            else:
                family.level = (family.stack.size // GROUP).bit_length() - 1
        return family

    def _stack_of(self, client: Declared, size: int | None) -> StackOfSites:
        if isinstance(client, Perceptron):
            if self.kernel == "torch":
                raise Obstacle("hs.mlp has a NumPy kernel only")
            return _numpy_stack(client.shape, client.training, size)
        from hanse.clients.torch_declared import DeclaredTorch
        from hanse.simulation import stacked_torch

        if not isinstance(client, DeclaredTorch):
            raise Obstacle(f"{type(client).__name__} has no kernel")
        if client.processes > 1:
            raise Obstacle("each site trains in several processes")
        module = client.module
        flat = client.trainer(module).flat
        shape = None
        if self.kernel != "torch" and all(buffer.values.device.type == "cpu" for buffer in flat.buffers):
            shape = shape_of_sequential(module, flat.arrays().layout)
        if shape is not None:
            return _numpy_stack(shape, client.training, size)
        if self.kernel == "numpy":
            raise Obstacle("the NumPy kernel takes nn.Sequential of linear layers with rectifiers between them")
        if reason := stacked_torch.obstacle(module, flat):
            raise Obstacle(f"{type(module).__name__}: {reason}")
        return stacked_torch.TorchStack(
            module, flat, client.training, size or _power_of_two(stacked_torch.fitting(flat))
        )

    def _tell(self, line: str) -> None:
        if line not in self._said:
            self._said.add(line)
            self._say(line)


def _numpy_stack(shape: Any, training: Training, size: int | None) -> StackOfSites:
    return NumpyStack(shape, training, size or _power_of_two(CACHE_BYTES // max(1, shape.layout.nbytes)))


def _power_of_two(fitting: int) -> int:
    """4 · 2ⁿ sites, at most as many as fit."""
    return GROUP << max(0, (min(fitting, MAX_GROUP) // GROUP).bit_length() - 1)


def _is_memory(error: Exception) -> bool:
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))
    )


def examples_of(clients: Sequence[Declared], stack: StackOfSites) -> tuple[Any, Any]:
    """The examples of several sites end to end, as the kernel takes them.

    Raises:
        ValueError: sites whose examples differ in shape or dtype, or labels below 0.
    """
    if isinstance(stack, NumpyStack):
        dtype = stack.layout.specs[0].dtype
        X = np.concatenate([_as_array(client.X) for client in clients])
        y = np.concatenate([_as_array(client.y) for client in clients])
        if clients[0].training.loss != "cross_entropy":
            return X.astype(dtype, copy=False), y.astype(dtype, copy=False)
        if y.min(initial=0) < 0:
            raise ValueError("labels below 0")
        if X.dtype != dtype:
            raise ValueError(f"examples of {X.dtype} for a model of {dtype}")
        return X, y.astype(np.int64, copy=False)
    import torch

    tensors = [client.tensors((client.X, client.y)) for client in clients]  # type: ignore[attr-defined]
    X_all, y_all = (torch.cat([pair[part] for pair in tensors]) for part in (0, 1))
    if clients[0].training.loss == "cross_entropy" and y_all.numel() and int(y_all.min()) < 0:
        raise ValueError("labels below 0")
    return X_all, y_all


def vector_of(model: Arrays, stack: StackOfSites) -> Array:
    """A model as one row.

    Raises:
        ValueError: it is not a model of this kernel's layout.
    """
    if model.layout != stack.layout:
        raise ValueError(f"the model is another one: {stack.layout.difference(model.layout)}")
    row = np.zeros(stack.width, stack.layout.specs[0].dtype)
    for part, array in zip(stack.slices, model.to_list(), strict=True):
        row[part] = array.reshape(-1)
    return row


def parts_of(stack: StackOfSites) -> list[slice]:
    """Where in a row the blocks lie that are added up: all of it where arrays follow without gaps, or each array."""
    ends = [part.stop for part in stack.slices]
    if [0, *ends[:-1]] == [part.start for part in stack.slices] and ends[-1] == stack.width:
        return [slice(0, stack.width)]
    return stack.slices


def split(blocks: Sequence[Array], layout: Layout) -> list[Array]:
    """Blocks as one flat array for each of the layout's."""
    if len(blocks) == len(layout.specs):
        return list(blocks)
    ends = np.cumsum([spec.size for spec in layout.specs])
    return np.split(blocks[0], ends[:-1])


def _as_array(value: Any) -> Array:
    return value if isinstance(value, np.ndarray) else np.asarray(value)
