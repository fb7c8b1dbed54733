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


def trained(where: Runtime, round_: int = 1, **config: Any) -> Outcome:
    task = Task(TaskId("j", "main", round_, "train", round_), "a", "train", config=config)
    return where.execute(task, model(), None)


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


def test_a_process_that_dies_is_one_failed_reply() -> None:
    where = runtime(2)
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
        (network, {"processes": 2, "device": "cpu"}, "on the CPU; found device="),
        (network(), {"processes": 2}, "found a module"),
        (lambda: network(), {"processes": 2}, "at the top level of a module file"),
    ],
)
def test_what_cannot_be_is_refused(module: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        hs.torch(module, X, y, loss="cross_entropy", optimizer=hs.SGD(0.1), **options)
