"""Strategies as plain data: names, parameters, config, planning defaults."""

import json
import math

import pytest

from hanse.core.errors import ConfigError
from hanse.core.spec import RunSpec
from hanse.strategies import Context, FoldInput, named
from hanse.strategies.catalogue import catalogue
from hanse.strategies.fedadagrad import FedAdagrad
from hanse.strategies.fedadam import FedAdam
from hanse.strategies.fedavg import FedAvg
from hanse.strategies.fedavgm import FedAvgM
from hanse.strategies.feddyn import FedDyn
from hanse.strategies.fedprox import FedProx
from hanse.strategies.fedyogi import FedYogi
from hanse.strategies.qfedavg import QFedAvg
from hanse.strategies.robust import RFA, FedBulyan, FedKrum, FedNormBound, FedTrimmedMean, FLTrust
from hanse.strategies.scaffold import Scaffold

SITES = ("a", "b", "c", "d")


def context(phase: str, **spec: object) -> Context:
    return Context(RunSpec(**spec), round=3, phase=phase, sites=SITES)  # type: ignore[arg-type]


NEEDED = {"analysis": {"question": "describe", "options": {"columns": ["age"], "data": "patients"}}}
"""What strategies without defaults must be told."""


@pytest.mark.parametrize("name", list(catalogue()))
def test_survives_the_way_through_json(name: str) -> None:
    strategy = named(name, NEEDED.get(name, {}))
    again = named(strategy.name, json.loads(json.dumps(strategy.params())))
    assert again == strategy
    assert type(again) is type(strategy) is catalogue()[name]


def test_parameters_survive_too() -> None:
    strategy = FedAdam(0.5, 0.8, 0.7, 0.01)
    assert named("fedadam", strategy.params()) == strategy


@pytest.mark.parametrize(
    ("kind", "params", "says"),
    [
        (FedProx, {"proximal_mu": -0.1}, "fedprox.proximal_mu: expected a number from 0, found -0.1"),
        (FedProx, {"proximal_mu": math.nan}, "fedprox.proximal_mu"),
        (FedProx, {"proximal_mu": "0.1"}, "fedprox.proximal_mu"),
        (FedProx, {"proximal_mu": True}, "fedprox.proximal_mu"),
        (FedProx, {"proximal_mu": 10**400}, "fedprox.proximal_mu"),
        (FedAvgM, {"momentum": 1.0}, "fedavgm.momentum: expected a number from 0 below 1, found 1.0"),
        (FedAvgM, {"server_lr": 0}, "fedavgm.server_lr: expected a number above 0, found 0"),
        (FedAvgM, {"server_lr": math.inf}, "fedavgm.server_lr"),
        (FedAdam, {"server_lr": -1.0}, "fedadam.server_lr"),
        (FedAdam, {"beta_1": 1.0}, "fedadam.beta_1"),
        (FedAdam, {"beta_2": -0.01}, "fedadam.beta_2"),
        (FedAdam, {"tau": 0.0}, "fedadam.tau"),
        (FedAdagrad, {"server_lr": 0.0}, "fedadagrad.server_lr"),
        (FedAdagrad, {"beta_1": 1.0}, "fedadagrad.beta_1"),
        (FedAdagrad, {"tau": -1.0}, "fedadagrad.tau"),
        (FedYogi, {"server_lr": 0.0}, "fedyogi.server_lr"),
        (FedYogi, {"beta_1": -0.1}, "fedyogi.beta_1"),
        (FedYogi, {"beta_2": 1.0}, "fedyogi.beta_2"),
        (FedYogi, {"tau": 0.0}, "fedyogi.tau"),
        (Scaffold, {"server_lr": 0.0}, "scaffold.server_lr"),
        (FedDyn, {"alpha": 0.0}, "feddyn.alpha: expected a number above 0, found 0.0"),
        (FedDyn, {"participation": 1.5}, "feddyn.participation: expected a number above 0 to 1, found 1.5"),
        (QFedAvg, {"q": -1.0}, "qfedavg.q: expected a number from 0 to 20, found -1.0"),
        (QFedAvg, {"client_lr": 0.0}, "qfedavg.client_lr"),
        (FedTrimmedMean, {"trim": 0.5}, "fedtrimmedmean.trim: expected a number from 0 below 0.5, found 0.5"),
        (FedKrum, {"num_byzantine": -1}, "fedkrum.num_byzantine: expected a whole number from 0, found -1"),
        (FedKrum, {"keep": 0}, "fedkrum.keep: expected a whole number from 1, found 0"),
        (FedKrum, {"keep": True}, "fedkrum.keep"),
        (FedBulyan, {"num_byzantine": 1.5}, "fedbulyan.num_byzantine"),
        (RFA, {"smoothing": 0.0}, "rfa.smoothing"),
        (FedNormBound, {"max_norm": 0.0}, "fednormbound.max_norm"),
        (FLTrust, {"root": ""}, "fltrust.root: expected the name of a site, found ''"),
    ],
)
def test_bad_parameters_are_named(kind: type, params: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kind(**params)
    with pytest.raises(ConfigError, match=says):
        named(kind.name, params)  # type: ignore[attr-defined]


def test_unknown_names_and_parameters_are_config_errors() -> None:
    with pytest.raises(ConfigError, match=r"expected one of fedavg, fedprox, .*, query, .*; found 'fedsgd'"):
        named("fedsgd", {})
    with pytest.raises(ConfigError, match="strategy fedavg"):
        named("fedavg", {"server_lr": 1.0})


def test_fedprox_tells_training_clients_mu_and_nobody_else() -> None:
    strategy = FedProx(proximal_mu=0.25)
    train = strategy.plan(context("train"))
    assert [ask.config for ask in train.asks] == [{"round": 3, "proximal_mu": 0.25}] * 4
    evaluate = strategy.plan(context("evaluate"))
    assert [ask.config for ask in evaluate.asks] == [{"round": 3}] * 4


def test_fedprox_mu_travels_as_a_float() -> None:
    (first, *_) = FedProx(proximal_mu=1).plan(context("train")).asks
    assert type(first.config["proximal_mu"]) is float


def test_only_the_plain_mean_replaces_the_model() -> None:
    assert FedAvg().replaces
    assert FedProx().replaces
    assert not FedAvgM().replaces
    assert not FedAdam().replaces


def test_examples_are_the_weights_and_all_are_equal_where_nobody_counted() -> None:
    replies = [FoldInput("a", 3, 0, {}), FoldInput("b", 0, 0, {})]
    assert FedAvg().weigh(replies) == [3.0, 0.0]
    assert FedAvg().weigh([FoldInput("a", 0, 0, {}), FoldInput("b", 0, 0, {})]) == [1.0, 1.0]


def test_every_site_may_count_the_same() -> None:
    replies = [FoldInput("a", 3, 0, {}), FoldInput("b", 300, 0, {})]
    assert FedAvg("equal").weigh(replies) == [1.0, 1.0]
    assert named("fedavg", {"weights": "equal"}) == FedAvg("equal")
    assert FedAvg("equal").replaces
    with pytest.raises(ConfigError, match=r"fedavg.weights: expected examples or equal, found 'rows'"):
        FedAvg("rows")


def test_strategies_are_frozen_values() -> None:
    with pytest.raises(AttributeError):
        FedAvgM().momentum = 0.5  # type: ignore[misc]
    assert len({FedAvg(), FedAvg(), FedProx(), FedProx()}) == 2
