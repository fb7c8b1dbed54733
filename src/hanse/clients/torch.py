"""`hs.torch`: a PyTorch module and a training function as a client.

Averaged is the module's `state_dict`, by name: parameters and buffers, each in its own dtype (bfloat16 and the 8-bit
floats through ml-dtypes; integer buffers such as `num_batches_tracked` are averaged and rounded by the server). Bool
buffers cannot be averaged and stay as they are at each site. An optimiser made inside the training function starts
afresh in every round, as in FedAvg; state that must last belongs into `site.state`.

Tied parameters appear in a state dict under each of their names, with equal content.
"""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import numpy as np

from hanse.clients.client import Answer, Client, Config, taken_apart
from hanse.clients.site import Site
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError, MissingExtraError, UpdateError

Step = Callable[[Any, Config, Site], Any]

# torch's dtypes that numpy lacks, by name: as which integers their bits pass, and what ml-dtypes calls them
_BITS = {
    "torch.bfloat16": ("int16", np.dtype(ml_dtypes.bfloat16)),
    "torch.float8_e5m2": ("uint8", np.dtype(ml_dtypes.float8_e5m2)),
    "torch.float8_e4m3fn": ("uint8", np.dtype(ml_dtypes.float8_e4m3fn)),
}


def torch(module: Any, train: Step, evaluate: Step | None = None, *, device: str | None = None) -> "TorchClient":
    """A client that trains `module`.

    Args:
        module: an `nn.Module`. Its weights are replaced by the model's before each call, so only its architecture
            matters, except where this site is asked for initial parameters.
        train: `f(module, config, site) -> (num_examples, metrics)`; trains the module in place. Called in train mode.
        evaluate: the same for evaluation; called in eval mode without gradients. None: this site evaluates nothing.
        device: where the module is moved to, such as `cuda`; None leaves it where it is.

    Raises:
        ConfigError: not a module. MissingExtraError: torch is not installed.
    """
    return TorchClient(module, train, evaluate, device)


class TorchClient(Client):
    """See `torch`."""

    def __init__(self, module: Any, train: Step, evaluate: Step | None, device: str | None) -> None:
        self._torch = _imported()
        if not isinstance(module, self._torch.nn.Module):
            raise ConfigError(f"hs.torch: expected an nn.Module, found {type(module).__name__}")
        for name, function in (("train", train), ("evaluate", evaluate)):
            if not callable(function) and not (name == "evaluate" and function is None):
                raise ConfigError(f"hs.torch: {name}: expected a function, found {type(function).__name__}")
        self.module = module if device is None else module.to(device)
        self._train, self._evaluate = train, evaluate

    def parameters(self, config: Config, site: Site) -> Any:
        """See `Client`: the module's weights as they were made, from the job's seed."""
        return arrays_of_module(self.module)

    def train(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        load_into(self.module, arrays)
        self.module.train()
        with _frozen(self.module, config.get("frozen", ())):
            made = self._train(self.module, config, site)
        answer = taken_apart(made, 2, "train to return (num_examples, metrics)")
        return Answer(arrays_of_module(self.module), *answer)

    def evaluate(self, arrays: Arrays, config: Config, site: Site) -> Answer:
        """See `Client`."""
        if self._evaluate is None:
            return Answer(None, 0, {})
        load_into(self.module, arrays)
        self.module.eval()
        with self._torch.no_grad():
            made = self._evaluate(self.module, config, site)
        return Answer(None, *taken_apart(made, 2, "evaluate to return (num_examples, metrics)"))


def arrays_of_module(module: Any) -> Arrays:
    """A module's state dict, without bool buffers. On the CPU the arrays share the module's memory."""
    return Arrays((name, array_of_tensor(tensor)) for name, tensor in _travelling(module))


def load_into(module: Any, arrays: Arrays) -> None:
    """Copy arrays into a module's parameters and buffers, by name.

    Raises:
        ConfigError: names or shapes that are not the module's.
    """
    tensors = dict(_travelling(module))
    if tensors.keys() != arrays.keys():
        odd = sorted(tensors.keys() ^ arrays.keys())[:3]
        raise ConfigError(
            f"hs.torch: the model and this site's module differ in {', '.join(odd)}; use the same module at every site"
        )
    with _imported().no_grad():
        for name, tensor in tensors.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise ConfigError(
                    f"hs.torch: {name}: expected shape {tuple(tensor.shape)} as in this site's module, "
                    f"found {array.shape}; use the same module at every site"
                )
            tensor.copy_(tensor_of_array(array))


def array_of_tensor(tensor: Any) -> Array:
    """A tensor as an array; without a copy where it is contiguous and on the CPU.

    Raises:
        UpdateError: a dtype that numpy and ml-dtypes lack.
    """
    tensor = tensor.detach().cpu().contiguous()
    bits = _BITS.get(str(tensor.dtype))
    try:
        if bits is None:
            return np.asarray(tensor.numpy())
        return np.asarray(tensor.view(getattr(_imported(), bits[0])).numpy()).view(bits[1])
    except TypeError:
        raise UpdateError(f"hs.torch: expected a dtype that numpy or ml-dtypes has, found {tensor.dtype}") from None


def tensor_of_array(array: Array) -> Any:
    """An array as a tensor to read from: it shares the memory of a writable array, and copies any other."""
    source = array if array.flags.writeable else array.copy()
    for name, (integers, dtype) in _BITS.items():
        if source.dtype == dtype:
            torch_ = _imported()
            return torch_.from_numpy(source.view(integers)).view(getattr(torch_, name.removeprefix("torch.")))
    return _imported().from_numpy(source)


@contextmanager
def _frozen(module: Any, names: Collection[str]) -> Iterator[None]:
    """Parameters that get no gradient, as `hs.FedRep` wants it."""
    held = [parameter for name, parameter in module.named_parameters() if name in names and parameter.requires_grad]
    for parameter in held:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad_(True)


def _travelling(module: Any) -> list[tuple[str, Any]]:
    return [(name, tensor) for name, tensor in module.state_dict().items() if str(tensor.dtype) != "torch.bool"]


def _imported() -> Any:
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    return torch
