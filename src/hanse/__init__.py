"""Hanse: federated learning for organisations that may not pool their data.

    import hanse as hs

    app = hs.App(hs.FedAvg(), rounds=20, quorum=3)

Every name below is loaded when it is first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "App": "hanse.clients.app",
    "Arrays": "hanse.core.arrays",
    "Ask": "hanse.strategies",
    "Bulyan": "hanse.aggregation",
    "Choice": "hanse.aggregation",
    "Close": "hanse.strategies",
    "ConfigError": "hanse.core.errors",
    "Context": "hanse.strategies",
    "EarlyStop": "hanse.core.spec",
    "FLTrust": "hanse.strategies.robust",
    "FedAdagrad": "hanse.strategies.fedadagrad",
    "FedAdam": "hanse.strategies.fedadam",
    "FedAvg": "hanse.strategies.fedavg",
    "FedAvgM": "hanse.strategies.fedavgm",
    "FedBulyan": "hanse.strategies.robust",
    "FedDyn": "hanse.strategies.feddyn",
    "FedKrum": "hanse.strategies.robust",
    "FedMedian": "hanse.strategies.robust",
    "FedNormBound": "hanse.strategies.robust",
    "FedNova": "hanse.strategies.fednova",
    "FedProx": "hanse.strategies.fedprox",
    "FedTrimmedMean": "hanse.strategies.robust",
    "FedYogi": "hanse.strategies.fedyogi",
    "Fold": "hanse.aggregation",
    "FoldInput": "hanse.strategies",
    "Gather": "hanse.aggregation",
    "GeometricMedian": "hanse.aggregation",
    "HanseError": "hanse.core.errors",
    "JobFailed": "hanse.core.errors",
    "Krum": "hanse.aggregation",
    "MeanAroundMedian": "hanse.aggregation",
    "Median": "hanse.aggregation",
    "NormBound": "hanse.aggregation",
    "NumPyClient": "hanse.clients.numpy_client",
    "NumPyStrategy": "hanse.strategies.numpy_strategy",
    "PhasePlan": "hanse.strategies",
    "QFedAvg": "hanse.strategies.qfedavg",
    "Query": "hanse.strategies.query",
    "RFA": "hanse.strategies.robust",
    "Result": "hanse.rounds.result",
    "RoleApp": "hanse.channels.app",
    "RootTrust": "hanse.aggregation",
    "RoundRecord": "hanse.rounds.record",
    "Scaffold": "hanse.strategies.scaffold",
    "Select": "hanse.aggregation",
    "Strategy": "hanse.strategies",
    "StrategyContext": "hanse.clients.server",
    "TrimmedMean": "hanse.aggregation",
    "WeightedMean": "hanse.aggregation",
    "WeightedSum": "hanse.aggregation",
    "fitted": "hanse.clients.sklearn",
    "job": "hanse.person.jobs",
    "run": "hanse.person.jobs",
    "simulate": "hanse.simulation.inline",
    "sklearn": "hanse.clients.sklearn",
    "submit": "hanse.person.jobs",
    "torch": "hanse.clients.torch",
    "without_control": "hanse.strategies.scaffold",
}

__all__ = [
    "RFA",
    "App",
    "Arrays",
    "Ask",
    "Bulyan",
    "Choice",
    "Close",
    "ConfigError",
    "Context",
    "EarlyStop",
    "FLTrust",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBulyan",
    "FedDyn",
    "FedKrum",
    "FedMedian",
    "FedNormBound",
    "FedNova",
    "FedProx",
    "FedTrimmedMean",
    "FedYogi",
    "Fold",
    "FoldInput",
    "Gather",
    "GeometricMedian",
    "HanseError",
    "JobFailed",
    "Krum",
    "MeanAroundMedian",
    "Median",
    "NormBound",
    "NumPyClient",
    "NumPyStrategy",
    "PhasePlan",
    "QFedAvg",
    "Query",
    "Result",
    "RoleApp",
    "RootTrust",
    "RoundRecord",
    "Scaffold",
    "Select",
    "Strategy",
    "StrategyContext",
    "TrimmedMean",
    "WeightedMean",
    "WeightedSum",
    "__version__",
    "fitted",
    "job",
    "run",
    "simulate",
    "sklearn",
    "submit",
    "torch",
    "without_control",
]

if TYPE_CHECKING:
    from hanse import attacks as attacks
    from hanse import datasets as datasets
    from hanse import vertical as vertical
    from hanse.aggregation import Bulyan as Bulyan
    from hanse.aggregation import Choice as Choice
    from hanse.aggregation import Fold as Fold
    from hanse.aggregation import Gather as Gather
    from hanse.aggregation import GeometricMedian as GeometricMedian
    from hanse.aggregation import Krum as Krum
    from hanse.aggregation import MeanAroundMedian as MeanAroundMedian
    from hanse.aggregation import Median as Median
    from hanse.aggregation import NormBound as NormBound
    from hanse.aggregation import RootTrust as RootTrust
    from hanse.aggregation import Select as Select
    from hanse.aggregation import TrimmedMean as TrimmedMean
    from hanse.aggregation import WeightedMean as WeightedMean
    from hanse.aggregation import WeightedSum as WeightedSum
    from hanse.channels.app import RoleApp as RoleApp
    from hanse.clients.app import App as App
    from hanse.clients.numpy_client import NumPyClient as NumPyClient
    from hanse.clients.server import StrategyContext as StrategyContext
    from hanse.clients.sklearn import fitted as fitted
    from hanse.clients.sklearn import sklearn as sklearn
    from hanse.clients.torch import torch as torch
    from hanse.core.arrays import Arrays as Arrays
    from hanse.core.errors import ConfigError as ConfigError
    from hanse.core.errors import HanseError as HanseError
    from hanse.core.errors import JobFailed as JobFailed
    from hanse.core.spec import EarlyStop as EarlyStop
    from hanse.person.jobs import job as job
    from hanse.person.jobs import run as run
    from hanse.person.jobs import submit as submit
    from hanse.rounds.record import RoundRecord as RoundRecord
    from hanse.rounds.result import Result as Result
    from hanse.simulation.inline import simulate as simulate
    from hanse.strategies import Ask as Ask
    from hanse.strategies import Close as Close
    from hanse.strategies import Context as Context
    from hanse.strategies import FoldInput as FoldInput
    from hanse.strategies import PhasePlan as PhasePlan
    from hanse.strategies import Strategy as Strategy
    from hanse.strategies.fedadagrad import FedAdagrad as FedAdagrad
    from hanse.strategies.fedadam import FedAdam as FedAdam
    from hanse.strategies.fedavg import FedAvg as FedAvg
    from hanse.strategies.fedavgm import FedAvgM as FedAvgM
    from hanse.strategies.feddyn import FedDyn as FedDyn
    from hanse.strategies.fednova import FedNova as FedNova
    from hanse.strategies.fedprox import FedProx as FedProx
    from hanse.strategies.fedyogi import FedYogi as FedYogi
    from hanse.strategies.numpy_strategy import NumPyStrategy as NumPyStrategy
    from hanse.strategies.qfedavg import QFedAvg as QFedAvg
    from hanse.strategies.query import Query as Query
    from hanse.strategies.robust import RFA as RFA
    from hanse.strategies.robust import FedBulyan as FedBulyan
    from hanse.strategies.robust import FedKrum as FedKrum
    from hanse.strategies.robust import FedMedian as FedMedian
    from hanse.strategies.robust import FedNormBound as FedNormBound
    from hanse.strategies.robust import FedTrimmedMean as FedTrimmedMean
    from hanse.strategies.robust import FLTrust as FLTrust
    from hanse.strategies.scaffold import Scaffold as Scaffold
    from hanse.strategies.scaffold import without_control as without_control


_ROOMS = ("attacks", "datasets", "vertical")
"""Modules that are used under their own name: `hs.datasets.iid(...)`."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"hanse.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hanse' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
