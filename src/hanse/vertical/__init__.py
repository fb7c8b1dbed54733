"""Vertical learning: parties that hold different columns about the same people. One folder or file a protocol.

psi             private set intersection: who is at both
intersection    `hs.vertical.Intersection`, the same as an app
alignment       common rows of more than two parties
correlation     Pearson's correlation between two parties' columns, with a dealer
correlated      `hs.vertical.Correlation`: intersection, then correlation, as an app
glm             generalised linear models
boosting        gradient-boosted trees
tables, metrics what parties hand in, and how good predictions are

`hs.vertical.Intersection`, `Correlation`, `LogisticRegression`, `LinearRegression`, `PoissonRegression`, `Boosting` and
`simulate` are loaded when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanse.vertical.boosting.models import Boosting as Boosting
    from hanse.vertical.correlated import Correlation as Correlation
    from hanse.vertical.glm.models import LinearRegression as LinearRegression
    from hanse.vertical.glm.models import LogisticRegression as LogisticRegression
    from hanse.vertical.glm.models import PoissonRegression as PoissonRegression
    from hanse.vertical.glm.models import simulate as simulate
    from hanse.vertical.intersection import Intersection as Intersection

_MODELS = ("LinearRegression", "LogisticRegression", "PoissonRegression", "simulate")
_APPS = ("Boosting", "Correlation", "Intersection")


def __getattr__(name: str) -> Any:
    # Loaded when first used: a protocol alone does not need them all.
    if name in _MODELS:
        from hanse.vertical.glm import models

        return getattr(models, name)
    if name == "Boosting":
        from hanse.vertical.boosting.models import Boosting

        return Boosting
    if name == "Correlation":
        from hanse.vertical.correlated import Correlation

        return Correlation
    if name == "Intersection":
        from hanse.vertical.intersection import Intersection

        return Intersection
    raise AttributeError(f"module 'hanse.vertical' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODELS, *_APPS])
