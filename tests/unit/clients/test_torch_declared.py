"""Declared PyTorch trainings on flat vectors against the plain loop with `torch.optim`, bit for bit."""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")

import hanse as hs  # noqa: E402
from hanse.clients.app import App  # noqa: E402
from hanse.clients.dropout import Masks  # noqa: E402
from hanse.clients.execute import Runtime  # noqa: E402
from hanse.clients.flat import FlatModule  # noqa: E402
from hanse.clients.site import Site  # noqa: E402
from hanse.clients.training import Training, effort_of, order_of  # noqa: E402
from hanse.core.arrays import Arrays  # noqa: E402
from hanse.core.errors import ConfigError  # noqa: E402
from hanse.core.ids import TaskId  # noqa: E402
from hanse.core.records import Task  # noqa: E402
from hanse.core.seeds import seed_globals  # noqa: E402
from tests.unit.clients.federation import federate  # noqa: E402

nn = torch.nn


class Tied(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """Two names for one weight, a frozen one, and a parameter that is a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)
        self.scale = nn.Parameter(torch.tensor(0.5))
        self.out = nn.Linear(6, 3)

    def forward(self, X: Any) -> Any:
        return self.out(self.scale * self.second(self.first(X)).relu() + self.frozen)


MODULES = {
    "layers": lambda: nn.Sequential(nn.Linear(6, 17), nn.ReLU(), nn.Linear(17, 3)),
    "batch norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3)),
    "dropout": lambda: nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.3), nn.Linear(8, 3)),
    "tied": Tied,
    "mixed": lambda: nn.Sequential(nn.Linear(6, 8).double(), Single(), nn.Linear(8, 3)),
}


class Single(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """To float32."""

    def forward(self, X: Any) -> Any:
        return X.float()


class Counted(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """Dropout as the documentation says it, one element after another."""

    def __init__(self, p: float, key: int) -> None:
        super().__init__()
        self.p, self.key, self.calls = p, key, 0

    def forward(self, X: Any) -> Any:
        stream = np.random.Philox(key=self.key, counter=self.calls << 64)
        self.calls += 1
        kept = []
        while len(kept) < X.numel():
            word = int(stream.random_raw())
            kept += [(half >= self.p * 2**32) / (1 - self.p) for half in (word & 0xFFFF_FFFF, word >> 32)]
        return X * torch.tensor(kept[: X.numel()]).view(X.shape)


def optimiser_of(declared: Any, parameters: Any) -> Any:
    if isinstance(declared, hs.SGD):
        return torch.optim.SGD(
            parameters,
            declared.lr,
            declared.momentum,
            weight_decay=declared.weight_decay,
            nesterov=declared.nesterov,
        )
    betas = (declared.beta_1, declared.beta_2)
    return torch.optim.Adam(parameters, declared.lr, betas, declared.epsilon, declared.weight_decay)


def data(seed: int, count: int, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((count, 6)).astype(dtype)
    return X, X[:, :3].argmax(axis=1)


def task_of(site: str, number: int = 1, call: str = "train", **config: Any) -> Task:
    return Task(TaskId("j", "main", number, call, 0), site, call, seed=7, config=config)


def by_hand(module: Any, X: Any, y: Any, declared: Any, epochs: int, batch_size: int, site: str) -> Any:
    """The loop that a user would write, with the streams of the task."""
    place = Site(site, lambda name: None, print)
    place.begin(task_of(site), {})
    if isinstance(module[1] if isinstance(module, nn.Sequential) else module, nn.Dropout):
        module = nn.Sequential(module[0], Counted(module[1].p, place.key("dropout")), module[2])
    X, y = torch.from_numpy(X), torch.from_numpy(y)
    optimiser = optimiser_of(declared, [p for p in module.parameters() if p.requires_grad])
    seed_globals(place.key("globals"))
    losses = []
    for epoch in order_of(place.key("batches"), len(y), epochs):
        for start in range(0, len(y), batch_size):
            rows = torch.from_numpy(epoch[start : start + batch_size])
            optimiser.zero_grad()
            loss = nn.functional.cross_entropy(module(X[rows]), y[rows])
            loss.backward()
            optimiser.step()
            losses.append(loss.item() * len(rows))
    return module.state_dict(), sum(losses) / (epochs * len(y))


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    "declared",
    [
        hs.SGD(0.05),
        hs.SGD(0.05, momentum=0.9, weight_decay=0.01),
        hs.SGD(0.05, momentum=0.9, nesterov=True),
        hs.Adam(0.01),
        hs.Adam(0.01, beta_1=0.8, beta_2=0.95, epsilon=1e-6, weight_decay=0.1),
    ],
    ids=str,
)
def test_every_optimizer_gives_the_bits_of_torch_optim(name: str, declared: Any) -> None:
    X, y = data(1, 47, np.float64 if name == "mixed" else np.float32)
    torch.manual_seed(3)
    module, shared = MODULES[name](), MODULES[name]()
    shared.load_state_dict(module.state_dict())
    app = App()
    app.client(lambda site: hs.torch(shared, X, y, loss="cross_entropy", optimizer=declared, epochs=2, batch_size=10))
    runtime = Runtime(app, site_name="a", load=lambda name: None, log=print)
    model = runtime.execute(task_of("a", 0, "parameters"), None, None).arrays
    for _ in range(2):  # the second time begins from a used module
        outcome = runtime.execute(task_of("a"), model, None)
        assert outcome.reply.ok, outcome.reply.error
    expected, loss = by_hand(module, X, y, declared, 2, 10, "a")
    assert outcome.arrays is not None
    assert list(outcome.arrays) == list(expected)
    for key, tensor in expected.items():
        assert outcome.arrays[key].tobytes() == tensor.numpy().tobytes(), key
    assert outcome.reply.metrics["loss"] == pytest.approx(loss, rel=1e-6)


@settings(deadline=None, max_examples=60)
@given(
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    classes=st.integers(2, 40),
    count=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_gradients_by_hand_are_autograds_bit_for_bit(widths: list[int], classes: int, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    layers: list[Any] = []
    for fan_in, fan_out in pairwise([*widths, classes]):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])
    twin = copy.deepcopy(module)
    flat = FlatModule(twin)
    rng = np.random.default_rng(seed)
    X = torch.from_numpy(rng.standard_normal((count, widths[0])).astype(np.float32))
    y = torch.from_numpy(rng.integers(0, classes, count))
    training = Training("cross_entropy", hs.SGD(0.1), 1, count)
    flat.load(flat.initial_arrays(), 1)
    order = np.arange(count)[None]
    loss = flat.trainer(twin, training).train(twin, X, y, order, effort_of(training, {}), Masks(lambda: 0))
    expected = nn.functional.cross_entropy(module(X), y)
    expected.backward()
    torch.optim.SGD(module.parameters(), 0.1).step()
    assert loss == expected.item()
    for one, other in zip(module.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one.grad, other.grad)


def app_of(module: Any, **options: Any) -> App:
    app = App(seed=4)
    declared = {"loss": "cross_entropy", "optimizer": hs.SGD(0.1), "batch_size": 8} | options

    @app.client
    def client(site: Any) -> Any:
        return hs.torch(module, *site.load("data"), **declared)

    return app


def test_a_function_makes_one_module_and_initial_parameters_from_the_seed() -> None:
    made = []

    def network() -> Any:
        made.append(nn.Linear(6, 3))
        return made[-1]

    sites = {"a": data(0, 20), "b": data(1, 30)}
    first = federate(app_of(network), sites, rounds=2)[0]
    assert len(made) == 2  # one to train with, one for initial parameters
    torch.manual_seed(99)
    assert federate(app_of(lambda: nn.Linear(6, 3)), sites, rounds=2)[0] == first


def test_a_module_begins_every_run_as_it_came() -> None:
    module = nn.Linear(6, 3)
    sites = {"a": data(0, 20)}
    first = federate(app_of(module), sites, rounds=2)
    assert federate(app_of(module), sites, rounds=2)[0] == first[0]
    assert (
        federate(app_of(module, optimizer=hs.Adam()), sites, rounds=0)[0]
        == federate(app_of(module), sites, rounds=0)[0]
    )


def test_numpys_perceptron_is_the_same_model() -> None:
    module = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
    sites = {"a": data(0, 33), "b": data(1, 40)}
    options: dict[str, Any] = {"optimizer": hs.SGD(0.1, 0.9, 0.01), "epochs": 3, "batch_size": 8, "test": 0.25}
    with_torch = federate(app_of(module, **options), sites, rounds=3)
    app = App(initial=federate(app_of(module), sites, rounds=0)[0], seed=4)
    app.client(lambda site: hs.mlp(*site.load("data"), hidden=[9], classes=3, **options))
    with_numpy = federate(app, sites, rounds=3)
    for name, array in with_torch[0].items():
        assert np.allclose(with_numpy[0][name], array, rtol=1e-4, atol=1e-6)
    for torchs, numpys in zip(with_torch[1:], with_numpy[1:], strict=True):
        for site in sites:
            assert numpys[site] == pytest.approx(torchs[site], rel=1e-4)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "mse"])
def test_losses_of_numbers_agree_with_numpy(loss: str) -> None:
    X, _ = data(0, 40)
    sites = {"a": (X, (X.sum(axis=1) > 0).astype(np.int64 if loss == "mse" else np.float32))}
    options: dict[str, Any] = {"loss": loss, "optimizer": hs.Adam(0.05), "batch_size": 8, "test": 0.25}
    module = nn.Linear(6, 1)
    with_torch = federate(app_of(module, **options), sites, rounds=2)
    app = App(initial=federate(app_of(module, **options), sites, rounds=0)[0].to_list(), seed=4)
    app = App(initial=dict(zip(("0.weight", "0.bias"), app.initial_arrays.to_list(), strict=True)), seed=4)
    app.client(lambda site: hs.mlp(*site.load("data"), **options))
    with_numpy = federate(app, sites, rounds=2)
    for one, other in zip(with_torch[0].to_list(), with_numpy[0].to_list(), strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-6)
    assert with_numpy[1]["a"] == pytest.approx(with_torch[1]["a"], rel=1e-4)
    assert with_numpy[2]["a"] == pytest.approx(with_torch[2]["a"], rel=1e-3)


def test_the_sites_part_of_strategies_is_done() -> None:
    def corrected(gradient: float, mu: float) -> Arrays:
        bias = np.array([gradient, 0, 0], np.float32)
        config = {"correction": {"bias": bias}, "proximal_mu": mu, "wants": ["num_steps", "client_lr", "loss_before"]}
        client = hs.torch(nn.Linear(6, 3), *data(0, 24), loss="cross_entropy", optimizer=hs.SGD(0.1), batch_size=8)
        site = Site("a", lambda name: None, print)
        site.begin(task_of("a"), {})
        start = Arrays({"weight": np.zeros((3, 6), np.float32), "bias": np.zeros(3, np.float32)})
        answer = client.train(start, config, site)
        assert (answer.metrics["num_steps"], answer.metrics["client_lr"]) == (3, 0.1)
        assert answer.metrics["loss_before"] == pytest.approx(np.log(3), rel=1e-6)
        return Arrays({name: array.copy() for name, array in answer.arrays.items()})

    plain, pushed = corrected(0.0, 0.0), corrected(1.0, 0.0)
    assert pushed["bias"][0] < plain["bias"][0] - 0.2
    assert np.abs(corrected(0.0, 5.0)["bias"]).max() < np.abs(plain["bias"]).max()
    # μ = 1/η pulls all the way back before each step: what is left is the last step
    assert np.abs(corrected(0.0, 10.0)["weight"]).max() < np.abs(plain["weight"]).max() / 2


@pytest.mark.parametrize("optimizer", [hs.SGD(0.1, 0.9, 0.01), hs.Adam(0.05, weight_decay=0.1)], ids=repr)
@pytest.mark.parametrize("middle", [nn.ReLU, nn.Tanh])  # the first is trained by hand
def test_arrays_that_are_frozen_stay_and_the_rest_is_trained_over_them(optimizer: Any, middle: Any) -> None:
    X, y = data(2, 30)
    module = nn.Sequential(nn.Linear(6, 5), middle(), nn.Linear(5, 3))
    options: dict[str, Any] = {"optimizer": optimizer, "batch_size": 7, "epochs": 2}
    start = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items()}
    with torch.no_grad():
        features = module[:2](torch.from_numpy(X)).numpy()
    head = nn.Sequential(nn.Linear(5, 3))
    head.load_state_dict({"0.weight": module[2].weight, "0.bias": module[2].bias})
    expected = federate(app_of(head, **options), {"a": (features, y)})[0]
    found = federate(app_of(module, **options), {"a": (X, y)}, config={"frozen": ["0.weight", "0.bias"]})[0]
    assert found["0.weight"].tobytes() == start["0.weight"].tobytes()
    for part in ("weight", "bias"):
        np.testing.assert_allclose(found[f"2.{part}"], expected[f"0.{part}"], rtol=1e-4, atol=1e-6)
        assert not np.allclose(found[f"2.{part}"], start[f"2.{part}"])


def test_arrays_that_cannot_be_written_are_taken() -> None:
    X, y = data(0, 20)
    X.flags.writeable = y.flags.writeable = False
    federate(app_of(nn.Linear(6, 3)), {"a": (X, y)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: hs.torch(nn.Linear(6, 3)), "expected a training function"),
        (lambda: hs.torch(nn.Linear(6, 3), np.zeros(3)), "expected a training function"),
        (lambda: hs.torch(nn.Linear(6, 3), *data(0, 3)), "loss is missing"),
        (
            lambda: hs.torch(nn.Linear(6, 3), *data(0, 3), loss="mse", optimizer=hs.SGD(1), lr=3),
            "lr is not one of them",
        ),
        (lambda: hs.torch(nn.Linear(6, 3), *data(0, 0), loss="mse", optimizer=hs.SGD(1)), "at least one"),
        (lambda: hs.torch(3, *data(0, 3), loss="mse", optimizer=hs.SGD(1)), "a function that makes one, found int"),
        (lambda: hs.torch(nn.Linear(6, 3), print, loss="mse"), "loss is not one of them"),
        (
            lambda: federate(app_of(lambda: 3), {"a": data(0, 3)}),
            "expected the function to make an nn.Module, found int",
        ),
        (lambda: federate(app_of(nn.ReLU()), {"a": data(0, 3)}), "parameters to train, found none"),
    ],
)
def test_what_is_wrong_is_said(make: Any, message: str) -> None:
    with pytest.raises((ConfigError, AssertionError), match=message):
        make()


class Noisy(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """Draws from numpy's and PyTorch's global state whenever it is called."""

    def forward(self, X: Any) -> Any:
        return X + torch.rand(()) + np.random.random()


@pytest.mark.parametrize(
    ("module", "is_seeded"),
    [
        (nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)), False),
        (nn.Sequential(nn.Linear(6, 5), Noisy(), nn.Linear(5, 3)), True),
        (nn.Sequential(nn.Linear(6, 5), nn.LSTM(5, 3)), True),
    ],
)
def test_global_state_is_seeded_but_where_no_module_is_called(module: Any, is_seeded: bool) -> None:
    client = hs.torch(
        module, np.ones((9, 6), np.float32), np.zeros(9, int), loss="cross_entropy", optimizer=hs.SGD(0.1), batch_size=3
    )
    client.trainer(module)
    assert client.draws("train") is is_seeded
    assert client.draws("evaluate")
    assert client.draws("parameters")


def test_what_a_task_draws_does_not_depend_on_the_trainings_before_it() -> None:
    app = App(seed=5)

    @app.client
    def client(site: Any) -> Any:
        module = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) if site.name == "quiet" else noisy
        X = np.ones((9, 6), np.float32)
        return hs.torch(module, X, np.zeros(9, int), loss="cross_entropy", optimizer=hs.SGD(0.1), batch_size=3)

    noisy = nn.Sequential(nn.Linear(6, 5), Noisy(), nn.Linear(5, 3))
    model = Arrays({name: tensor.numpy().copy() for name, tensor in noisy.state_dict().items()})

    def trained(before: int) -> Any:
        quiet, loud = (
            Runtime(app, site_name=name, load=lambda _: None, log=lambda _: None) for name in ("quiet", "noisy")
        )
        loud.client(5)
        np.random.random(before)
        for place in range(before):
            task = Task(TaskId("job", "c", 1, "train", place), "quiet", "train", seed=5)
            assert quiet.execute(task, model, None).reply.ok
        return loud.execute(Task(TaskId("job", "c", 1, "train", 9), "noisy", "train", seed=5), model, None)

    alone, after = trained(0), trained(2)
    assert alone.reply.ok
    assert alone.arrays == after.arrays
    assert alone.reply.metrics == after.reply.metrics
