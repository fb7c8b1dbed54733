"""PyTorch clients: state dicts as arrays, dtypes that numpy lacks, and training that repeats."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")

from hanse.clients.app import App  # noqa: E402
from hanse.clients.execute import Runtime  # noqa: E402
from hanse.clients.tensors import array_of_tensor, tensor_of_array  # noqa: E402
from hanse.clients.torch import arrays_of_module, load_into  # noqa: E402
from hanse.clients.torch import torch as torch_client  # noqa: E402
from hanse.core.arrays import Arrays  # noqa: E402
from hanse.core.codec import decode, encode  # noqa: E402
from hanse.core.errors import ConfigError  # noqa: E402
from hanse.core.ids import TaskId  # noqa: E402
from hanse.core.records import Task  # noqa: E402
from tests.unit.clients.federation import federate  # noqa: E402


def network() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.BatchNorm1d(8), torch.nn.ReLU(), torch.nn.Linear(8, 1))


def data(seed: int, shift: float) -> Any:
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((80, 2)) + shift).astype(np.float32)
    return X, (X.sum(axis=1, keepdims=True) > 0).astype(np.float32)


def train(module: Any, config: Any, site: Any) -> Any:
    X, y = (torch.from_numpy(part) for part in site.load("data"))
    optimiser = torch.optim.SGD(module.parameters(), lr=0.5)
    for rows in torch.randperm(len(X)).split(20):
        optimiser.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(module(X[rows]), y[rows])
        loss.backward()
        optimiser.step()
    return len(X), {"loss": loss.detach()}


def evaluate(module: Any, config: Any, site: Any) -> Any:
    assert not module.training
    X, y = (torch.from_numpy(part) for part in site.load("data"))
    return len(X), {"accuracy": ((module(X) > 0) == (y > 0)).float().mean()}


def app_of(**options: Any) -> App:
    app = App()
    app.client(lambda site: torch_client(network(), train, evaluate, **options))
    return app


def test_a_network_is_trained_over_sites_and_integer_buffers_travel() -> None:
    model, trained, evaluated = federate(app_of(), {"a": data(0, -1), "b": data(1, 1)}, rounds=15)
    assert model["1.num_batches_tracked"].dtype == np.int64
    assert model["1.num_batches_tracked"] == 60
    assert all(metrics["accuracy"] > 0.9 for metrics in evaluated.values())  # type: ignore[operator]
    assert type(trained["a"]["loss"]) is float


def test_a_new_worker_for_every_task_changes_no_bit() -> None:
    def run(fresh: bool) -> Arrays:
        runtime, model = None, None
        for number, call in enumerate(("parameters", "train", "train")):
            if runtime is None or fresh:
                runtime = Runtime(app_of(), site_name="a", load=lambda name: data(0, 0), log=print)
            task = Task(TaskId("j", "main", number, call, number), "a", call, seed=3)
            model = runtime.execute(task, model, None).arrays
            assert model is not None
            model = decode(encode(model))
        assert model is not None
        return model

    assert run(fresh=True) == run(fresh=False)


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "float8_e5m2", "float8_e4m3fn", "int64", "int32", "uint8"]
)
def test_tensors_become_arrays_and_come_back_bit_for_bit(dtype: str) -> None:
    tensor = torch.arange(-6, 6).reshape(3, 4).float().div(4).to(getattr(torch, dtype))
    array = array_of_tensor(tensor)
    assert array.dtype.name == dtype
    through_the_wire = decode(encode(Arrays({"t": array})))["t"]
    back = tensor_of_array(through_the_wire)
    assert back.dtype == tensor.dtype
    assert torch.equal(back.view(torch.uint8), tensor.view(torch.uint8))


def test_a_scalar_and_a_transposed_tensor_keep_their_shape() -> None:
    assert array_of_tensor(torch.tensor(3)).shape == ()
    turned = torch.arange(6).reshape(2, 3).T
    assert array_of_tensor(turned).tolist() == turned.tolist()


def test_a_bfloat16_module_takes_and_gives_bfloat16() -> None:
    module = torch.nn.Linear(3, 2).to(torch.bfloat16)
    arrays = arrays_of_module(module)
    assert arrays["weight"].dtype == ml_dtypes.bfloat16
    doubled = Arrays((name, np.asarray(array * 2, array.dtype)) for name, array in arrays.items())
    before = module.weight.detach().clone()
    load_into(module, doubled)
    assert torch.equal(module.weight, before * 2)


def test_bool_buffers_stay_at_the_site() -> None:
    module = torch.nn.Linear(2, 1)
    module.register_buffer("mask", torch.tensor([True, False]))
    assert list(arrays_of_module(module)) == ["weight", "bias"]
    load_into(module, arrays_of_module(module))
    assert module.mask.tolist() == [True, False]


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="differ in"):
        load_into(torch.nn.Linear(2, 1), Arrays({"weight": np.zeros((1, 2), np.float32)}))
    with pytest.raises(ConfigError, match="expected shape"):
        load_into(torch.nn.Linear(2, 1), Arrays({"weight": np.zeros((3, 2)), "bias": np.zeros(1)}))
    with pytest.raises(ConfigError, match="found int"):
        torch_client(3, train)


def test_without_an_evaluation_a_site_answers_no_examples() -> None:
    app = App()
    app.client(lambda site: torch_client(network(), train))
    _, _, evaluated = federate(app, {"a": data(0, 0)})
    assert evaluated["a"] == {}
