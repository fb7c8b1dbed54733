"""A local training that is declared instead of written: loss, optimizer, epochs, batch size. Plain values, no library.

`hs.torch(module, X, y, …)` and `hs.mlp(X, y, …)` take one. Since nothing in it is code, whoever runs it may choose how:
over flat buffers one site after another (`flat.py`, `mlp.py`), or many sites in one kernel (`simulation/batched.py`).

The order of examples belongs to the declaration, so that every way of running it takes the same batches: in epoch e
the examples are sorted by e-th row of random 64-bit words, drawn from the counter-based stream (seed, round, phase,
site, attempt, "batches"). Batches are cut from that order; the last one may be short.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError
from hanse.core.seeds import words

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse")
"""Each is the mean over a batch: softmax and log loss of whole labels; log loss of 0/1 labels of one logit; squares."""

Order = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SGD:
    """Stochastic gradient descent, step by step that of `torch.optim.SGD`.

    Args:
        lr: learning rate, > 0.
        momentum: 0 ≤ momentum < 1. Its memory starts afresh in every round.
        weight_decay: times the weights is added to the gradient, ≥ 0.
        nesterov: look ahead; needs momentum.

    Raises:
        ConfigError: a value out of range, by name.
    """

    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        _check("lr", self.lr, open_low=True)
        _check("momentum", self.momentum, below=1.0)
        _check("weight_decay", self.weight_decay)
        if self.nesterov and not self.momentum:
            raise ConfigError("nesterov: expected momentum above 0 beside it, found 0")

    @property
    def is_plain(self) -> bool:
        """Whether a step is −lr · gradient and nothing else, as SCAFFOLD's and q-FedAvg's formulas assume."""
        return not self.momentum and not self.weight_decay


@dataclass(frozen=True, slots=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015, Algorithm 1), step by step that of `torch.optim.Adam`; fresh in every round.

    Args:
        lr: learning rate, > 0.
        beta_1, beta_2: decay of the moments, 0 ≤ beta < 1.
        epsilon: added to the denominator, > 0.
        weight_decay: times the weights is added to the gradient, ≥ 0.

    Raises:
        ConfigError: a value out of range, by name.
    """

    lr: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check("lr", self.lr, open_low=True)
        _check("beta_1", self.beta_1, below=1.0)
        _check("beta_2", self.beta_2, below=1.0)
        _check("epsilon", self.epsilon, open_low=True)
        _check("weight_decay", self.weight_decay)

    @property
    def is_plain(self) -> bool:
        """See `SGD.is_plain`."""
        return False


Optimizer = SGD | Adam


class Stepper(Protocol):
    """An optimizer with its memory."""

    def begin(self, lr: float) -> None:
        """Forget what was, and step with this learning rate from here on."""

    def step(self, values: Any, grads: Any) -> None:
        """Move `values` in place; `grads` may be changed. Both are the first rows of what the stepper was made for."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a site does with its examples in one round.

    Args:
        loss: one of `LOSSES`.
        optimizer: fresh in every round.
        epochs: passes over the site's examples, ≥ 1.
        batch_size: examples of a step, ≥ 1.

    Raises:
        ConfigError: a value that is wrong, by name.
    """

    loss: str
    optimizer: Optimizer
    epochs: int = 1
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"loss: expected one of {', '.join(LOSSES)}; found {str(self.loss)[:60]!r}")
        if not isinstance(self.optimizer, SGD | Adam):
            raise ConfigError(
                f"optimizer: expected hs.SGD(lr) or hs.Adam(lr), found {type(self.optimizer).__name__}; for any other "
                "write a training function, hs.torch(module, train)"
            )
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value < 2**31:
                raise ConfigError(f"{name}: expected a whole number ≥ 1, found {str(value)[:40]!r}")


@dataclass(frozen=True, slots=True)
class Effort:
    """What one task asks of a declared training: the declaration, and what the strategy or the app's config changes.

    Args:
        lr: the declared one; `lr` (of `hs.App`) or, above it, `client_lr` of the task's config.
        epochs: the declared ones, or those of the config; of these the share that FedProx asks for as `work`, at least
            one.
        proximal_mu: μ of FedProx's term μ (w − w_received), added to every gradient.
        correction: added to every gradient, by the model's names (SCAFFOLD, FedDyn); empty for none.
        wants: metrics that the strategy must be told.
        frozen: names of arrays that must not move (FedRep).
    """

    lr: float
    epochs: int
    proximal_mu: float
    correction: Mapping[str, Array]
    wants: tuple[str, ...]
    frozen: tuple[str, ...] = ()

    @property
    def can_be_stacked(self) -> bool:
        """Whether many sites can do it at once: without arrays of their own or their loss beforehand."""
        return not self.correction and not self.frozen and "loss_before" not in self.wants


def effort_of(training: Training, config: Mapping[str, Any]) -> Effort:
    """Read a task's config.

    Raises:
        ConfigError: `lr`, `client_lr`, `epochs`, `work` or `proximal_mu` that are none, a metric that this training
            cannot say, or a loss that it cannot add (MOON).
    """
    named = next((name for name in ("client_lr", "lr") if name in config), "")
    lr, epochs = config[named] if named else training.optimizer.lr, config.get("epochs", training.epochs)
    mu, work = config.get("proximal_mu", 0.0), config.get("work", 1.0)
    _check(f"config: {named}", lr, open_low=True)
    _check("config: proximal_mu", mu)
    _check("config: work", work)
    if type(epochs) is not int or not 1 <= epochs < 2**31:
        raise ConfigError(f"config: epochs: expected a whole number ≥ 1, found {str(epochs)[:40]!r}")
    epochs = max(1, round(epochs * min(1.0, work)))
    if config.get("contrast_mu"):
        raise ConfigError(
            "declared training: expected a strategy that a declared training can do its part of, found MOON, which "
            "adds its own loss; write a training function with hs.contrast: hs.torch(module, train)"
        )
    wants = tuple(config.get("wants", ()))
    for name in wants:
        if name not in ("num_steps", "client_lr", "loss_before") or (
            name == "client_lr" and not training.optimizer.is_plain
        ):
            raise ConfigError(
                f"declared training: the strategy wants the metric {str(name)[:40]!r}, which this one cannot say; "
                "use hs.SGD without momentum and weight decay, or another strategy"
            )
    return Effort(float(lr), epochs, float(mu), config.get("correction", {}), wants, tuple(config.get("frozen", ())))


def wanted_metrics(effort: Effort, num_steps: int, loss_before: float | None) -> dict[str, float]:
    """What the strategy must know of a training (`Strategy.wants`)."""
    known = {"num_steps": num_steps, "client_lr": effort.lr, "loss_before": loss_before}
    return {name: value for name in effort.wants if (value := known[name]) is not None}


def steps_of(num_examples: int, batch_size: int, epochs: int) -> int:
    """Steps of a training."""
    return epochs * -(-num_examples // batch_size)


def order_of(key: int, num_examples: int, epochs: int) -> Order:
    """The order of examples, `(epochs, num_examples)`: see the module's text."""
    return words(key, epochs * num_examples).reshape(epochs, num_examples).argsort(axis=1, kind="stable")


def orders_of(keys: Sequence[int], sizes: Sequence[int], epochs: int) -> list[Order]:
    """`order_of` for many streams at once: the same numbers, one pass of Philox for all of them."""
    longest = max(sizes, default=0)
    if not longest:
        return [np.empty((epochs, 0), np.int64) for _ in keys]
    rows = philox_words(keys, epochs * longest)
    by_size: dict[int, list[int]] = {}
    for place, size in enumerate(sizes):
        by_size.setdefault(size, []).append(place)
    orders: list[Order] = [np.empty((epochs, 0), np.int64)] * len(keys)
    for size, places in by_size.items():
        if size:
            drawn = rows[places, : epochs * size].reshape(len(places), epochs, size).argsort(axis=2, kind="stable")
            for place, order in zip(places, drawn, strict=True):
                orders[place] = order
    return orders


def philox_words(keys: Sequence[int], count: int) -> npt.NDArray[np.uint64]:
    """The first `count` words of numpy's `Philox(key=key)` for each key, `(len(keys), count)`.

    Philox4x64 with ten rounds (Salmon et al., SC 2011, §4.2); numpy's counter is 1 for the first block.
    """
    blocks = -(-count // 4)
    k0 = np.array([key & _MASK64 for key in keys], np.uint64)[:, None]
    k1 = np.array([key >> 64 for key in keys], np.uint64)[:, None]
    shape = (len(keys), blocks)
    x0 = np.broadcast_to(np.arange(1, blocks + 1, dtype=np.uint64), shape)
    x1 = x2 = x3 = np.zeros(shape, np.uint64)
    with np.errstate(over="ignore"):
        for _ in range(10):
            high0, low0 = _product(_M0, x0)
            high2, low2 = _product(_M1, x2)
            x0, x1, x2, x3 = high2 ^ x1 ^ k0, low2, high0 ^ x3 ^ k1, low0
            k0, k1 = k0 + _W0, k1 + _W1
    return np.stack([x0, x1, x2, x3], axis=2).reshape(len(keys), -1)[:, :count]


_MASK64 = (1 << 64) - 1
_M0, _M1 = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_W0, _W1 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_LOW32, _32 = np.uint64(0xFFFFFFFF), np.uint64(32)


def _product(a: np.uint64, b: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """High and low words of a 128-bit product, by halves."""
    a_low, a_high, b_low, b_high = a & _LOW32, a >> _32, b & _LOW32, b >> _32
    middle = a_high * b_low + ((a_low * b_low) >> _32)
    other = a_low * b_high + (middle & _LOW32)
    return a_high * b_high + (middle >> _32) + (other >> _32), a * b


def quality_of(loss: str, scores: Array, y: Array) -> dict[str, float]:
    """`accuracy` of the largest (or the positive) score; `r2` for `mse` where the targets vary."""
    if loss == "cross_entropy":
        return {"accuracy": float((scores.argmax(axis=1) == y).mean())}
    y = y.reshape(scores.shape).astype(np.float64)
    if loss == "binary_cross_entropy":
        return {"accuracy": float(((scores > 0) == (y > 0.5)).mean())}
    spread = float(((y - y.mean(axis=0)) ** 2).sum())
    return {"r2": 1 - float(((scores - y) ** 2).sum()) / spread} if spread else {}


def training_of(loss: str, optimizer: Optimizer, epochs: int = 1, batch_size: int = 32) -> Training:
    """`Training(...)`, made and checked once: every site of a simulation declares the same."""
    try:
        return _training_of(loss, optimizer, epochs, batch_size)
    except TypeError:  # something that has no hash, and is no loss or optimizer either
        return Training(loss, optimizer, epochs, batch_size)


@lru_cache(maxsize=64, typed=True)
def _training_of(loss: str, optimizer: Optimizer, epochs: int, batch_size: int) -> Training:
    return Training(loss, optimizer, epochs, batch_size)


def held_out(num_examples: int, share: float, seed: int) -> tuple[Order, Order] | None:
    """Places of the training and of the test part, sorted; None where nothing is held out.

    Raises:
        ConfigError: `share` is not from 0 to below 1.
    """
    if type(share) not in (int, float) or not 0 <= share < 1:
        raise ConfigError(f"test: expected a share from 0 to below 1, or (X, y); found {str(share)[:40]}")
    if not share:
        return None
    count = math.ceil(share * num_examples)
    if not 0 < count < num_examples:
        return None
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(num_examples)
    return np.sort(order[count:]), np.sort(order[:count])


def _check(name: str, value: Any, *, below: float = math.inf, open_low: bool = False) -> None:
    if type(value) is float and 0 <= value < below and (value or not open_low):  # nearly always
        return
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if number and 0 <= value < below and not (open_low and value == 0):
        return
    limit = "" if below == math.inf else f" and below {below:g}"
    raise ConfigError(f"{name}: expected a number {'above 0' if open_low else 'from 0'}{limit}, found {value!r}"[:200])
