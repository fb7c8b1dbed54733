"""Rows that a site keeps apart to evaluate on: the same ones in every job, without scikit-learn."""

import numpy as np

from hanse.core.arrays import Array
from hanse.core.errors import ConfigError


def held_out(y: Array, test: float, seed: int, *, stratify: bool) -> tuple[Array, Array]:
    """Indices of the training and the test part, rising.

    Args:
        y: `(n,)`.
        test: share of the rows held out, from 0 to below 1.
        seed: of the choice.
        stratify: hold out that share of every class; of a class with one row, nothing.

    Raises:
        ConfigError: another share.
    """
    if not 0 <= test < 1:
        raise ConfigError(f"test: expected a share from 0 to below 1, or (X, y); found {test!r}")
    rng = np.random.default_rng(seed)
    groups = [np.flatnonzero(y == label) for label in np.unique(y)] if stratify else [np.arange(len(y))]
    chosen = [rng.permutation(rows)[: min(round(test * len(rows)), len(rows) - 1)] for rows in groups if len(rows)]
    out = np.sort(np.concatenate([*chosen, np.empty(0, dtype=np.int64)])).astype(np.int64)
    return np.setdiff1d(np.arange(len(y)), out), out
