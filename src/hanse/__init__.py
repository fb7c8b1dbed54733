"""Hanse: federated learning for organisations that may not pool their data.

    import hanse as hs

    app = hs.App(hs.FedAvg(), rounds=20, quorum=3)

Every name below is loaded when it is first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Adam": "hanse.clients.training",
    "App": "hanse.clients.app",
    "Arrays": "hanse.core.arrays",
    "Ask": "hanse.strategies",
    "BFloat16": "hanse.aggregation",
    "AtHome": "hanse.strategies.at_home",
    "Balanced": "hanse.strategies.selection",
    "Boosting": "hanse.strategies.boosting",
    "Bulyan": "hanse.aggregation",
    "ByExamples": "hanse.strategies.selection",
    "Choice": "hanse.aggregation",
    "Close": "hanse.strategies",
    "ConfigError": "hanse.core.errors",
    "Context": "hanse.strategies",
    "Ditto": "hanse.strategies.ditto",
    "Cyclic": "hanse.peer.topologies",
    "EarlyStop": "hanse.core.spec",
    "FLTrust": "hanse.strategies.robust",
    "FedAT": "hanse.strategies.fedat",
    "FedAdagrad": "hanse.strategies.fedadagrad",
    "FedAdam": "hanse.strategies.fedadam",
    "FedAsync": "hanse.strategies.fedasync",
    "FedAvg": "hanse.strategies.fedavg",
    "FedAvgM": "hanse.strategies.fedavgm",
    "FedBN": "hanse.strategies.fedbn",
    "FedBuff": "hanse.strategies.fedbuff",
    "FedBulyan": "hanse.strategies.robust",
    "FedDyn": "hanse.strategies.feddyn",
    "FedKrum": "hanse.strategies.robust",
    "FedMedian": "hanse.strategies.robust",
    "FedNormBound": "hanse.strategies.robust",
    "FedNova": "hanse.strategies.fednova",
    "FedPer": "hanse.strategies.fedper",
    "FedProx": "hanse.strategies.fedprox",
    "FedRep": "hanse.strategies.fedrep",
    "FedTrimmedMean": "hanse.strategies.robust",
    "FedYogi": "hanse.strategies.fedyogi",
    "FineTune": "hanse.strategies.finetune",
    "Fold": "hanse.aggregation",
    "FoldInput": "hanse.strategies",
    "Gather": "hanse.aggregation",
    "GeometricMedian": "hanse.aggregation",
    "Gossip": "hanse.peer.topologies",
    "Groups": "hanse.strategies.groups",
    "Peers": "hanse.clients.peers",
    "HanseError": "hanse.core.errors",
    "Int8": "hanse.aggregation",
    "IFCA": "hanse.strategies.ifca",
    "JobFailed": "hanse.core.errors",
    "Krum": "hanse.aggregation",
    "LGFedAvg": "hanse.strategies.lgfedavg",
    "MeanAroundMedian": "hanse.aggregation",
    "Median": "hanse.aggregation",
    "Moon": "hanse.strategies.moon",
    "NormBound": "hanse.aggregation",
    "NumPyClient": "hanse.clients.numpy_client",
    "NumPyStrategy": "hanse.strategies.numpy_strategy",
    "PhasePlan": "hanse.strategies",
    "PowerOfChoice": "hanse.strategies.selection",
    "Population": "hanse.simulation.sites",
    "QFedAvg": "hanse.strategies.qfedavg",
    "Query": "hanse.strategies.query",
    "RFA": "hanse.strategies.robust",
    "RandomK": "hanse.aggregation",
    "Result": "hanse.rounds.result",
    "RingAllReduce": "hanse.peer.topologies",
    "RoleApp": "hanse.channels.app",
    "RootTrust": "hanse.aggregation",
    "RoundRecord": "hanse.rounds.record",
    "SGD": "hanse.clients.training",
    "Scaffold": "hanse.strategies.scaffold",
    "Schedule": "hanse.strategies.schedule",
    "Select": "hanse.aggregation",
    "Strategy": "hanse.strategies",
    "StrategyContext": "hanse.clients.server",
    "TopK": "hanse.aggregation",
    "TrimmedMean": "hanse.aggregation",
    "Uniform": "hanse.strategies.selection",
    "WeightedMean": "hanse.aggregation",
    "WeightedSum": "hanse.aggregation",
    "clusters": "hanse.strategies.ifca",
    "contrast": "hanse.clients.contrast",
    "XGBoost": "hanse.strategies.xgboost",
    "ask": "hanse.person.questions",
    "booster": "hanse.clients.xgboost",
    "boosting": "hanse.clients.boosting",
    "compare": "hanse.simulation.compare",
    "fitted": "hanse.clients.sklearn",
    "forest": "hanse.clients.boosting",
    "job": "hanse.person.jobs",
    "load_estimator": "hanse.clients.estimator_files",
    "mlp": "hanse.clients.mlp",
    "run": "hanse.person.jobs",
    "save_estimator": "hanse.clients.estimator_files",
    "simulate": "hanse.simulation.simulate",
    "simulate_hierarchy": "hanse.simulation.hierarchy",
    "simulate_peers": "hanse.simulation.peers",
    "sklearn": "hanse.clients.sklearn",
    "submit": "hanse.person.jobs",
    "torch": "hanse.clients.torch",
    "xgboost": "hanse.clients.xgboost",
    "without_control": "hanse.strategies.scaffold",
}

__all__ = [
    "IFCA",
    "RFA",
    "SGD",
    "Adam",
    "App",
    "Arrays",
    "Ask",
    "AtHome",
    "BFloat16",
    "Balanced",
    "Boosting",
    "Bulyan",
    "ByExamples",
    "Choice",
    "Close",
    "ConfigError",
    "Context",
    "Cyclic",
    "Ditto",
    "EarlyStop",
    "FLTrust",
    "FedAT",
    "FedAdagrad",
    "FedAdam",
    "FedAsync",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedBuff",
    "FedBulyan",
    "FedDyn",
    "FedKrum",
    "FedMedian",
    "FedNormBound",
    "FedNova",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedTrimmedMean",
    "FedYogi",
    "FineTune",
    "Fold",
    "FoldInput",
    "Gather",
    "GeometricMedian",
    "Gossip",
    "Groups",
    "HanseError",
    "Int8",
    "JobFailed",
    "Krum",
    "LGFedAvg",
    "MeanAroundMedian",
    "Median",
    "Moon",
    "NormBound",
    "NumPyClient",
    "NumPyStrategy",
    "Peers",
    "PhasePlan",
    "Population",
    "PowerOfChoice",
    "QFedAvg",
    "Query",
    "RandomK",
    "Result",
    "RingAllReduce",
    "RoleApp",
    "RootTrust",
    "RoundRecord",
    "Scaffold",
    "Schedule",
    "Select",
    "Strategy",
    "StrategyContext",
    "TopK",
    "TrimmedMean",
    "Uniform",
    "WeightedMean",
    "WeightedSum",
    "XGBoost",
    "__version__",
    "ask",
    "booster",
    "boosting",
    "clusters",
    "compare",
    "contrast",
    "fitted",
    "forest",
    "job",
    "load_estimator",
    "mlp",
    "run",
    "save_estimator",
    "simulate",
    "simulate_hierarchy",
    "simulate_peers",
    "sklearn",
    "submit",
    "torch",
    "without_control",
    "xgboost",
]

if TYPE_CHECKING:
    from hanse import analytics as analytics
    from hanse import attacks as attacks
    from hanse import datasets as datasets
    from hanse import tracking as tracking
    from hanse import vertical as vertical
    from hanse.aggregation import BFloat16 as BFloat16
    from hanse.aggregation import Bulyan as Bulyan
    from hanse.aggregation import Choice as Choice
    from hanse.aggregation import Fold as Fold
    from hanse.aggregation import Gather as Gather
    from hanse.aggregation import GeometricMedian as GeometricMedian
    from hanse.aggregation import Int8 as Int8
    from hanse.aggregation import Krum as Krum
    from hanse.aggregation import MeanAroundMedian as MeanAroundMedian
    from hanse.aggregation import Median as Median
    from hanse.aggregation import NormBound as NormBound
    from hanse.aggregation import RandomK as RandomK
    from hanse.aggregation import RootTrust as RootTrust
    from hanse.aggregation import Select as Select
    from hanse.aggregation import TopK as TopK
    from hanse.aggregation import TrimmedMean as TrimmedMean
    from hanse.aggregation import WeightedMean as WeightedMean
    from hanse.aggregation import WeightedSum as WeightedSum
    from hanse.channels.app import RoleApp as RoleApp
    from hanse.clients.app import App as App
    from hanse.clients.boosting import boosting as boosting
    from hanse.clients.boosting import forest as forest
    from hanse.clients.contrast import contrast as contrast
    from hanse.clients.estimator_files import load_estimator as load_estimator
    from hanse.clients.estimator_files import save_estimator as save_estimator
    from hanse.clients.mlp import mlp as mlp
    from hanse.clients.numpy_client import NumPyClient as NumPyClient
    from hanse.clients.peers import Peers as Peers
    from hanse.clients.server import StrategyContext as StrategyContext
    from hanse.clients.sklearn import fitted as fitted
    from hanse.clients.sklearn import sklearn as sklearn
    from hanse.clients.torch import torch as torch
    from hanse.clients.training import SGD as SGD
    from hanse.clients.training import Adam as Adam
    from hanse.clients.xgboost import booster as booster
    from hanse.clients.xgboost import xgboost as xgboost
    from hanse.core.arrays import Arrays as Arrays
    from hanse.core.errors import ConfigError as ConfigError
    from hanse.core.errors import HanseError as HanseError
    from hanse.core.errors import JobFailed as JobFailed
    from hanse.core.spec import EarlyStop as EarlyStop
    from hanse.peer.topologies import Cyclic as Cyclic
    from hanse.peer.topologies import Gossip as Gossip
    from hanse.peer.topologies import RingAllReduce as RingAllReduce
    from hanse.person.jobs import job as job
    from hanse.person.jobs import run as run
    from hanse.person.jobs import submit as submit
    from hanse.person.questions import ask as ask
    from hanse.rounds.record import RoundRecord as RoundRecord
    from hanse.rounds.result import Result as Result
    from hanse.simulation import traces as traces
    from hanse.simulation.compare import compare as compare
    from hanse.simulation.hierarchy import simulate_hierarchy as simulate_hierarchy
    from hanse.simulation.peers import simulate_peers as simulate_peers
    from hanse.simulation.simulate import simulate as simulate
    from hanse.simulation.sites import Population as Population
    from hanse.strategies import Ask as Ask
    from hanse.strategies import Close as Close
    from hanse.strategies import Context as Context
    from hanse.strategies import FoldInput as FoldInput
    from hanse.strategies import PhasePlan as PhasePlan
    from hanse.strategies import Strategy as Strategy
    from hanse.strategies.at_home import AtHome as AtHome
    from hanse.strategies.boosting import Boosting as Boosting
    from hanse.strategies.ditto import Ditto as Ditto
    from hanse.strategies.fedadagrad import FedAdagrad as FedAdagrad
    from hanse.strategies.fedadam import FedAdam as FedAdam
    from hanse.strategies.fedasync import FedAsync as FedAsync
    from hanse.strategies.fedat import FedAT as FedAT
    from hanse.strategies.fedavg import FedAvg as FedAvg
    from hanse.strategies.fedavgm import FedAvgM as FedAvgM
    from hanse.strategies.fedbn import FedBN as FedBN
    from hanse.strategies.fedbuff import FedBuff as FedBuff
    from hanse.strategies.feddyn import FedDyn as FedDyn
    from hanse.strategies.fednova import FedNova as FedNova
    from hanse.strategies.fedper import FedPer as FedPer
    from hanse.strategies.fedprox import FedProx as FedProx
    from hanse.strategies.fedrep import FedRep as FedRep
    from hanse.strategies.fedyogi import FedYogi as FedYogi
    from hanse.strategies.finetune import FineTune as FineTune
    from hanse.strategies.groups import Groups as Groups
    from hanse.strategies.ifca import IFCA as IFCA
    from hanse.strategies.ifca import clusters as clusters
    from hanse.strategies.lgfedavg import LGFedAvg as LGFedAvg
    from hanse.strategies.moon import Moon as Moon
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
    from hanse.strategies.schedule import Schedule as Schedule
    from hanse.strategies.selection import Balanced as Balanced
    from hanse.strategies.selection import ByExamples as ByExamples
    from hanse.strategies.selection import PowerOfChoice as PowerOfChoice
    from hanse.strategies.selection import Uniform as Uniform
    from hanse.strategies.xgboost import XGBoost as XGBoost


_ROOMS = {
    "analytics": "hanse.analytics",
    "attacks": "hanse.attacks",
    "datasets": "hanse.datasets",
    "traces": "hanse.simulation.traces",
    "tracking": "hanse.tracking",
    "vertical": "hanse.vertical",
}
"""Modules that are used under their own name: `hs.datasets.iid(...)`."""


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(_ROOMS[name])
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hanse' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_ROOMS])
