"""Gradient-boosted trees over histograms: bins, objectives, growing, forests. Pure functions over arrays.

T. Chen, C. Guestrin, "XGBoost: A scalable tree boosting system", KDD 2016, https://arxiv.org/abs/1603.02754, with
gradients as whole numbers, so that histograms of many parties add up without rounding. Who holds which rows or columns,
and who adds up, is decided above: `strategies/boosting.py` for parties that hold different rows.
"""

from hanse.trees.bins import Edges, bins_of, pooled_edges, summary_of
from hanse.trees.forest import Forest
from hanse.trees.growing import Growth, grown, histograms
from hanse.trees.objectives import OBJECTIVES, Objective, objective_of

__all__ = [
    "OBJECTIVES",
    "Edges",
    "Forest",
    "Growth",
    "Objective",
    "bins_of",
    "grown",
    "histograms",
    "objective_of",
    "pooled_edges",
    "summary_of",
]
