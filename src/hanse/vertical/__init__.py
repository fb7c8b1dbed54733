"""Vertical learning: parties that hold different columns about the same people. One folder or file a protocol.

psi           private set intersection: who is at both
intersection  `hs.vertical.Intersection`, the same as an app
correlation   Pearson's correlation between two parties' columns, with a dealer
correlated    `hs.vertical.Correlation`: intersection, then correlation, as an app
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOMES = {"Correlation": "hanse.vertical.correlated", "Intersection": "hanse.vertical.intersection"}

__all__ = ["Correlation", "Intersection"]

if TYPE_CHECKING:
    from hanse.vertical.correlated import Correlation as Correlation
    from hanse.vertical.intersection import Intersection as Intersection


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'hanse.vertical' has no attribute {name!r}")
    return getattr(import_module(home), name)
