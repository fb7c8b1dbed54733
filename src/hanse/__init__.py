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
    "Close": "hanse.strategies",
    "ConfigError": "hanse.core.errors",
    "Context": "hanse.strategies",
    "EarlyStop": "hanse.core.spec",
    "FedAdam": "hanse.strategies.fedadam",
    "FedAvg": "hanse.strategies.fedavg",
    "FedAvgM": "hanse.strategies.fedavgm",
    "FedProx": "hanse.strategies.fedprox",
    "HanseError": "hanse.core.errors",
    "JobFailed": "hanse.core.errors",
    "NumPyClient": "hanse.clients.numpy_client",
    "PhasePlan": "hanse.strategies",
    "Result": "hanse.rounds.result",
    "RoundRecord": "hanse.rounds.record",
    "Strategy": "hanse.strategies",
    "job": "hanse.person.jobs",
    "run": "hanse.person.jobs",
    "simulate": "hanse.simulation.inline",
    "sklearn": "hanse.clients.sklearn",
    "submit": "hanse.person.jobs",
    "torch": "hanse.clients.torch",
}

__all__ = [
    "App",
    "Arrays",
    "Ask",
    "Close",
    "ConfigError",
    "Context",
    "EarlyStop",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedProx",
    "HanseError",
    "JobFailed",
    "NumPyClient",
    "PhasePlan",
    "Result",
    "RoundRecord",
    "Strategy",
    "__version__",
    "job",
    "run",
    "simulate",
    "sklearn",
    "submit",
    "torch",
]

if TYPE_CHECKING:
    from hanse.clients.app import App as App
    from hanse.clients.numpy_client import NumPyClient as NumPyClient
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
    from hanse.strategies import PhasePlan as PhasePlan
    from hanse.strategies import Strategy as Strategy
    from hanse.strategies.fedadam import FedAdam as FedAdam
    from hanse.strategies.fedavg import FedAvg as FedAvg
    from hanse.strategies.fedavgm import FedAvgM as FedAvgM
    from hanse.strategies.fedprox import FedProx as FedProx


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hanse' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
