"""Built-in strategies by name, so that a job can hold one as plain data."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from hanse.core.errors import ConfigError
from hanse.strategies.strategy import Strategy

CUSTOM = "custom"
"""The name under which a job says that the app brings its own strategy."""


@cache
def catalogue() -> Mapping[str, type[Strategy]]:
    """Every built-in strategy by its name."""
    from hanse.strategies.analysis import Analysis
    from hanse.strategies.boosting import Boosting
    from hanse.strategies.ditto import Ditto
    from hanse.strategies.fedadagrad import FedAdagrad
    from hanse.strategies.fedadam import FedAdam
    from hanse.strategies.fedasync import FedAsync
    from hanse.strategies.fedat import FedAT
    from hanse.strategies.fedavg import FedAvg
    from hanse.strategies.fedavgm import FedAvgM
    from hanse.strategies.fedbn import FedBN
    from hanse.strategies.fedbuff import FedBuff
    from hanse.strategies.feddyn import FedDyn
    from hanse.strategies.fednova import FedNova
    from hanse.strategies.fedper import FedPer
    from hanse.strategies.fedprox import FedProx
    from hanse.strategies.fedrep import FedRep
    from hanse.strategies.fedyogi import FedYogi
    from hanse.strategies.finetune import FineTune
    from hanse.strategies.ifca import IFCA
    from hanse.strategies.lgfedavg import LGFedAvg
    from hanse.strategies.moon import Moon
    from hanse.strategies.qfedavg import QFedAvg
    from hanse.strategies.query import Query
    from hanse.strategies.robust import RFA, FedBulyan, FedKrum, FedMedian, FedNormBound, FedTrimmedMean, FLTrust
    from hanse.strategies.scaffold import Scaffold
    from hanse.strategies.xgboost import XGBoost

    means = (FedAvg, FedProx, FedNova, Scaffold, FedDyn, QFedAvg, FedAvgM, FedAdagrad, FedAdam, FedYogi)
    asynchronous = (FedAsync, FedBuff, FedAT)
    personal = (FedBN, FedPer, FedRep, LGFedAvg, Ditto, FineTune, IFCA, Moon)
    robust = (FedMedian, FedTrimmedMean, FedKrum, FedBulyan, RFA, FedNormBound, FLTrust)
    others = (Query, Analysis, Boosting, XGBoost)
    return {kind.name: kind for kind in (*means, *asynchronous, *personal, *robust, *others)}


def named(name: str, params: Mapping[str, Any]) -> Strategy:
    """Make a built-in strategy from plain data.

    Raises:
        ConfigError: an unknown name, or parameters that it does not take.
    """
    known = catalogue()
    if name not in known:
        raise ConfigError(f"strategy: expected one of {', '.join(known)}; found {name[:60]!r}")
    try:
        return known[name](**params)
    except TypeError as error:
        raise ConfigError(f"strategy {name}: {error}") from None
