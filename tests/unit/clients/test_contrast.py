"""MOON's loss, and personalised strategies with PyTorch modules."""

import math
from typing import Any

import numpy as np
import pytest

import hanse as hs

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")

X = torch.arange(12, dtype=torch.float32).reshape(4, 3) / 7 - 0.6
Y = torch.tensor([0, 1, 1, 0])


def module_of(seed: int) -> Any:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))


def represent(module: Any, x: Any) -> Any:
    return module[:-1](x)


def arrays_of(module: Any) -> hs.Arrays:
    return hs.Arrays((name, tensor.numpy().copy()) for name, tensor in module.state_dict().items())


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def test_the_loss_is_equation_3() -> None:
    module, previous = module_of(0), module_of(1)
    config = {"previous": arrays_of(previous), "contrast_mu": 0.7, "temperature": 0.4}
    received = represent(module, X).tolist()
    extra = hs.contrast(module, config, represent)
    with torch.no_grad():
        for parameter in module.parameters():  # it has moved since
            parameter += 0.3
    found = extra(X)
    losses = []
    for z, z_glob, z_prev in zip(represent(module, X).tolist(), received, represent(previous, X).tolist(), strict=True):
        near, far = math.exp(cosine(z, z_glob) / 0.4), math.exp(cosine(z, z_prev) / 0.4)
        losses.append(-math.log(near / (near + far)))
    assert float(found.detach()) == pytest.approx(0.7 * sum(losses) / len(losses), rel=1e-5)
    found.backward()
    assert module[0].weight.grad.abs().max() > 0
    assert module[2].weight.grad is None, "the classifier has no part in it"


def test_at_first_it_pulls_nowhere_and_under_other_strategies_it_is_zero() -> None:
    module = module_of(0)
    config = {"previous": arrays_of(module), "contrast_mu": 1.0, "temperature": 0.5}
    extra = hs.contrast(module, config, represent)
    with torch.no_grad():
        module[0].weight += 0.2
    loss = extra(X)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(math.log(2))
    assert module[0].weight.grad.abs().max() < 1e-7
    assert float(hs.contrast(module, {}, represent)(X)) == 0.0


def simulated(strategy: hs.Strategy, make: Any = module_of) -> tuple[Any, dict[str, list[Any]]]:
    app = hs.App(strategy, rounds=3, seed=1)
    seen: dict[str, list[Any]] = {}

    @app.client
    def client(site: Any) -> Any:
        return hs.torch(make(5), train, evaluate)

    def train(module: Any, config: Any, site: Any) -> Any:
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.3)
        extra = hs.contrast(module, config, represent)
        seen.setdefault(f"{site.name}/requires", []).append([p.requires_grad for p in module.parameters()])
        shift = 1.0 if site.name == "a" else -1.0
        for _ in range(3):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(X + shift), Y) + extra(X + shift)
            loss.backward()
            optimizer.step()
        return len(Y), {"loss": float(loss.detach())}

    def evaluate(module: Any, config: Any, site: Any) -> Any:
        seen.setdefault(site.name, []).append(arrays_of(module))
        return len(Y), {"loss": 0.0}

    return hs.simulate(app, ["a", "b"], progress=False), seen


def test_moon_moves_the_model_elsewhere_than_fedavg() -> None:
    moon, fedavg = simulated(hs.Moon(mu=5.0))[0], simulated(hs.FedAvg())[0]
    none = simulated(hs.Moon(mu=0.0))[0]
    for name, array in fedavg.arrays.items():
        np.testing.assert_array_equal(none.arrays[name], array)
    assert any(not np.allclose(moon.arrays[name], array, atol=1e-4) for name, array in fedavg.arrays.items())


def test_normalising_layers_stay_at_home() -> None:
    def make(seed: int) -> Any:
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2))

    result, seen = simulated(hs.FedBN(home="1.*"), make)
    assert list(result.arrays) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    a, b = seen["a"][-1], seen["b"][-1]
    np.testing.assert_array_equal(a["0.weight"], b["0.weight"])
    assert np.abs(a["1.running_mean"] - b["1.running_mean"]).max() > 0.1
    assert a["1.num_batches_tracked"] == b["1.num_batches_tracked"] == 9


def test_fedrep_freezes_what_must_not_move() -> None:
    result, seen = simulated(hs.FedRep(home="2.*"))
    assert seen["a/requires"] == [[False, False, True, True], [True, True, False, False]] * 3
    assert list(result.arrays) == ["0.weight", "0.bias"]
    assert np.abs(seen["a"][-1]["2.weight"] - seen["b"][-1]["2.weight"]).max() > 1e-3
