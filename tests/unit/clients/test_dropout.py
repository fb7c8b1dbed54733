"""Dropout from a counter: the same masks for a task, whoever was at work before it and whatever else was drawn."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from blake3 import blake3

torch = pytest.importorskip("torch", reason="torch is not installed (extra 'torch')")

import hanse as hs  # noqa: E402
from hanse.clients.dropout import Masks, drawing  # noqa: E402
from hanse.clients.execute import Runtime  # noqa: E402
from hanse.clients.threads import set_threads  # noqa: E402
from hanse.core.codec import encode  # noqa: E402
from hanse.core.ids import TaskId  # noqa: E402
from hanse.core.records import Task  # noqa: E402

nn, functional = torch.nn, torch.nn.functional
KEY = 0x1234_5678_9ABC_DEF0_0FED_CBA9


class Net(nn.Module):  # type: ignore[misc]  # torch's base class is untyped
    """Every kind of dropout that has masks of ours, as a layer or as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.convolve, self.channels = nn.Conv2d(1, 4, 3), nn.Dropout2d(0.4)
        self.out, self.drop = nn.Linear(4 * 4, 3), nn.Dropout(0.2, inplace=True)

    def forward(self, X: Any) -> Any:
        hidden = self.channels(self.convolve(X.view(-1, 1, 4, 4))).flatten(1)
        return self.out(self.drop(torch.dropout(functional.dropout(hidden, 0.1, self.training), 0.1, self.training)))


def data_of(site: str) -> Any:
    rng = np.random.default_rng(ord(site))
    X = rng.standard_normal((12, 16)).astype(np.float32)
    return X, X[:, :3].argmax(axis=1)


def declared(site: Any) -> Any:
    return hs.torch(Net, *data_of(site.name), loss="cross_entropy", optimizer=hs.SGD(0.1), batch_size=5, epochs=2)


def by_hand(site: Any) -> Any:
    X, y = (torch.from_numpy(part) for part in data_of(site.name))

    def train(module: Any, config: Any, site: Any) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), 0.1)
        for start in range(0, 12, 5):
            torch.rand(ord(site.name))  # augmentation, say
            optimiser.zero_grad()
            functional.cross_entropy(module(X[start : start + 5]), y[start : start + 5]).backward()
            optimiser.step()
        return len(y), {}

    return hs.torch(Net(), train)


def hashes(client: Any, sites: Sequence[str], rounds: Sequence[int] = (1, 2), attempt: int = 0) -> dict[Any, str]:
    """Of the updates of these sites, one after another in this process."""
    set_threads(1)
    app = hs.App()
    app.client(client)
    runtimes = {site: Runtime(app, site_name=site, load=lambda name: None, log=print) for site in sites}
    task = Task(TaskId("j", "main", 0, "parameters", 0), "a", "parameters", seed=7)
    model = Runtime(app, site_name="a", load=lambda name: None, log=print).execute(task, None, None).arrays
    found = {}
    for number in rounds:
        for site in sites:
            random.seed(len(found))
            task = Task(TaskId("j", "main", number, "train", 0), site, "train", seed=7, attempt=attempt)
            outcome = runtimes[site].execute(task, model, None)
            assert outcome.arrays is not None, outcome.reply.error
            found[site, number] = blake3(encode(outcome.arrays)).hexdigest()
    return found


@pytest.mark.parametrize("client", [declared, by_hand])
def test_a_cohort_forwards_reversed_and_after_others_has_the_same_updates(client: Any) -> None:
    forwards = hashes(client, "abc")
    assert len(set(forwards.values())) == 6
    torch.rand(1000)
    assert hashes(client, "cba") == forwards
    after = hashes(client, "xybcza", rounds=(2, 1))
    assert {key: after[key] for key in forwards} == forwards
    assert hashes(client, "a", attempt=1)["a", 1] != forwards["a", 1]


def test_masks_do_not_depend_on_what_else_is_drawn() -> None:
    X = torch.ones(40)
    drop = nn.Dropout(0.5)

    def drawn(others: int) -> Any:
        with Masks(lambda: KEY):
            torch.rand(others)
            return [drop(X).tolist() for _ in range(3)]

    first, second, third = drawn(0)
    assert drawn(17) == [first, second, third]
    assert first != second != third
    assert set(first) == {0.0, 2.0}


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept(p: float) -> None:
    """Of 200,000 elements; five standard deviations, which chance alone leaves in one of 1.7 million keys."""
    with Masks(lambda: KEY):
        kept = functional.dropout(torch.ones(200_000), p)
    assert abs((kept > 0).double().mean().item() - (1 - p)) < 5 * (p * (1 - p) / 200_000) ** 0.5
    assert kept.max().item() == pytest.approx(1 / (1 - p))


@pytest.mark.parametrize(
    ("function", "shape", "together"),
    [
        (functional.dropout1d, (6, 5, 9), 2),
        (functional.dropout1d, (30, 9), 1),
        (functional.dropout2d, (6, 5, 3, 3), 2),
        (functional.dropout3d, (6, 5, 3, 3, 2), 2),
        (functional.dropout3d, (30, 3, 3, 2), 1),
    ],
)
def test_channels_fall_together(function: Any, shape: tuple[int, ...], together: int) -> None:
    with Masks(lambda: KEY):
        kept = function(torch.ones(shape), 0.5).flatten(together)
    assert ((kept == 0).all(-1) | (kept == 2).all(-1)).all()
    assert 5 < (kept[..., 0] == 0).sum().item() < 25


def test_what_drops_nothing_takes_no_mask() -> None:
    X = torch.arange(4.0)
    masks = Masks(lambda: KEY)
    with masks:
        assert nn.Dropout(0.5).eval()(X) is X
        assert functional.dropout(X, 0.5, False).equal(X)
        assert nn.Dropout(0.0)(X).equal(X)
    assert masks.count == 0
    with masks:
        assert functional.dropout(X, 1.0).equal(torch.zeros(4))
        with pytest.raises(ValueError, match="between 0 and 1"):
            functional.dropout(X, 1.5)


def test_gradients_pass_where_values_do() -> None:
    X = torch.ones(50, requires_grad=True)
    with Masks(lambda: KEY):
        kept = functional.dropout(X, 0.25)
    kept.sum().backward()
    assert X.grad.equal(kept.detach())


def test_a_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Linear(3, 3))
    masks = Masks(lambda: KEY)
    with drawing(module, masks), pytest.raises(RuntimeError):
        module(torch.ones(2, 4))
    assert masks.count == 1
    module(torch.ones(2, 3))
    assert masks.count == 1
    assert not module._forward_hooks
    assert not module._forward_pre_hooks
