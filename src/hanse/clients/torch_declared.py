"""`hs.torch(module, X, y, loss=…, optimizer=…)`: a PyTorch module and a declared training as a client.

Sites of one process that name the same module (or the same function that makes it) share it and its flat vectors
(`flat.py`): a site costs its examples and nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from hanse.clients.client import Config
from hanse.clients.data_parallel import Helpers, helpers_of
from hanse.clients.declared import Declared
from hanse.clients.delayed import serve
from hanse.clients.dropout import Masks
from hanse.clients.flat import FlatModule, FlatTrainer
from hanse.clients.site import Site
from hanse.clients.tensors import imported
from hanse.clients.torch import arrays_of_module
from hanse.clients.training import Effort, Optimizer, Order, Training, training_of
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError

_MADE: WeakKeyDictionary[Any, dict[str | None, Any]] = WeakKeyDictionary()
"""Function that makes a module → device → the module that this process made with it."""

_NUMBERS = count()
"""Of this process's clients, by which other processes know their examples."""

_FLAT: WeakKeyDictionary[Any, FlatModule] = WeakKeyDictionary()
"""Module → its flat state, which does not hold the module."""


class DeclaredTorch(Declared):
    """See `hs.torch`.

    Args:
        module: an `nn.Module`, or a function (or class) without arguments that makes one.
    """

    def __init__(
        self,
        module: Any,
        X: Any,
        y: Any,
        training: Training,
        *,
        test: float | tuple[Any, Any],
        seed: int,
        device: str | None,
        processes: int = 1,
        asynchronous: bool = False,
    ) -> None:
        super().__init__(training, X, y, test, seed)
        self._torch = imported()
        is_module = isinstance(module, self._torch.nn.Module)
        if not is_module and not callable(module):
            raise ConfigError(
                f"hs.torch: expected an nn.Module or a function that makes one, found {type(module).__name__}"
            )
        self.source, self.device = module, device
        self._make: Callable[[], Any] | None = None if is_module else module
        if type(processes) is not int or not 1 <= processes <= 64:
            raise ConfigError(f"processes: expected a whole number from 1 to 64, found {str(processes)[:40]!r}")
        if processes > 1 and (is_module or device is not None):
            raise ConfigError(
                "processes: expected a function that makes the module, on the CPU; found "
                + ("a module" if is_module else f"device={str(device)[:40]!r}")
            )
        if asynchronous and processes == 1:
            raise ConfigError("asynchronous: expected processes=2 or more beside it, found 1")
        self.processes, self.asynchronous = processes, bool(asynchronous)
        self._helpers = helpers_of(module, processes) if processes > 1 else None
        self._number = next(_NUMBERS)

    @property
    def module(self) -> Any:
        """The module that this process trains with; of no site in particular."""
        if self._make is None:
            return self.source if self.device is None else self.source.to(self.device)
        made = _MADE.setdefault(self._make, {})
        if self.device not in made:
            made[self.device] = self._made()
        return made[self.device]

    def trainer(self, module: Any) -> FlatTrainer:
        """The trainer of a module."""
        flat = _FLAT.get(module)
        if flat is None:
            flat = _FLAT[module] = FlatModule(module)
        return flat.trainer(module, self.training)

    def tensors(self, data: tuple[Any, Any]) -> tuple[Any, Any]:
        """Examples as tensors on the module's device, targets in the dtype that the loss takes."""
        X, y = (_as_tensor(part, self._torch) for part in data)
        if self.training.loss == "cross_entropy":
            y = y.long()
        elif not y.is_floating_point():
            y = y.to(self._torch.get_default_dtype())
        return (X, y) if self.device is None else (X.to(self.device), y.to(self.device))

    def draws(self, call: str) -> bool:
        """See `Client`: not the training of a perceptron by hand (`flat_perceptron.py`), which calls no module."""
        size = self.training.batch_size
        has_single = size == 1 or len(self.y) % size == 1  # a batch of one example goes through the module
        if call != "train" or has_single or self.device is not None or self._helpers is not None:
            return True
        plain = self._torch.Tensor, np.ndarray
        if type(self) is not DeclaredTorch or type(self.X) not in plain or type(self.y) not in plain:
            return True
        module = self.source if self._make is None else _MADE.get(self._make, {}).get(None)
        flat = None if module is None else _FLAT.get(module)  # whoever makes the module may draw, too
        return flat is None or not flat.trainer(module, self.training).is_by_hand

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`: the weights of a module made anew from the job's seed, or those that it came with."""
        if self._make is not None:
            return arrays_of_module(self._made())
        module = self.module
        return self.trainer(module).flat.initial_arrays()

    def trained(self, arrays: Arrays, order: Order, effort: Effort, site: Site) -> tuple[Arrays, float]:
        """See `Declared`."""
        module = self.module
        trainer = self.trainer(module)
        trainer.flat.load(arrays, (site.round, site.phase))
        X, y = self.tensors((self.X, self.y))
        if self._helpers is None:
            loss = trainer.train(module, X, y, order, effort, Masks(lambda: site.key("dropout")))
        else:
            loss = self._together(self._helpers, module, arrays, (X, y), order, effort, site)
        return trainer.flat.arrays(), loss

    def _together(
        self,
        helpers: Helpers,
        module: Any,
        arrays: Arrays,
        data: tuple[Any, Any],
        order: Order,
        effort: Effort,
        site: Site,
    ) -> float:
        """Train with the other processes; see `data_parallel.py` and `delayed.py`.

        Raises:
            TaskError: one of them has ended.
        """
        training = self.training
        facts = {
            "loss": training.loss,
            "kind": type(training.optimizer).__name__,
            "optimizer": asdict(training.optimizer),
            "epochs": effort.epochs,
            "batch_size": training.batch_size,
            "lr": effort.lr,
            "proximal_mu": effort.proximal_mu,
            "frozen": effort.frozen,
            "key": site.key("processes"),
            "asynchronous": self.asynchronous,
        }
        share = helpers.begin(facts, arrays, effort.correction, order, self._number, *data)
        trainer, masks = self.trainer(module), Masks(lambda: site.key("dropout"))
        try:
            if self.asynchronous:
                return serve(trainer, module, *data, order, effort, masks, helpers.links)
            return trainer.train(module, *data, order, effort, masks, share)
        except (RuntimeError, EOFError, OSError) as error:
            raise helpers.broken(error) from error

    def measured(self, arrays: Arrays, data: tuple[Any, Any], site: Site) -> Mapping[str, float]:
        """See `Declared`."""
        module = self.module
        trainer = self.trainer(module)
        trainer.flat.load(arrays, (site.round, site.phase))
        return trainer.evaluate(module, *self.tensors(data))

    def _made(self) -> Any:
        assert self._make is not None
        module = self._make()
        if not isinstance(module, self._torch.nn.Module):
            raise ConfigError(f"hs.torch: expected the function to make an nn.Module, found {type(module).__name__}")
        return module if self.device is None else module.to(self.device)


def declared_torch(
    module: Any,
    X: Any,
    y: Any,
    *,
    loss: str,
    optimizer: Optimizer,
    epochs: int = 1,
    batch_size: int = 32,
    test: float | tuple[Any, Any] = 0.0,
    seed: int = 0,
    device: str | None = None,
    processes: int = 1,
    asynchronous: bool = False,
) -> DeclaredTorch:
    """See `hs.torch`."""
    training = training_of(loss, optimizer, epochs, batch_size)
    more: dict[str, Any] = {"processes": processes, "asynchronous": asynchronous}
    return DeclaredTorch(module, X, y, training, test=test, seed=seed, device=device, **more)


def _as_tensor(value: Any, torch: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value
    flags = getattr(value, "flags", None)
    return torch.as_tensor(value.copy() if flags is not None and not flags.writeable else value)
