"""Variance inflation factors over two parties' columns, once each knows their correlations with the other's.

The factor of column j is the j-th diagonal element of the inverse of the correlation matrix of all columns. With its
blocks G (within the guest), H (within the host) and C (between both, from `correlation`), those of the host's columns
are the diagonal of (H − Cᵀ·G⁻¹·C)⁻¹, the inverse of a Schur complement; those of the guest's likewise. So each sends
the other what its own columns explain of the other's, Cᵀ·G⁻¹·C or C·H⁻¹·Cᵀ, and never its own block.

C comes in fixed point with 20 fraction bits: factors are exact to about factor² · columns · 2^−20.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError

Table = npt.NDArray[np.float64]

LARGEST = 2.0**20
"""Factors above it are told as infinite: a column is a sum of others, as far as these numbers can say."""

_EXPLAINED = (
    "how much of each pair of its own columns' correlation the other's columns explain together; with as many columns "
    "as the other has, the correlations within the other"
)
PROTOCOL = Protocol(
    name="statistics/inflation",
    roles=("guest", "host"),
    messages=(
        Message("explained", "guest", "host", "float64", (None, None)),
        Message("explained", "host", "guest", "float64", (None, None)),
    ),
    guarantee=Guarantee("semi-honest", 1, 128, 128, ()),
    reveals=(
        Reveal("guest", "host", "explained", _EXPLAINED),
        Reveal("host", "guest", "explained", _EXPLAINED),
    ),
)


async def exchange(party: Party, table: Table, between: Table) -> Table:
    """The program of both roles.

    Args:
        party: in the role `guest` or `host`.
        table: its columns, float64 `(num_rows, num_columns)`.
        between: correlations, float64 `(own columns, the other's columns)`.

    Returns:
        float64, `(num_columns,)`: the factor of each own column among all columns of both; ≥ 1, infinite where the
        others determine it.

    Raises:
        ConfigError: own columns of which one is a sum of others. RefusedError: the other sends something else than
        what was asked for.
    """
    within = np.atleast_2d(np.corrcoef(table.T))
    peer = "host" if party.role == "guest" else "guest"
    try:
        explained = between.T @ np.linalg.solve(within, between)
    except np.linalg.LinAlgError:
        explained = np.full((between.shape[1],) * 2, np.nan)
    if not np.isfinite(explained).all() or (inverse_diagonal(within) == np.inf).any():
        raise ConfigError("columns: expected none that is a sum of this party's others; leave such ones out")
    await party.send(peer, "explained", (explained + explained.T) / 2)
    theirs = await party.recv(peer, "explained")
    if theirs.shape != within.shape or not (np.abs(theirs) <= LARGEST).all():
        raise RefusedError(f"{peer}: expected numbers of {within.shape} within ±2^20, found others")
    return inverse_diagonal(within - (theirs + theirs.T) / 2)


def inverse_diagonal(matrix: Table) -> Table:
    """The diagonal of the inverse of a symmetric matrix, infinite above `LARGEST` and without an inverse."""
    values, vectors = np.linalg.eigh(matrix)
    held = np.maximum(values, 2.0**-60)
    found = (vectors**2 / held).sum(axis=1)
    return np.where(found > LARGEST, np.inf, np.maximum(found, 1.0))


def simulate_view(reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What either role receives: it is what is revealed."""
    return [("explained", np.asarray(reveals["explained"], np.float64))]
