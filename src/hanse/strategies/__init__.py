"""One file per algorithm, its paper on top. `strategy.py` is the contract; `named` finds one by its name."""

from hanse.strategies.catalogue import named
from hanse.strategies.strategy import Ask, Close, Context, FoldInput, PhasePlan, Strategy

__all__ = ["Ask", "Close", "Context", "FoldInput", "PhasePlan", "Strategy", "named"]
