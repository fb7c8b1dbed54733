"""The app's server side: what it may return, and that its failures say no more than a site's."""

import random
from typing import Any

import numpy as np
import pytest

from hanse.clients.app import App
from hanse.clients.server import ServerRuntime, StrategyContext
from hanse.core.arrays import Arrays
from hanse.core.errors import TaskError
from hanse.strategies.fedadam import FedAdam
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.feddyn import FedDyn
from hanse.strategies.scaffold import Scaffold


def app_with(**functions: Any) -> App:
    app = App(seed=1)
    app.client(lambda site: None)
    for name, function in functions.items():
        getattr(app, name)(function)
    return app


def test_config_and_evaluation_give_plain_values() -> None:
    runtime = ServerRuntime(
        app_with(
            config=lambda round, site: {"lr": np.float32(0.5) / round, "site": site},
            evaluate_on_server=lambda arrays, round: {"loss": arrays["w"].sum(), "round": round},
        )
    )
    assert runtime.config(2, "a") == {"lr": 0.25, "site": "a"}
    assert runtime.evaluate(Arrays({"w": np.ones(3)}), 4) == {"loss": 3.0, "round": 4}


def test_without_functions_there_is_nothing_to_say() -> None:
    runtime = ServerRuntime(app_with())
    assert runtime.config(1, "a") == {}
    assert runtime.evaluate(Arrays({"w": np.ones(3)}), 1) == {}


def test_a_repeated_call_draws_the_same_numbers() -> None:
    runtime = ServerRuntime(app_with(config=lambda round, site: {"x": random.random(), "y": np.random.random()}))
    first = runtime.config(1, "a")
    assert runtime.config(1, "b") != first
    assert runtime.config(2, "a") != first
    assert runtime.config(1, "a") == first


def test_the_strategy_is_made_once() -> None:
    calls: list[StrategyContext] = []

    def strategy(ctx: StrategyContext) -> Any:
        calls.append(ctx)
        return FedAdam(server_lr=1.0 / ctx.num_sites)

    app = app_with(strategy=strategy)
    runtime = ServerRuntime(app)
    context = StrategyContext(app.spec(), ("a", "b"))
    assert runtime.strategy(context) is runtime.strategy(context)
    assert len(calls) == 1


def test_a_strategy_object_of_the_app_is_used() -> None:
    given = FedAvg()
    app = App(given)
    app.client(lambda site: None)
    assert ServerRuntime(app).strategy(StrategyContext(app.spec())) is given


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({"config": lambda round, site: 3}, "@app.config: expected config to be a dict"),
        ({"config": lambda round, site: {"model": object()}}, "'model' in config"),
        ({"evaluate_on_server": lambda arrays, round: None}, "expected metrics to be a dict"),
        ({"strategy": lambda ctx: "fedavg"}, "expected a Strategy"),
    ],
)
def test_a_bad_answer_is_named(functions: Any, said: str) -> None:
    app = app_with(**functions)
    runtime = ServerRuntime(app)

    def ask() -> None:
        runtime.config(1, "a")
        runtime.evaluate(Arrays({"w": np.ones(1)}), 1)
        runtime.strategy(StrategyContext(app.spec()))

    with pytest.raises(TaskError) as caught:
        ask()
    assert caught.value.kind == "bad_reply"
    assert said in str(caught.value)


def test_an_exception_is_told_by_type_and_line() -> None:
    def config(round: int, site: str) -> Any:
        raise KeyError("patient 4711")

    with pytest.raises(TaskError) as caught:
        ServerRuntime(app_with(config=config)).config(1, "a")
    assert caught.value.kind == "raised"
    assert "KeyError at test_server.py:" in str(caught.value)
    assert "4711" not in str(caught.value)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("kind", [Scaffold, FedDyn])
def test_a_strategy_with_a_part_at_the_sites_is_given_to_the_app(kind: Any) -> None:
    app = app_with(strategy=lambda ctx: kind())
    with pytest.raises(TaskError, match=rf"give it to hs.App\({kind.__name__}\(\)\)"):
        ServerRuntime(app).strategy(StrategyContext(app.spec(), ("a",)))


def test_the_servers_own_data_reach_an_evaluation_that_asks_for_them() -> None:
    loaded: list[str] = []

    def load(name: str) -> int:
        loaded.append(name)
        return 7

    def evaluate(arrays: Any, round: int, load: Any) -> Any:
        return {"test": load("test") + round}

    runtime = ServerRuntime(app_with(evaluate_on_server=evaluate), load)
    assert [runtime.evaluate(Arrays({}), round_)["test"] for round_ in (1, 2)] == [8, 9]
    assert loaded == ["test"], "read once"
    with pytest.raises(TaskError) as caught:
        ServerRuntime(app_with(evaluate_on_server=evaluate)).evaluate(Arrays({}), 1)
    assert "the server holds none of this name" in str(caught.value.__cause__)
