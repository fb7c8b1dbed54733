"""Modules of a split network, made alike wherever they are made, and what is done with them. The one door to torch.

A network is declared as widths, or as a function that makes a module. What PyTorch draws (first weights, dropout) comes
from streams of its own, keyed by seed, role and step, so that the order in which roles run changes nothing.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from hanse.core.arrays import Array, Arrays
from hanse.core.errors import CodecError, ConfigError, MissingExtraError
from hanse.core.seeds import key_of
from hanse.vertical.split.settings import Settings

Bottom = tuple[int, ...] | Callable[[int], Any]
"""Widths of layers, each a linear one and a ReLU; or `f(num_columns) -> nn.Module` that gives `(rows, width)`."""
Top = tuple[int, ...] | Callable[[int, int], Any]
"""Widths of hidden layers before a last linear one; or `f(num_inputs, num_outputs) -> nn.Module`."""

MAX_WIDTH = 1 << 16


def imported() -> Any:
    """The module `torch`.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError("torch", "torch") from None
    return torch


@contextmanager
def drawing(seed: int, role: str, purpose: str, index: int = 0) -> Iterator[None]:
    """What PyTorch draws inside comes from this key; outside, it is as if nothing had been drawn."""
    torch = imported()
    before = torch.get_rng_state()
    try:
        key = key_of(seed, round_=index, site=role, purpose=f"vertical split {purpose}")
        torch.default_generator.manual_seed(key & 0x7FFF_FFFF_FFFF_FFFF)
        yield
    finally:
        torch.set_rng_state(before)


def made_bottom(bottom: Bottom, num_columns: int, seed: int, role: str) -> Any:
    """A bottom network with its first weights."""
    torch = imported()
    with drawing(seed, role, "bottom"):
        return _module(bottom(num_columns) if callable(bottom) else _layers(torch, num_columns, bottom), "bottom")


def made_top(top: Top, num_inputs: int, num_outputs: int, seed: int) -> Any:
    """The top network with its first weights."""
    torch = imported()
    with drawing(seed, "guest", "top"):
        if callable(top):
            return _module(top(num_inputs, num_outputs), "top")
        body = _layers(torch, num_inputs, top)
        return torch.nn.Sequential(*body, torch.nn.Linear(top[-1] if top else num_inputs, num_outputs))


def check_widths(name: str, network: Any) -> None:
    """Return if it is a function or widths.

    Raises:
        ConfigError: something else.
    """
    if callable(network):
        return
    least = 1 if name == "bottom" else 0
    if not (
        isinstance(network, tuple)
        and len(network) >= least
        and all(type(each) is int and 1 <= each <= MAX_WIDTH for each in network)
    ):
        raise ConfigError(
            f"{name}: expected widths from 1 to {MAX_WIDTH} as a tuple, or a function that makes a module"
        )


def _layers(torch: Any, num_inputs: int, widths: tuple[int, ...]) -> Any:
    layers: list[Any] = []
    for width in widths:
        layers += [torch.nn.Linear(num_inputs, width), torch.nn.ReLU()]
        num_inputs = width
    return torch.nn.Sequential(*layers)


def _module(found: Any, name: str) -> Any:
    if not isinstance(found, imported().nn.Module):
        raise ConfigError(f"{name}: expected a function that makes an nn.Module, found {type(found).__name__}")
    return found


def width_of(bottom: Any, num_columns: int, role: str) -> int:
    """How many numbers a bottom network gives for a row.

    Raises:
        ConfigError: not `(rows, width)`, or not float32.
    """
    torch = imported()
    was_training = bottom.training
    bottom.eval()
    with torch.no_grad():
        found = bottom(torch.zeros(2, num_columns))
    bottom.train(was_training)
    if found.ndim != 2 or len(found) != 2 or found.dtype != torch.float32 or not 1 <= found.shape[1] <= MAX_WIDTH:
        raise ConfigError(f"{role}: expected a bottom network that gives float32 (rows, width), found another shape")
    return int(found.shape[1])


def check_finite(module: Any) -> None:
    """Return if a training has ended with numbers.

    Raises:
        ConfigError: it diverged.
    """
    torch = imported()
    if not all(bool(torch.isfinite(each).all()) for each in module.state_dict().values() if each.is_floating_point()):
        raise ConfigError("training: expected finite weights at its end, found others; take a smaller learning rate")


def optimiser_of(module: Any, settings: Settings) -> Any:
    """PyTorch's optimiser for all parameters of a module."""
    torch = imported()
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.l2, "foreach": False}
    if settings.optimiser == "adam":
        return torch.optim.Adam(module.parameters(), **options)
    return torch.optim.SGD(module.parameters(), momentum=settings.momentum, **options)


def loss_of(settings: Settings, outputs: Any, response: Any) -> Any:
    """The mean loss of a chunk.

    Args:
        outputs, response: tensors `(rows, num_outputs)`; of classes 0 and 1.
    """
    functional = imported().nn.functional
    if settings.loss == "mse":
        return functional.mse_loss(outputs, response)
    if outputs.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(outputs, response)
    return functional.cross_entropy(outputs, response)


def clipped(embedding: Any, clip: float) -> Any:
    """Rows scaled down to a Euclidean norm of at most `clip`; 0: as they are."""
    if not clip:
        return embedding
    norms = embedding.norm(dim=1, keepdim=True)
    return embedding * (clip / norms.clamp_min(1e-30)).clamp_max(1.0)


def state_arrays(module: Any, prefix: str) -> dict[str, Array]:
    """A module's parameters and buffers as arrays of their own, `prefix` before their names."""
    return {f"{prefix}{name}": np.array(each.detach().numpy()) for name, each in module.state_dict().items()}


def progress_arrays(module: Any, optimiser: Any) -> dict[str, Array]:
    """Everything that training goes on from: a module's state, and what its optimiser remembers."""
    remembered = {
        f"optimiser/{at}/{name}": np.array(each.detach().numpy())
        for at, state in optimiser.state_dict()["state"].items()
        for name, each in state.items()
        if each is not None
    }
    return state_arrays(module, "module/") | remembered


def load_progress(module: Any, optimiser: Any, arrays: Mapping[str, Array] | Arrays) -> None:
    """Put back what `progress_arrays` gave.

    Raises:
        CodecError: arrays of another module.
    """
    torch = imported()
    load_state(module, arrays, "module/")
    found: dict[int, dict[str, Any]] = {}
    for name, each in arrays.items():
        kind, _, rest = name.partition("/")
        if kind == "optimiser":
            place, _, what = rest.partition("/")
            found.setdefault(int(place), {})[what] = torch.from_numpy(np.array(each))
    optimiser.load_state_dict({**optimiser.state_dict(), "state": found})


def load_state(module: Any, arrays: Mapping[str, Array] | Arrays, prefix: str) -> None:
    """Put arrays into a module.

    Raises:
        CodecError: other names, dtypes or shapes than the module's.
    """
    torch = imported()
    state = module.state_dict()
    found = {name.removeprefix(prefix): arrays[name] for name in arrays if name.startswith(prefix)}
    if found.keys() != state.keys():
        raise CodecError("model: expected the arrays of the declared network, found others")
    tensors = {name: torch.from_numpy(np.array(each)) for name, each in found.items()}
    if any(each.shape != state[name].shape or each.dtype != state[name].dtype for name, each in tensors.items()):
        raise CodecError("model: expected arrays of the declared network's shapes, found others")
    if not all(bool(torch.isfinite(each).all()) for each in tensors.values() if each.is_floating_point()):
        raise CodecError("model: expected finite arrays")
    module.load_state_dict(tensors)
