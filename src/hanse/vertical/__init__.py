"""Vertical learning: parties that hold different columns about the same people. One folder or file a protocol.

psi          private set intersection: who is at both
alignment    common rows of more than two parties
correlation  Pearson's correlation between two parties' columns, with a dealer
glm          generalised linear models
tables, metrics  what parties hand in, and how good predictions are

`hs.vertical.LogisticRegression`, `LinearRegression`, `PoissonRegression` and `simulate` are loaded when first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanse.vertical.glm.models import LinearRegression as LinearRegression
    from hanse.vertical.glm.models import LogisticRegression as LogisticRegression
    from hanse.vertical.glm.models import PoissonRegression as PoissonRegression
    from hanse.vertical.glm.models import simulate as simulate

_MODELS = ("LinearRegression", "LogisticRegression", "PoissonRegression", "simulate")


def __getattr__(name: str) -> Any:
    if name not in _MODELS:
        raise AttributeError(f"module 'hanse.vertical' has no attribute {name!r}")
    from hanse.vertical.glm import models  # when first used: a protocol alone does not load them all

    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODELS])
