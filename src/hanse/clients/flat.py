"""A PyTorch module whose state lives in flat vectors, and the steps of a declared training on them.

All parameters that are trained are views of one vector for each dtype, their gradients views of another, buffers and
frozen parameters lie behind them: giving a site the model is one copy, clearing gradients and stepping are one kernel
each, whatever the number of layers. Values are those of the same loop with `torch.optim`, bit for bit: elementwise
kernels do not care where an element lies, and the others find their operands aligned as they would be alone.

The module is shared by all sites of a process that declare it, one after another; between two of them nothing is left
but what `load` overwrites. This is not for functions of the user's (`torch.py`), whose module stays as it is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from hanse.clients.data_parallel import Share
from hanse.clients.dropout import Masks
from hanse.clients.flat_perceptron import gradients_of, is_perceptron, is_wide
from hanse.clients.tensors import array_of_tensor, imported, tensor_of_array, travelling
from hanse.clients.torch_optimizers import stepper_of
from hanse.clients.training import Effort, Order, Stepper, Training, quality_of
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError

ALIGNMENT = 64
"""Bytes: PyTorch's own tensors begin at multiples of it, and matrices that begin elsewhere may give other bits."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one entry of the state dict lies: elements `start` to `stop` of a vector."""

    name: str
    buffer: int
    start: int
    stop: int
    shape: tuple[int, ...]


@dataclass(slots=True)
class Buffer:
    """One vector of state.

    Args:
        values: `(n,)`.
        grads: `(trained,)`, the gradients of the first `trained` elements.
        model: `(n,)`, the values of the model that was loaded last.
    """

    values: Any
    grads: Any
    model: Any

    @property
    def trained(self) -> Any:
        """The trained part of `values`."""
        return self.values[: len(self.grads)]


class FlatModule:
    """The state of a module in flat vectors. Holds no reference to the module itself.

    Args:
        module: an `nn.Module`; its parameters and buffers become views, its gradients too.

    Raises:
        ConfigError: nothing in it can be trained.
    """

    def __init__(self, module: Any) -> None:
        torch = imported()
        tensors = dict(travelling(module, keep_vars=True))
        trained = {id(p) for p in module.parameters() if p.requires_grad and p.dtype.is_floating_point}
        if not trained:
            raise ConfigError("hs.torch: expected a module with parameters to train, found none")
        first: dict[int, str] = {}
        for name, tensor in tensors.items():
            first.setdefault(id(tensor), name)  # tied parameters lie once
        order = sorted(first.values(), key=lambda name: id(tensors[name]) not in trained)
        dtypes = list(dict.fromkeys((tensors[name].dtype, tensors[name].device) for name in order))
        self.buffers: list[Buffer] = []
        at: dict[str, tuple[int, int]] = {}
        for number, kind in enumerate(dtypes):
            names = [name for name in order if (tensors[name].dtype, tensors[name].device) == kind]
            room = {name: _padded(tensors[name]) for name in names}
            values = torch.zeros(sum(room.values()), dtype=kind[0], device=kind[1])
            size = sum(room[name] for name in names if id(tensors[name]) in trained)
            self.buffers.append(Buffer(values, torch.zeros_like(values[:size]), torch.zeros_like(values)))
            start = 0
            for name in names:
                at[name] = number, start
                _become_view(tensors[name], self.buffers[number], start, id(tensors[name]) in trained)
                start += room[name]
        self.places = [
            Place(name, *at[first[id(tensor)]], at[first[id(tensor)]][1] + tensor.numel(), tuple(tensor.shape))
            for name, tensor in tensors.items()
        ]
        self.initial = [buffer.values.clone() for buffer in self.buffers]
        self._loaded: tuple[Any, Arrays] | None = None
        self._lent: Arrays | None = None
        self._trainer: FlatTrainer | None = None

    def trainer(self, module: Any, training: Training) -> "FlatTrainer":
        """What trains this module as declared; kept while the declaration stays the same."""
        if self._trainer is None or self._trainer.training != training:
            self._trainer = FlatTrainer(self, module, training)
        return self._trainer

    def load(self, arrays: Arrays, when: object) -> None:
        """Set every value to the model's.

        Args:
            when: tells one model from the next where both are the same object, changed: the round and phase.

        Raises:
            ConfigError: names or shapes that are not the module's.
        """
        if self._loaded is None or self._loaded[1] is not arrays or self._loaded[0] != when:
            self._loaded = None
            self._check_fit(arrays)
            for place in self.places:
                target = self.buffers[place.buffer].model[place.start : place.stop]
                target.copy_(tensor_of_array(arrays[place.name]).reshape(-1))
            self._loaded = when, arrays
        for buffer in self.buffers:
            buffer.values.copy_(buffer.model)

    def arrays(self) -> Arrays:
        """The state by name. On the CPU the arrays are views of the vectors, the same object every time."""
        if self._lent is not None:
            return self._lent
        arrays = self._named([buffer.values for buffer in self.buffers])
        if all(buffer.values.device.type == "cpu" for buffer in self.buffers):
            self._lent = arrays
        return arrays

    def initial_arrays(self) -> Arrays:
        """The state that the module was made with."""
        return self._named([values.clone() for values in self.initial])

    def gradients_of(self, arrays: Mapping[str, Array]) -> list[Any]:
        """Arrays by name as vectors beside `Buffer.grads`; zero where a name is missing."""
        vectors = [imported().zeros_like(buffer.grads) for buffer in self.buffers]
        for place in self.places:
            if place.name in arrays and place.stop <= len(vectors[place.buffer]):
                vectors[place.buffer][place.start : place.stop].copy_(tensor_of_array(arrays[place.name]).reshape(-1))
        return vectors

    def _named(self, vectors: list[Any]) -> Arrays:
        host = [array_of_tensor(vector) for vector in vectors]
        arrays = Arrays((p.name, host[p.buffer][p.start : p.stop].reshape(p.shape)) for p in self.places)
        lies = [(p.buffer, p.start) for p in self.places]
        if lies == [(0, start) for start in accumulate((p.stop - p.start for p in self.places[:-1]), initial=0)]:
            return Arrays.end_to_end(arrays.layout, host[0][: arrays.layout.size])
        return arrays

    def _check_fit(self, arrays: Arrays) -> None:
        odd = sorted({place.name for place in self.places} ^ arrays.keys())[:3]
        if odd:
            raise ConfigError(
                f"hs.torch: the model and this site's module differ in {', '.join(odd)}; use the same module at every "
                "site"
            )
        for place in self.places:
            if arrays[place.name].shape != place.shape:
                raise ConfigError(
                    f"hs.torch: {place.name}: expected shape {place.shape} as in this site's module, "
                    f"found {arrays[place.name].shape}; use the same module at every site"
                )


def _padded(tensor: Any) -> int:
    """Elements that a tensor takes in a vector: what lies behind it begins where a tensor of its own would."""
    size: int = tensor.element_size()
    return -(-int(tensor.numel()) * size // ALIGNMENT) * ALIGNMENT // size


def _become_view(tensor: Any, buffer: Buffer, start: int, is_trained: bool) -> None:
    shape, stop = tensor.shape, start + tensor.numel()
    values = buffer.values[start:stop].view(shape)
    values.copy_(tensor.detach())
    tensor.data = values
    if is_trained:
        tensor.grad = buffer.grads[start:stop].view(shape)


@dataclass(frozen=True, slots=True)
class _Part:
    """The trained elements of one buffer, and what moves them."""

    number: int
    values: Any
    grads: Any
    model: Any
    stepper: Stepper


class FlatTrainer:
    """Runs a declared training on a module with flat state.

    Args:
        flat: the module's state.
        module: the module; it is given with every call and not kept.
        training: loss and optimizer.
    """

    def __init__(self, flat: FlatModule, module: Any, training: Training) -> None:
        self.flat, self.training = flat, training
        self.loss = loss_of(training.loss)
        self._parts = [
            _Part(number, buffer.trained, buffer.grads, buffer.model[: len(buffer.grads)], stepper)
            for number, buffer in enumerate(flat.buffers)
            if len(buffer.grads)
            for stepper in [stepper_of(training.optimizer, buffer.trained)]
        ]
        self._held: list[tuple[_Part, Place]] = []
        on_cpu = all(buffer.values.device.type == "cpu" for buffer in flat.buffers)
        by_hand = on_cpu and training.loss == "cross_entropy" and is_perceptron(module) and is_wide(module)
        self._by_hand = gradients_of(module) if by_hand else None

    @property
    def is_by_hand(self) -> bool:
        """Whether batches of several examples are trained without a call of the module."""
        return self._by_hand is not None

    def train(
        self, module: Any, X: Any, y: Any, order: Order, effort: Effort, masks: Masks, share: Share | None = None
    ) -> float:
        """Train from what was loaded.

        Args:
            X, y: tensors, one example a row.
            order: `(epochs, len(y))`.
            masks: of dropout. A module that takes none in its first step is left to PyTorch from then on.
            share: of every batch, where several processes train together.

        Returns:
            The mean loss over the examples of all steps, each before its step.
        """
        torch = imported()
        corrections = self.begin(module, effort)
        losses: list[Any] = []
        with torch.set_grad_enabled(self._by_hand is None):
            for rows in rows_of(order, self.training.batch_size, y.device):
                own = rows if share is None else share.of(rows)
                losses.append(self.gradients(module, X.index_select(0, own), y.index_select(0, own), masks))
                if share is not None:
                    losses[-1] = losses[-1] * (len(own) / len(rows))
                    for part in self._parts:
                        part.grads.mul_(len(own) / len(rows))
                        share.add_up(part.grads)
                self.step(effort, corrections)
        if share is not None:
            together = torch.stack(losses)
            share.add_up(together)
            losses = list(together)
        return _mean(losses, _counts(order.shape[1], self.training.batch_size) * len(order))

    @property
    def values(self) -> list[Any]:
        """The vectors that are trained."""
        return [part.values for part in self._parts]

    @property
    def grads(self) -> list[Any]:
        """Their gradients."""
        return [part.grads for part in self._parts]

    def begin(self, module: Any, effort: Effort) -> list[Any] | None:
        """Begin a training from what was loaded; the corrections for `step`."""
        for part in self._parts:
            part.stepper.begin(effort.lr)
        self._held = [
            (part, place)
            for place in (self.flat.places if effort.frozen else ())
            for part in self._parts
            if place.name in effort.frozen and place.buffer == part.number and place.stop <= len(part.grads)
        ]
        if not module.training:
            module.train()
        return self.flat.gradients_of(effort.correction) if effort.correction else None

    def step(self, effort: Effort, corrections: list[Any] | None) -> None:
        """Step by the gradients, what the strategy adds included."""
        for part in self._parts:
            if effort.proximal_mu:
                part.grads.add_(part.values - part.model, alpha=effort.proximal_mu)
            if corrections is not None:
                part.grads.add_(corrections[part.number])
            part.stepper.step(part.values, part.grads)
        for part, place in self._held:
            part.values[place.start : place.stop].copy_(part.model[place.start : place.stop])

    def gradients(self, module: Any, X: Any, y: Any, masks: Masks) -> Any:
        """Fill the gradients of the mean loss of a batch, which may be empty; answers that loss."""
        if not len(y):
            for part in self._parts:
                part.grads.zero_()
            return self._parts[0].grads.new_zeros(())
        if self._by_hand is not None and len(y) > 1:
            return self._by_hand(X, y)
        return self._by_autograd(module, X, y, masks)

    def _by_autograd(self, module: Any, X: Any, y: Any, masks: Masks) -> Any:
        for part in self._parts:
            part.grads.zero_()
        with imported().enable_grad():
            if masks.may_be_taken:
                with masks:
                    output = module(X)
            else:
                output = module(X)
            loss = self.loss(output, y)
        loss.backward()
        return loss.detach()

    def evaluate(self, module: Any, X: Any, y: Any, *, in_training_mode: bool = False) -> dict[str, float]:
        """Loss of what is loaded, and accuracy (or r² for `mse`); 1,024 examples at a time."""
        torch = imported()
        module.train(in_training_mode)
        losses, outputs = [], []
        with torch.no_grad():
            for start in range(0, len(y), 1024):
                output = module(X[start : start + 1024])
                losses.append(self.loss(output, y[start : start + 1024]))
                outputs.append(output)
        metrics = {"loss": _mean(losses, [len(output) for output in outputs])}
        metrics.update(quality_of(self.training.loss, array_of_tensor(torch.cat(outputs)), array_of_tensor(y)))
        return metrics


def loss_of(name: str) -> Callable[[Any, Any], Any]:
    """A loss of `LOSSES` on a module's output and targets, mean over the batch."""
    functional = imported().nn.functional
    if name == "cross_entropy":
        cross_entropy: Callable[[Any, Any], Any] = functional.cross_entropy
        return cross_entropy
    function = functional.mse_loss if name == "mse" else functional.binary_cross_entropy_with_logits
    return lambda output, target: function(output, target.view(output.shape))


def rows_of(order: Order, size: int, device: Any = None) -> Iterator[Any]:
    """The rows of every batch, in order."""
    rows = imported().from_numpy(order).to(device)
    for epoch in rows:
        for start in range(0, rows.shape[1], size):
            yield epoch[start : start + size]


def _counts(num_examples: int, size: int) -> list[int]:
    return [min(size, num_examples - start) for start in range(0, num_examples, size)]


def _mean(losses: list[Any], counts: list[int]) -> float:
    on_cpu = losses[0].device.type == "cpu"
    values: list[float] = [loss.item() for loss in losses] if on_cpu else imported().stack(losses).tolist()
    return sum(value * count for value, count in zip(values, counts, strict=True)) / sum(counts)
