"""Whose label a gradient would give away: rows of high leverage, which a party weighs down in its own gradients.

A party that sees Xᵀd over a batch knows Hd, the projection of d onto its columns, H = X·X⁺. Row i enters with its
leverage H_ii (D. Hoaglin, R. Welsch, "The Hat Matrix in Regression and ANOVA", 1978): of every unit combination of the
batch's residuals that the gradient tells, d_i has at most that share. It is 1 where some combination of columns differs
from 0 in row i alone, such as a category that occurs once: the gradient then tells d_i and with it the label.

So wherever gradients are made, rows whose leverage reaches a bound are multiplied by what brings it below; to 0 where
nothing else does. They count in scores as before. Weights for rows by X alone leave the estimating equation
Σ w(x)·x·(mean − y) = 0 unbiased (those of C. Mallows, see F. Hampel et al., "Robust Statistics", 1986, section 6.3),
and bound what outliers do to the fit.

Each party applies it to itself: nobody else sees its X. So it binds those who follow the protocol, and no others. Pure
functions.
"""

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.vertical.glm.families import Table

SINGLE_ROWS = (
    "single_rows",
    "in rows where its own columns stand out, such as a category that occurs once: mean − y, and so the label",
)
"""What is revealed where rows of high leverage are accepted, or of more than the usual one: the word, and what."""
CHOICES = ("weigh_down", "refuse", "accept")
USUAL_BOUND = 0.5
"""Of leverage: a row has no more part in what a gradient tells than all others together."""
LARGEST_SHARE = 0.25
"""Of a batch's rows, how many may be weighed down to 0."""
_ROUNDS = 64
_FAR_FROM_DEPENDENT = 1e5
"""Of the eigenvalues of XᵀX, at most so many times apart: errors of the triangle stay below 10^-10."""
_SMALLEST_WEIGHT = 2.0**-6


def leverages(rows: npt.NDArray[np.generic]) -> Table:
    """The leverage of each row of X `(n, num_columns)`: float64 `(n,)`, from 0 to 1; their sum is the rank of X.

    Of columns that are far from dependent by a triangle of XᵀX, which takes a third of the time; else by singular
    values.
    """
    x = rows.astype(np.float64)
    products = x.T @ x
    squares = np.linalg.eigvalsh(products)
    if squares[0] > squares[-1] / _FAR_FROM_DEPENDENT:
        spread: Table = np.linalg.inv(np.linalg.cholesky(products)) @ x.T
        return np.asarray((spread**2).sum(axis=0))
    directions, sizes, _ = np.linalg.svd(x, full_matrices=False)
    kept = sizes > sizes[0] * max(rows.shape) * np.finfo(np.float64).eps
    found: Table = (directions[:, kept] ** 2).sum(axis=1)
    return found


def weighed_down(
    table: npt.NDArray[np.int64], cuts: list[tuple[int, int]], bound: float, choice: str
) -> npt.NDArray[np.int64]:
    """X as gradients are made with it: no row of a batch has a leverage of `bound` or more.

    Args:
        table: `(num_rows, num_columns)`.
        cuts: the batches.
        bound: 0 < bound ≤ 1.
        choice: `weigh_down` rows of more, `refuse` the table, or `accept` it as it is.

    Raises:
        ConfigError: rows of more where these are refused, or too many that only 0 brings below. It counts them.
    """
    if choice == "accept":
        return table
    bounded, total, most = np.empty_like(table), 0, 0.0
    for start, stop in cuts:
        rows, high = table[start:stop], int(_are_high(table[start:stop], bound).sum())
        bounded[start:stop] = _bounded(rows, bound) if high and choice == "weigh_down" else rows
        total += high
        most = max(most, float((rows.any(axis=1) & ~bounded[start:stop].any(axis=1)).mean()))
    if total and choice == "refuse":
        raise ConfigError(
            f"table: expected rows of a leverage below {bound:g} in every batch, found {total} of more, whose labels a "
            "gradient would give away; merge rare categories, clip outliers, take larger batches, or weigh them down"
        )
    if most > LARGEST_SHARE:
        raise ConfigError(
            f"table: expected a leverage below {bound:g} for three rows of four in every batch, found more for "
            f"{most:.0%} of one; merge rare categories, clip outliers, take larger batches, or the protocol dealer"
        )
    return bounded


def _are_high(rows: npt.NDArray[np.int64], bound: float) -> npt.NDArray[np.bool_]:
    return np.asarray(leverages(rows) >= bound - 1e-9)


def _bounded(rows: npt.NDArray[np.int64], bound: float) -> npt.NDArray[np.int64]:
    """Rows times weights from 0 to 1, rounded. With all others as they are, H_ii of a row times w is
    w²·q / (1 + w²·q), q = H_ii / (1 − H_ii); others rise by what this one falls, so it takes some rounds.
    """
    weights, aim = np.ones(len(rows)), 0.9 * bound
    for _ in range(_ROUNDS):
        found = np.rint(rows * weights[:, None]).astype(np.int64)
        share = leverages(found)
        high = share >= bound - 1e-9
        if not high.any():
            return found
        square = aim / (1 - aim) * (1 - share[high]) / share[high]
        weights[high] *= np.sqrt(np.clip(square, 0.0, 1.0))
        weights[weights < _SMALLEST_WEIGHT] = 0.0
    while (high := _are_high(found, bound)).any():
        found[high] = 0
    return found
