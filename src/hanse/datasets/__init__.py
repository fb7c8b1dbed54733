"""Cutting one data set into many sites' parts, for simulation: who gets which rows or columns, and a picture of it.

Not here: loading data sets, and the data that real sites declare (`workers/datasets.py`).
"""

from hanse.datasets.partition import Partition, by_id, columns, dirichlet, iid, quantity, shards
from hanse.datasets.plot import plot

__all__ = ["Partition", "by_id", "columns", "dirichlet", "iid", "plot", "quantity", "shards"]
