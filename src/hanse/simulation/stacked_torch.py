"""Many copies of one PyTorch module trained at once: stacked weights under `torch.func`.

The weights of a group are the rows of one tensor, of which each parameter is a view; `vmap` of the gradient of one
site's loss gives all gradients of a parameter as one tensor, and the optimizer is a few elementwise kernels a
parameter for the whole group. Measured on a CPU and slower by a fifth to a half: rows that are split into parameters
inside the function that is differentiated (one gradient, but put together in one more pass), and stacked leaves with
ordinary autograd on the sum of losses. Sites' gradients do not mix; the result is that of one site after another up
to rounding.

On CUDA a step's gradient is captured as a graph, one for each number of rows (rounded up), and replayed; examples go
into its fixed inputs. What cannot be stacked is told by `obstacle`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hanse.clients.flat import FlatModule, Place
from hanse.clients.tensors import imported
from hanse.clients.torch_optimizers import stepper_of
from hanse.clients.training import Stepper, Training
from hanse.core.arrays import Array
from hanse.simulation.ragged import Schedule

CACHE_BYTES = 5 << 20
"""Weights of one group on a CPU."""
GRAPH_ROWS = 8
"""On CUDA the active rows are rounded up to eighths of a group, so that few graphs are captured."""


class TorchStack:
    """Trains groups of one module, each from the same model.

    Args:
        module: the module, flat; in training mode while a group is trained.
        flat: its state: one vector, of which the first part is trained.
        training: what each does.
        size: sites in a group at most.
    """

    name = "torch"

    def __init__(self, module: Any, flat: FlatModule, training: Training, size: int) -> None:
        torch = imported()
        (buffer,) = flat.buffers
        trained = self._trained = len(buffer.grads)
        self.size, self.width, self._training, self._module = size, len(buffer.values), training, module
        self._values = buffer.values.new_empty((size, len(buffer.values)))
        places = sorted({place.start: place for place in reversed(flat.places)}.values(), key=lambda place: place.start)
        front = [place for place in places if place.stop <= trained]
        self._front = front
        self.layout = flat.arrays().layout
        self.slices = [slice(place.start, place.stop) for place in flat.places]
        self._parts = [self._values[:, p.start : p.stop].view(size, *p.shape) for p in front]
        self._steppers: list[Stepper] = [stepper_of(training.optimizer, part) for part in self._parts]
        gradient = torch.func.vmap(
            torch.func.grad_and_value(
                _loss_of_site(module, front, [place for place in places if place.stop > trained], training)
            ),
            in_dims=(0, None, 0, 0, 0),
        )
        is_cuda = buffer.values.device.type == "cuda"
        self._gradient: Callable[..., Any] = _Graphs(gradient, size) if is_cuda else gradient

    def train(
        self, model: Array, X: Any, y: Any, schedule: Schedule, *, lr: float, proximal_mu: float
    ) -> tuple[Array, Array]:
        """See `NumpyStack.train`; X and y are tensors."""
        torch = imported()
        values, device = self._values[: len(schedule.members)], self._values.device
        begin = torch.from_numpy(model).to(device)
        values.copy_(begin.expand_as(values))
        for stepper in self._steppers:
            stepper.begin(lr)
        self._module.train()
        places = torch.from_numpy(np.ascontiguousarray(schedule.places)).to(device)
        totals = torch.zeros(len(values), dtype=torch.float64, device=device)
        counts = torch.from_numpy(schedule.counts).to(device)
        rest = begin[self._trained :]
        starts = [begin[place.start : place.stop].view(place.shape) for place in self._front]
        dtype = np.dtype(str(self._values.dtype).removeprefix("torch."))
        with torch.no_grad():
            for step, k in enumerate(schedule.active):
                chosen = places[step, :k]
                X_batch = X.index_select(0, chosen.reshape(-1)).view(*chosen.shape, *X.shape[1:])
                y_batch = y.index_select(0, chosen.reshape(-1)).view(*chosen.shape, *y.shape[1:])
                share = torch.from_numpy(schedule.share(step, dtype)).to(device)
                parts = [part[:k] for part in self._parts]
                grads, losses = self._gradient(parts, rest, X_batch, y_batch, share)
                for stepper, part, first, grad in zip(self._steppers, parts, starts, grads, strict=True):
                    if proximal_mu:
                        grad.add_(part - first, alpha=proximal_mu)
                    stepper.step(part, grad)
                totals[:k] += losses.double() * counts[step, :k]
        return values.cpu().numpy(), totals.cpu().numpy()


def _loss_of_site(
    module: Any, front: Sequence[Place], behind: Sequence[Place], training: Training
) -> Callable[..., Any]:
    """`f(trained parameters, the rest of the model, X, y, share) -> loss` of one site's batch."""
    torch = imported()
    functional = torch.nn.functional
    offset = behind[0].start if behind else 0

    def loss_of_site(parts: Any, rest: Any, X: Any, y: Any, share: Any) -> Any:
        state = {place.name: part for place, part in zip(front, parts, strict=True)}
        for place in behind:
            state[place.name] = rest[place.start - offset : place.stop - offset].view(place.shape)
        output = torch.func.functional_call(module, state, (X,))
        if training.loss == "cross_entropy":
            losses = functional.cross_entropy(output, y, reduction="none")
        else:
            function = functional.mse_loss if training.loss == "mse" else functional.binary_cross_entropy_with_logits
            losses = function(output, y.view(output.shape), reduction="none").reshape(len(share), -1).mean(dim=1)
        return (losses * share).sum()

    return loss_of_site


class _Graphs:
    """A step's gradient as CUDA graphs, one for each rounded number of rows.

    Rows beyond the active ones compute something that nobody reads.
    """

    def __init__(self, gradient: Callable[..., Any], size: int) -> None:
        self._gradient, self._size = gradient, size
        self._graphs: dict[int, tuple[Any, list[Any], Any]] = {}

    def __call__(self, parts: list[Any], rest: Any, X: Any, y: Any, share: Any) -> Any:
        torch = imported()
        k, unit = len(X), max(1, self._size // GRAPH_ROWS)
        rows = min(-(-k // unit) * unit, self._size)
        given = [*parts, X, y, share]
        if rows not in self._graphs:
            fixed = [part.new_zeros((rows, *part.shape[1:])) for part in given]
            fixed_rest = rest.clone()
            call = (fixed[: len(parts)], fixed_rest, *fixed[len(parts) :])
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._gradient(*call)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = self._gradient(*call)
            self._graphs[rows] = graph, [*fixed, fixed_rest], outputs
        graph, fixed, (grads, losses) = self._graphs[rows]
        for target, part in zip(fixed, given, strict=False):
            target[:k].copy_(part)
        fixed[-1].copy_(rest)
        graph.replay()
        return [grad[:k] for grad in grads], losses[:k]


def fitting(flat: FlatModule) -> int:
    """How many sites are trained at a time: on a CPU what the cache holds, on CUDA what half of the free memory may.

    There a site is reckoned as eight times its weights: values, gradients twice, two moments, and activations. It is a
    guess; where memory runs out the group is halved.
    """
    buffer = flat.buffers[0]
    size_bytes: int = buffer.values.element_size() * buffer.values.numel()
    if buffer.values.device.type != "cuda":
        return CACHE_BYTES // size_bytes
    free, _ = imported().cuda.mem_get_info(buffer.values.device)
    return int(free // 2 // (8 * size_bytes))


def obstacle(module: Any, flat: FlatModule) -> str:
    """Why copies of a module cannot be trained at once; empty if nothing is known against it.

    What is found only by trying (control flow that depends on data, in-place writes) shows as an error of `train`.
    """
    nn = imported().nn
    if len(flat.buffers) != 1:
        return "its parameters and buffers are of several dtypes"
    if str(flat.buffers[0].values.dtype) not in ("torch.float32", "torch.float64"):
        return f"its parameters are {flat.buffers[0].values.dtype}"
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._NormBase) and part.track_running_stats:
            return "batch norm keeps statistics of what it saw"
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
            return "dropout would draw other masks than one by one"
        if isinstance(part, nn.RNNBase):
            return "recurrent layers have no stacked form"
    return ""
