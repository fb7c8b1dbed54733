"""`hs.torch`: a PyTorch module as a client, with a training function of the user's or a declared training.

The declared one is in `torch_declared.py`; this is the other.

Averaged is the module's `state_dict`, by name: parameters and buffers, each in its own dtype (bfloat16 and the 8-bit
floats through ml-dtypes; integer buffers such as `num_batches_tracked` are averaged and rounded by the server). Bool
buffers cannot be averaged and stay as they are at each site. An optimiser made inside the training function starts
afresh in every round, as in FedAvg; state that must last belongs into `site.state`.

Tied parameters appear in a state dict under each of their names, with equal content.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, overload

from hanse.clients.client import Answer, Client, Config, taken_apart
from hanse.clients.dropout import Masks, drawing
from hanse.clients.site import Site
from hanse.clients.tensors import array_of_tensor, imported, tensor_of_array, travelling
from hanse.clients.training import Optimizer
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError

if TYPE_CHECKING:
    from hanse.clients.torch_declared import DeclaredTorch

Step = Callable[[Any, Config, Site], Any]


@overload
def torch(module: Any, train: Step, evaluate: Step | None = None, *, device: str | None = None) -> "TorchClient": ...


@overload
def torch(
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
) -> "DeclaredTorch": ...


def torch(module: Any, *parts: Any, device: str | None = None, **declared: Any) -> Any:
    """A client that trains `module`, with a function of yours or as declared.

    `hs.torch(module, train, evaluate)`:

    Args:
        module: an `nn.Module`. Its weights are replaced by the model's before each call, so only its architecture
            matters, except where this site is asked for initial parameters.
        train: `f(module, config, site) -> (num_examples, metrics)`; trains the module in place. Called in train mode.
        evaluate: the same for evaluation; called in eval mode without gradients. None: this site evaluates nothing.
        device: where the module is moved to, such as `cuda`; None leaves it where it is.

    `hs.torch(module, X, y, loss="cross_entropy", optimizer=hs.SGD(0.05))` declares the training instead:

    Args:
        module: an `nn.Module`, shared by all sites of this process that name it, or a function without arguments that
            makes one, which also gives initial parameters from the job's seed. Its state is moved into flat vectors.
        X, y: tensors or arrays, one example a row. Whole labels 0, 1, … for `cross_entropy`; 0 or 1 for
            `binary_cross_entropy`, whose module gives one logit; numbers for `mse`.
        loss: `cross_entropy`, `binary_cross_entropy` or `mse`, mean over a batch.
        optimizer: `hs.SGD(lr, …)` or `hs.Adam(lr, …)`; fresh in every round.
        epochs: passes over the site's examples in a round; `config["epochs"]` of a task overrides it, as
            `config["client_lr"]` does the learning rate.
        batch_size: examples of a step; the last batch of an epoch may be smaller.
        test: share of the examples held out for evaluation, or `(X, y)`; 0 evaluates nothing.
        seed: of the choice of what is held out.
        device: as above.
        processes: of the site, that train together: each takes a share of every batch, and gradients are summed by
            Gloo over loopback (on the CPU, for a function at the top level of a file). The same number gives the same
            bits.
        asynchronous: each process takes batches of its own instead, and the first applies their gradients in turn, so
            that a gradient is of parameters up to `processes` − 1 steps old. The same number gives the same bits.

    Raises:
        ConfigError: not a module, or an argument that is wrong, by name. MissingExtraError: torch is not installed.
    """
    if (
        len(parts) == 2
        and _SAID <= declared.keys() <= _SAID_OR_NOT
        and not callable(parts[0])
        and not callable(parts[1])
    ):
        return declaring()(module, *parts, device=device, **declared)
    if (parts and callable(parts[0])) or (parts[1:] and callable(parts[1])) or {"train", "evaluate"} & declared.keys():
        given = dict(zip(("train", "evaluate"), parts, strict=False)) | declared
        return TorchClient(
            module, **_named(given, "hs.torch(module, train, evaluate)", ["train"], ["evaluate"]), device=device
        )
    given = dict(zip(("X", "y"), parts, strict=False)) | declared
    if given.keys() <= {"X"}:
        raise ConfigError(
            "hs.torch: expected a training function, hs.torch(module, train), or a declared training, "
            f"hs.torch(module, X, y, loss=..., optimizer=...); found {type(given.get('X')).__name__} alone"
        )
    if not _NEEDED <= given.keys() <= _KNOWN:
        _named(given, "hs.torch(module, X, y, ...)", sorted(_NEEDED), sorted(_KNOWN - _NEEDED))
    return declaring()(module, device=device, **given)


_SAID = frozenset({"loss", "optimizer"})
_SAID_OR_NOT = _SAID | {"epochs", "batch_size", "test", "seed", "processes", "asynchronous"}
_NEEDED = _SAID | {"X", "y"}
_KNOWN = _SAID_OR_NOT | {"X", "y"}


@cache
def declaring() -> "Callable[..., DeclaredTorch]":
    """`declared_torch`, imported when it is first needed."""
    from hanse.clients.torch_declared import declared_torch

    return declared_torch


def _named(given: dict[str, Any], form: str, needed: Sequence[str], optional: Sequence[str]) -> dict[str, Any]:
    missing = [name for name in needed if name not in given]
    unknown = sorted(given.keys() - {*needed, *optional})
    if missing or unknown:
        found = f"{missing[0]} is missing" if missing else f"{unknown[0]} is not one of them"
        raise ConfigError(f"{form}: expected {', '.join((*needed, *optional))}; {found}")
    return given


class TorchClient(Client):
    """See `torch`."""

    def __init__(self, module: Any, train: Step, evaluate: Step | None = None, device: str | None = None) -> None:
        self._torch = imported()
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
        masks = Masks(lambda: site.key("dropout"))
        with _frozen(self.module, config.get("frozen", ())), drawing(self.module, masks):
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
    return Arrays((name, array_of_tensor(tensor)) for name, tensor in travelling(module))


def load_into(module: Any, arrays: Arrays) -> None:
    """Copy arrays into a module's parameters and buffers, by name.

    Raises:
        ConfigError: names or shapes that are not the module's.
    """
    tensors = dict(travelling(module))
    if tensors.keys() != arrays.keys():
        odd = sorted(tensors.keys() ^ arrays.keys())[:3]
        raise ConfigError(
            f"hs.torch: the model and this site's module differ in {', '.join(odd)}; use the same module at every site"
        )
    with imported().no_grad():
        for name, tensor in tensors.items():
            array = arrays[name]
            if tuple(tensor.shape) != array.shape:
                raise ConfigError(
                    f"hs.torch: {name}: expected shape {tuple(tensor.shape)} as in this site's module, "
                    f"found {array.shape}; use the same module at every site"
                )
            tensor.copy_(tensor_of_array(array))


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
