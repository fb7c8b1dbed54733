"""Vertical learning: parties that hold different columns about the same people. One folder or file a protocol.

psi              private set intersection: who is at both
intersection     `hs.vertical.Intersection`, the same as an app
lookup           `hs.vertical.Directory` and `Lookup`: few rows against a set that was prepared once
alignment        from common identifiers to joined rows: several parties, left joins, repeated identifiers
correlation      Pearson's correlation between two parties' columns, with a dealer
inflation        variance inflation factors, from these correlations
correlated       `hs.vertical.Correlation` and `VIF`: intersection, then these, as apps
binning          columns cut into bins, weight of evidence and information value
label_counts     positive rows in a host's bins, counted over encrypted labels
binned           `hs.vertical.Binning`: intersection, then these counts, as an app
glm              generalised linear models
boosting         gradient-boosted trees
split            split networks, of PyTorch
transfer         transfer learning for few common rows, with a dealer; `hs.vertical.TransferLearning`
model            what models share: tables in, common rows, training, judging, a part for each party; as an app
meeting, scores  the first and the last part of a model's job; `hs.vertical.Scoring` for further rows
together         `hs.vertical.simulate`: all parties in this process
parties          names of roles
tables, metrics  what parties hand in, and how good predictions are

What `hs.vertical` offers is loaded when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanse.vertical.binned import Binning as Binning
    from hanse.vertical.boosting.models import Boosting as Boosting
    from hanse.vertical.correlated import VIF as VIF
    from hanse.vertical.correlated import Correlation as Correlation
    from hanse.vertical.glm.models import LinearRegression as LinearRegression
    from hanse.vertical.glm.models import LogisticRegression as LogisticRegression
    from hanse.vertical.glm.models import PoissonRegression as PoissonRegression
    from hanse.vertical.intersection import Intersection as Intersection
    from hanse.vertical.lookup import Directory as Directory
    from hanse.vertical.lookup import Lookup as Lookup
    from hanse.vertical.scores import Scoring as Scoring
    from hanse.vertical.split.models import SplitNetwork as SplitNetwork
    from hanse.vertical.together import simulate as simulate
    from hanse.vertical.transfer.models import TransferLearning as TransferLearning

_WHERE = {
    "Binning": "hanse.vertical.binned",
    "Boosting": "hanse.vertical.boosting.models",
    "Correlation": "hanse.vertical.correlated",
    "Directory": "hanse.vertical.lookup",
    "Intersection": "hanse.vertical.intersection",
    "LinearRegression": "hanse.vertical.glm.models",
    "LogisticRegression": "hanse.vertical.glm.models",
    "Lookup": "hanse.vertical.lookup",
    "PoissonRegression": "hanse.vertical.glm.models",
    "Scoring": "hanse.vertical.scores",
    "SplitNetwork": "hanse.vertical.split.models",
    "TransferLearning": "hanse.vertical.transfer.models",
    "VIF": "hanse.vertical.correlated",
    "simulate": "hanse.vertical.together",
}


def __getattr__(name: str) -> Any:
    # Loaded when first used: a protocol alone does not need them all.
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'hanse.vertical' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
