"""One site's training in several processes, which are real here; against one process and against a reference."""

import signal
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")

import hanse as hs  # noqa: E402  # after the skip
from hanse.clients.client import Client  # noqa: E402
from hanse.clients.data_parallel import Share, helpers_of  # noqa: E402
from hanse.clients.execute import Outcome, Runtime  # noqa: E402
from hanse.clients.site import Site  # noqa: E402
from hanse.clients.threads import set_threads  # noqa: E402
from hanse.clients.training import order_of  # noqa: E402
from hanse.core.arrays import Arrays  # noqa: E402
from hanse.core.errors import ConfigError  # noqa: E402
from hanse.core.ids import TaskId  # noqa: E402
from hanse.core.records import Task  # noqa: E402

rng = np.random.default_rng(0)
X, y = rng.standard_normal((23, 6)).astype(np.float32), rng.integers(0, 3, 23)


def network() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def runtime(processes: int, **options: Any) -> Runtime:
    app = hs.App(rounds=1)

    @app.client
    def client(site: Any) -> Client:
        given = {"optimizer": hs.SGD(0.2, momentum=0.9), "epochs": 2, "batch_size": 5, **options}
        made: Client = hs.torch(network, X, y, loss="cross_entropy", processes=processes, **given)
        return made

    return Runtime(app, site_name="a", load=str, log=print)


def model() -> Arrays:
    torch.manual_seed(3)
    return Arrays((name, value.numpy()) for name, value in network().state_dict().items())


def task_of(round_: int, **config: Any) -> Task:
    return Task(TaskId("j", "main", round_, "train", round_), "a", "train", config=config)


def trained(where: Runtime, round_: int = 1, **config: Any) -> Outcome:
    return where.execute(task_of(round_, **config), model(), None)


def test_two_processes_do_what_one_does_up_to_rounding_and_always_the_same() -> None:
    """23 examples in batches of 5: shares of 3 and 2, and in the last batch of 2 and 1."""
    one, two = trained(runtime(1), proximal_mu=0.1), trained(runtime(2), proximal_mu=0.1)
    again = trained(runtime(2), proximal_mu=0.1)
    assert one.arrays is not None
    assert two.arrays is not None
    assert again.arrays == two.arrays
    for name, array in one.arrays.items():
        np.testing.assert_allclose(two.arrays[name], array, rtol=2e-5, atol=2e-6)
        assert np.abs(array - model()[name]).max() > 1e-3, "it has moved"
    assert two.reply.metrics["loss"] == pytest.approx(one.reply.metrics["loss"], rel=1e-5)


def in_turn(processes: int, mu: float, round_: int = 1) -> tuple[dict[str, Any], float]:
    """The formula of `delayed.py` in one process, with a copy of the parameters after every step."""
    site = Site("a", str, print)
    site.begin(task_of(round_), {})
    torch.set_num_threads(1)
    module = network()
    start = {name: torch.from_numpy(array.copy()) for name, array in model().items()}
    module.load_state_dict(start)
    optimiser = torch.optim.SGD(module.parameters(), 0.2, momentum=0.9)
    order = order_of(site.key("batches"), len(y), 2)
    batches = [epoch[at : at + 5] for epoch in order for at in range(0, len(y), 5)]
    after = [start]  # what the parameters are before step i
    total = 0.0
    for i, rows in enumerate(batches):
        at = i if i % processes == 0 else max(0, i - processes + 1)
        stale = network()
        stale.load_state_dict(after[at])
        loss = torch.nn.functional.cross_entropy(stale(torch.from_numpy(X[rows])), torch.from_numpy(y[rows]))
        loss.backward()
        total += loss.item() * len(rows)
        for (name, own), other in zip(module.named_parameters(), stale.parameters(), strict=True):
            own.grad = other.grad.add(own.detach() - start[name], alpha=mu) if mu else other.grad
        optimiser.step()
        after.append({name: value.clone() for name, value in module.state_dict().items()})
    return {name: value.numpy() for name, value in after[-1].items()}, total / order.size


@pytest.mark.parametrize("processes", [2, 3])
def test_asynchronous_processes_do_what_the_formula_says_to_the_bit(processes: int) -> None:
    """Ten batches, the fifth and tenth of three examples."""
    set_threads(1)
    where = runtime(processes, asynchronous=True)
    for mu, round_ in ((0.0, 1), (0.1, 2)):
        found = trained(where, round_, proximal_mu=mu)
        assert found.arrays is not None, found.reply.error
        expected, loss = in_turn(processes, mu, round_)
        for name, array in expected.items():
            assert found.arrays[name].tobytes() == array.tobytes(), (mu, name)
        assert found.reply.metrics["loss"] == pytest.approx(loss, rel=1e-6)
        alone = in_turn(1, mu, round_)[0]
        assert any(alone[name].tobytes() != array.tobytes() for name, array in expected.items()), "delays matter"


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_process_that_dies_is_one_failed_reply(asynchronous: bool) -> None:
    where = runtime(2, asynchronous=asynchronous)
    expected = trained(where)
    (process,) = helpers_of(network, 2)._processes
    process.send_signal(signal.SIGKILL)
    process.wait()
    failed = trained(where, 2).reply
    assert failed.error_kind == "raised"
    assert "one of the site's processes has ended (exit code -9)" in failed.error
    assert trained(where).arrays == expected.arrays


def test_shares_are_all_of_a_batch() -> None:
    rows = torch.arange(7)
    shares = [Share(rank, 3, None).of(rows).tolist() for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]]
    assert len(Share(2, 3, None).of(rows[:2])) == 0


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (network, {"processes": 0}, "processes: expected a whole number from 1"),
        (network, {"asynchronous": True}, "asynchronous: expected processes=2 or more"),
        (network, {"processes": 2, "device": "cpu"}, "on the CPU; found device="),
        (network(), {"processes": 2}, "found a module"),
        (lambda: network(), {"processes": 2}, "at the top level of a module file"),
    ],
)
def test_what_cannot_be_is_refused(module: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hs.torch(module, X, y, loss="cross_entropy", optimizer=hs.SGD(0.1), **options)
