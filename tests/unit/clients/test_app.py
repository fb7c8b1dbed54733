"""What may be written into an `App`, and what becomes of it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.clients.app import App
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.core.spec import EarlyStop, RunSpec
from hanse.strategies import Strategy
from hanse.strategies.fedadam import FedAdam
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.fedprox import FedProx
from hanse.strategies.query import Query


@dataclasses.dataclass(frozen=True)
class Own(Strategy):
    name = "own"


def with_client(*arguments: Any, **settings: Any) -> App:
    app = App(*arguments, **settings)
    app.client(lambda site: None)
    return app


def test_settings_become_a_spec_that_travels() -> None:
    app = with_client(FedProx(0.5), rounds=3, quorum=2, sample=4, stop=EarlyStop("loss"), on_error="fail", threads=2)
    spec = app.spec()
    assert (spec.strategy, spec.params) == ("fedprox", {"proximal_mu": 0.5, "partial": 0.0, "weights": "examples"})
    assert (spec.rounds, spec.quorum, spec.sample, spec.threads) == (3, 2, 4, 2)
    assert spec.initial == "ask"
    assert RunSpec.from_json(spec.to_json()) == spec


def test_every_setting_of_the_spec_can_be_given() -> None:
    import inspect

    derived = {"strategy", "params", "initial", "server_config", "server_evaluate", "numerics"}
    settings = set(inspect.signature(App.__init__).parameters)
    assert {field.name for field in dataclasses.fields(RunSpec)} - derived <= settings


def test_fedavg_is_the_default() -> None:
    assert with_client().spec() == with_client(FedAvg()).spec()
    assert with_client(FedAdam()).spec().strategy == "fedadam"


def test_an_own_strategy_runs_as_code() -> None:
    assert with_client(Own()).spec().strategy == "custom"
    app = with_client()
    app.strategy(lambda ctx: Own())
    assert app.spec().strategy == "custom"


def test_server_functions_are_noted() -> None:
    app = with_client()
    app.config(lambda round, site: {})
    app.evaluate_on_server(lambda arrays, round: {})
    spec = app.spec()
    assert spec.server_config
    assert spec.server_evaluate


@pytest.mark.parametrize("given", [[np.zeros(2)], {"w": np.zeros(2)}, Arrays({"w": np.zeros(2)})])
def test_initial_arrays_are_given(given: Any) -> None:
    app = with_client(initial=given)
    assert app.initial_arrays is not None
    assert app.initial_arrays.layout.size == 2
    assert app.spec().initial == "given"


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        ((FedAvg,), {}, "write FedAvg()"),
        ((3,), {}, "strategy: expected"),
        ((), {"rounds": 0}, "rounds: expected"),
        ((), {"rounds": True}, "rounds: expected"),
        ((), {"sample": 0.0}, "sample"),
        ((), {"sample": 1.5}, "sample"),
        ((), {"quorum": 0}, "quorum"),
        ((), {"deadline_s": float("nan")}, "deadline_s"),
        ((), {"on_error": "ignore"}, "on_error"),
        ((), {"stop": "loss"}, "stop"),
        ((), {"initial": "guess"}, "initial: expected 'ask'"),
        ((), {"initial": 3}, "initial: expected"),
        ((), {"initial": []}, "at least one array"),
        ((), {"initial": [np.array(["a"])]}, "initial: array"),
        ((), {"include": "helpers.py"}, "include=['helpers.py']"),
        ((), {"include": ["/etc/passwd"]}, "below the module's folder"),
        ((), {"include": ["../x.py"]}, "below the module's folder"),
    ],
)
def test_a_wrong_setting_is_named_at_once(arguments: Any, settings: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        App(*arguments, **settings)
    assert said in str(caught.value)


def test_what_is_no_class_of_strategies_is_not_to_be_called() -> None:
    with pytest.raises(ConfigError, match=r"expected a strategy such as hs\.FedAvg\(\), found str$"):
        App("fedavg")  # type: ignore[arg-type]  # wrong on purpose


def test_an_app_needs_one_style_of_client() -> None:
    with pytest.raises(ConfigError, match="found no client"):
        App().spec()
    with pytest.raises(ConfigError, match=r"both @app.client and @app.train"):
        with_client().train(lambda arrays, config, site: None)
    app = App()
    app.evaluate(lambda arrays, config, site: None)
    with pytest.raises(ConfigError, match=r"both @app.evaluate and @app.client"):
        app.client(lambda site: None)
    with pytest.raises(ConfigError, match=r"found @app.client twice"):
        with_client().client(lambda site: None)
    with pytest.raises(ConfigError, match=r"both hs.App\(strategy\) and @app.strategy"):
        with_client(FedAvg()).strategy(lambda ctx: None)
    with pytest.raises(ConfigError, match="expected a function"):
        App().client(3)  # type: ignore[type-var]


def test_bare_functions_need_initial_parameters() -> None:
    app = App()
    app.train(lambda arrays, config, site: None)
    with pytest.raises(ConfigError, match=r"@app.parameters"):
        app.spec()
    app.parameters(lambda site: [np.zeros(1)])
    assert app.spec().evaluate_every == 0
    app.evaluate(lambda arrays, config, site: None)
    assert app.spec().evaluate_every == 1


def test_an_app_of_queries_has_no_model() -> None:
    app = App()
    app.query(lambda config, site: {})
    spec = app.spec()
    assert (spec.strategy, spec.initial, spec.rounds, spec.evaluate_every) == ("query", "none", 1, 0)


def test_an_app_of_queries_may_say_how() -> None:
    app = App(Query("mean"), rounds=3)
    app.query(lambda config, site: {})
    assert (app.spec().params, app.spec().rounds) == ({"arrays": "mean"}, 3)
    trains = App(FedAvg())
    trains.query(lambda config, site: {})
    with pytest.raises(ConfigError, match=r"FedAvg.*which trains, and only @app.query"):
        trains.spec()
    given = App(initial=[np.zeros(2)])
    given.query(lambda config, site: {})
    with pytest.raises(ConfigError, match="initial: expected none"):
        given.spec()


named = with_client()


def test_an_app_knows_its_name_in_its_module() -> None:
    assert named.name_in_module == "named"
    with pytest.raises(ConfigError, match="outside any function"):
        App().name_in_module  # noqa: B018
    assert Path(named.module_globals["__file__"]).name == Path(__file__).name


def test_decorators_give_the_function_back() -> None:
    app = App()

    @app.client
    def client(site: Any) -> None: ...

    assert client.__name__ == "client"
