"""The batched engine on PyTorch modules: both kernels against one site after another, and what cannot be stacked."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")

import hanse as hs  # noqa: E402
from hanse.clients.app import App  # noqa: E402
from hanse.core.accelerators import CUBLAS_WORKSPACE, make_repeatable  # noqa: E402
from hanse.core.arrays import Arrays  # noqa: E402
from hanse.simulation.batched import Batched  # noqa: E402
from hanse.simulation.sequential import Sequential  # noqa: E402
from hanse.simulation.stacked_numpy import shape_of_sequential  # noqa: E402
from hanse.simulation.stacked_torch import _Graphs, obstacle  # noqa: E402
from hanse.simulation.stacks import _is_memory  # noqa: E402
from tests.unit.simulation.rounds import MEAN, batch_of, distance, places, play  # noqa: E402

nn = torch.nn


def perceptron() -> Any:
    return nn.Sequential(nn.Linear(64, 9), nn.ReLU(), nn.Linear(9, 3))


def convolution() -> Any:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)
    )


class Frozen(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """A frozen layer, a constant buffer, and one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.same, self.out = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 3)
        self.same.weight = self.first.weight
        self.frozen = nn.Linear(64, 64).requires_grad_(False)
        self.register_buffer("shift", torch.full((64,), 0.1))

    def forward(self, X: Any) -> Any:
        return self.out(self.same(self.frozen(self.first(X).relu()).relu()) + self.shift)


class Looks(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """Goes by what the data are."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(64, 3)

    def forward(self, X: Any) -> Any:
        return self.out(X) if X.sum() > 0 else self.out(2 * X)


def rows(seed: int, count: int) -> Any:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, 64)).astype(np.float32)
    return X, X[:, :3].argmax(axis=1)


def sites_of(sizes: list[int]) -> dict[str, Any]:
    return {f"s{n}": {"rows": rows(n, size)} for n, size in enumerate(sizes)}


def app_of(module: Any, **declared: Any) -> App:
    app = App()
    options: dict[str, Any] = {"loss": "cross_entropy", "optimizer": hs.SGD(0.05), "batch_size": 4} | declared

    @app.client
    def client(site: Any) -> Any:
        return hs.torch(module, *site.load("rows"), **options)

    return app


def model_of(app: App, sites: dict[str, Any]) -> Arrays:
    arrays = play(Sequential(places(app, sites)), batch_of(["s0"], None, call="parameters")).outcomes[0].arrays
    assert arrays is not None
    return arrays


@settings(deadline=None, max_examples=12)
@given(
    sizes=st.lists(st.integers(1, 15), min_size=1, max_size=7),
    epochs=st.integers(1, 2),
    batch_size=st.integers(1, 7),
    optimizer=st.sampled_from([hs.SGD(0.05), hs.SGD(0.05, 0.9, 0.01), hs.Adam(0.01)]),
    make=st.sampled_from([perceptron, convolution, Frozen]),
    kernel=st.sampled_from(["torch", "auto"]),
    mu=st.sampled_from([0.0, 0.5]),
)
def test_every_site_and_the_mean_are_those_of_the_sequential_engine(
    sizes: list[int], epochs: int, batch_size: int, optimizer: Any, make: Any, kernel: str, mu: float
) -> None:
    torch.manual_seed(1)
    app, sites = app_of(make(), epochs=epochs, batch_size=batch_size, optimizer=optimizer), sites_of(sizes)
    model = model_of(app, sites)
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model, config={"proximal_mu": mu}))
    said: list[str] = []
    engine = Batched(places(app, sites), kernel=kernel, group=4, say=said.append)
    found = play(engine, batch_of(list(sites), model, config={"proximal_mu": mu}))
    assert not said
    for position, outcome in expected.outcomes.items():
        other = found.outcomes[position]
        assert outcome.arrays is not None
        assert other.arrays is not None
        assert distance(other.arrays, outcome.arrays, model) < 1e-4
        assert other.reply.metrics["loss"] == pytest.approx(outcome.reply.metrics["loss"], rel=1e-4)
    summed = play(engine, batch_of(list(sites), model, summing=MEAN, config={"proximal_mu": mu}))
    assert summed.mean(model) == found.mean(model)


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
@pytest.mark.parametrize("kernel", ["torch", "numpy"])
def test_losses_of_numbers(loss: str, kernel: str) -> None:
    sites = {
        name: {"rows": (X, (y > 0).astype(np.float32))} for name, (X, y) in (("s0", rows(0, 9)), ("s1", rows(1, 6)))
    }
    app = app_of(nn.Sequential(nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 1)), loss=loss)
    model = model_of(app, sites)
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    found = play(Batched(places(app, sites), kernel=kernel, say=pytest.fail), batch_of(list(sites), model))
    assert distance(found.mean(model), expected.mean(model), model) < 1e-4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), "several dtypes|batch norm"),
        (lambda: nn.Sequential(nn.Linear(64, 4), nn.Dropout(0.5), nn.Linear(4, 3)), "dropout would draw"),
        (Looks, "data-dependent|vmap"),
    ],
)
def test_what_cannot_be_stacked_is_said_and_computed_alone(make: Any, reason: str) -> None:
    app, sites = app_of(make()), sites_of([8, 8, 8])
    model = model_of(app, sites)
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    said: list[str] = []
    engine = Batched(places(app, sites), say=said.append)
    for _ in range(2):
        found = play(engine, batch_of(list(sites), model, summing=MEAN))
        assert found.mean(model) == expected.mean(model)
    assert len(said) == 1
    assert re.search(reason, said[0]), said[0]
    assert "\n" not in said[0]


def test_a_label_that_is_none_is_named_at_its_site() -> None:
    app, sites = app_of(perceptron()), sites_of([8, 8])
    model = model_of(app, sites)
    for wrong in (-1, 3):
        sites["s1"]["rows"][1][0] = wrong
        for kernel in ("numpy", "torch"):
            found = play(
                Batched(places(app, sites), kernel=kernel, say=lambda line: None), batch_of(list(sites), model)
            )
            assert [bool(outcome.reply.error_kind) for outcome in found.outcomes.values()] == [False, True]


def test_only_plain_perceptrons_are_converted() -> None:
    def shape(module: Any) -> Any:
        from hanse.clients.flat import FlatModule

        return shape_of_sequential(module, FlatModule(module).arrays().layout)

    assert shape(perceptron()).widths == (64, 9, 3)
    assert shape(nn.Sequential(nn.Linear(4, 2))).widths == (4, 2)
    linear = nn.Linear(4, 4)
    hooked = perceptron()
    hooked[0].register_forward_hook(lambda *parts: None)
    frozen = perceptron()
    frozen[0].bias.requires_grad_(False)
    for other in (
        nn.Linear(4, 2),
        nn.Sequential(nn.Linear(4, 2), nn.ReLU()),
        nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 2)),
        nn.Sequential(nn.Linear(4, 2, bias=False)),
        nn.Sequential(linear, nn.ReLU(), linear),
        perceptron().to(torch.bfloat16),
        hooked,
        frozen,
    ):
        assert shape(other) is None


def test_recurrent_layers_and_half_precision_are_obstacles() -> None:
    from hanse.clients.flat import FlatModule

    for module, reason in ((nn.LSTM(3, 4), "recurrent"), (nn.Linear(3, 4).half(), "float16")):
        assert reason in obstacle(module, FlatModule(module))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: captured graphs are not tested here")
def test_graphs_on_cuda_are_the_sequential_engine_up_to_rounding() -> None:
    app, sites = app_of(convolution, device="cuda"), sites_of([9, 3, 12, 5, 5, 8])
    model = model_of(app, sites)
    expected = play(Sequential(places(app, sites)), batch_of(list(sites), model))
    found = play(Batched(places(app, sites), say=pytest.fail), batch_of(list(sites), model, summing=MEAN))
    assert distance(found.mean(model), expected.mean(model), model) < 1e-4


@pytest.mark.parametrize(("size", "captures"), [(8, 8), (16, 8), (4, 4)])
def test_graphs_are_captured_once_for_each_number_of_rows_and_fed_anew(
    size: int, captures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through stand-ins for CUDA's graphs, which compute on the captured tensors when they are replayed."""
    recording: list[Any] = []

    class Graph:
        def replay(self) -> None:
            (kept, lost), (grads, losses) = self.outputs, plain(*self.call)
            for target, value in zip([*kept, lost], [*grads, losses], strict=True):
                target.copy_(value)

    class Stream:
        def wait_stream(self, other: object) -> None:
            pass

    @contextmanager
    def capture(graph: Any) -> Iterator[None]:
        recording.append(graph)
        yield
        graph.call, graph.outputs = recording.pop()

    def loss(parts: Any, rest: Any, X: Any, y: Any, share: Any) -> Any:
        return (((X @ parts[0] + parts[1] + rest[0] - y) ** 2) * share).sum()

    plain = torch.func.vmap(torch.func.grad_and_value(loss), in_dims=(0, None, 0, 0, 0))

    def gradient(*call: Any) -> Any:
        outputs = plain(*call)
        if recording:
            recording[-1] = (call, outputs)
        return outputs

    cuda = SimpleNamespace(
        Stream=Stream, current_stream=Stream, stream=lambda stream: nullcontext(), CUDAGraph=Graph, graph=capture
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    graphs = _Graphs(gradient, size)
    numbers = torch.Generator().manual_seed(3)
    for k in [*range(size, 0, -1), *range(1, size + 1)]:
        parts = [torch.randn(k, 3, generator=numbers), torch.randn(k, 1, generator=numbers)]
        given = [torch.randn(*shape, generator=numbers) for shape in ((2,), (k, 5, 3), (k, 5), (k, 5))]
        (grads, losses), (expected, lost) = graphs(parts, *given), plain(parts, *given)
        torch.testing.assert_close([*grads, losses], [*expected, lost])
    assert len(graphs._graphs) == captures


def test_cuda_is_made_repeatable_by_names_that_torch_has() -> None:
    backends = torch.backends
    places = [
        (backends.cudnn, "deterministic", True),
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "allow_tf32", False),
        (backends.cuda.matmul, "allow_tf32", False),
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]
    before = [getattr(owner, name) for owner, name, _ in places]
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    try:
        make_repeatable(torch)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert [getattr(owner, name) for owner, name, _ in places] == [value for *_, value in places]
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (workspace or CUBLAS_WORKSPACE)
    finally:
        torch.use_deterministic_algorithms(False)
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_a_device_out_of_memory_halves_the_group() -> None:
    assert _is_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not _is_memory(RuntimeError("size mismatch"))
