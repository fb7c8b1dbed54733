"""Joint scoring: the guest learns the predictor z of rows that all parties hold, for a batch or a single row.

Each party keeps its own weights and computes its part of z, X·w in float64; the guest adds the parts. So joint scores
are offline scores but for the order of additions.

With one host the guest learns its part in any protocol: it knows z and its own part. With several it would be enough
to learn their sum; here it learns each, and Reveals says so. A part is one number a row of the host's columns: enough
queries about rows with known columns give the weights away, and then columns. How often a guest may ask is for the
host's policy.

**Guarantee.** Semi-honest, whoever colludes, and no assumption: what is sent is what is revealed, and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core import scratch
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError, UnavailableError
from hanse.vertical.glm.columns import Columns
from hanse.vertical.glm.dealer import data_roles
from hanse.vertical.glm.families import Table
from hanse.vertical.parties import IfOffline

MAX_ROWS = 1 << 24


@dataclass(frozen=True, slots=True)
class PartyModel:
    """One party's part of a trained model. It stays there.

    Attributes:
        columns: how its columns are scaled; `columns.values` may be empty.
        weights: float64, `(num_columns, num_outputs)`, for scaled columns.
        num_hosts: how many there were in the training; 0 if that is not known.
    """

    columns: Columns
    weights: Table
    num_hosts: int = 0

    def part(self, table: Table) -> Table:
        """This party's part of z, float64 `(n, num_outputs)`, for rows of its columns without the intercept."""
        return self.columns.apply(table) @ self.weights

    def coefficients(self) -> dict[str, Table]:
        """For each column, weights by its own unit, `(num_outputs,)`: what multiplies the column minus its mean.

        The intercept is that of columns at their means: to bring it to zero, the guest would have to learn a weighted
        sum of the hosts' means.
        """
        per_unit = self.weights / self.columns.deviations[:, None]
        return dict(zip(self.columns.names, per_unit, strict=True))


def protocol(num_hosts: int = 1) -> Protocol:
    """The declaration for that many hosts."""
    hosts = data_roles(num_hosts)[1:]
    return Protocol(
        name="glm/scoring",
        roles=("guest", *hosts),
        messages=tuple(
            message
            for host in hosts
            for message in (
                Message("rows", "guest", host, "int64", (None,)),
                Message("part", host, "guest", "float64", (None, None)),
            )
        ),
        guarantee=Guarantee("semi-honest", num_hosts, 128, 128, ()),
        reveals=tuple(
            reveal
            for host in hosts
            for reveal in (
                Reveal(host, "guest", "scored_rows", "which of the common rows the guest asks for"),
                Reveal("guest", host, "partial_score", "for each of these rows, the host's columns times its weights"),
            )
        ),
    )


async def guest(
    party: Party,
    model: PartyModel,
    table: Table,
    rows: npt.NDArray[np.int64],
    *,
    if_offline: IfOffline = "refuse",
) -> Table:
    """Score rows.

    Args:
        party: in the role `guest`.
        model: the guest's part.
        table: the guest's columns of these rows, `(n, num_columns)`.
        rows: places of these rows in the common order, `(n,)`.
        if_offline: what a host that cannot be reached means: `refuse` the scores, or take average columns for its own
            (`default`), which is a part of 0 where columns were standardised.

    Returns:
        z, float64 `(n, num_outputs)`.

    Raises:
        ConfigError: rows that do not fit the table. RefusedError: parts that do not fit. UnavailableError: a host is
        silent or gone, and `refuse` was asked for.
    """
    if rows.shape != (len(table),) or not 1 <= len(rows) <= MAX_ROWS:
        raise ConfigError(f"scoring: expected one place for each of 1 to {MAX_ROWS} rows, found {rows.shape}")
    if if_offline not in ("refuse", "default"):
        raise ConfigError(f"if_offline: expected refuse or default, found {if_offline!r}")
    z = model.part(table)
    hosts = party.protocol.roles[1:]
    asked = []
    for role in hosts:
        try:
            await party.send(role, "rows", rows)
            asked.append(role)
        except UnavailableError:
            if if_offline == "refuse":
                raise
    for role in asked:
        try:
            part = await party.recv(role, "part")
        except UnavailableError:
            if if_offline == "refuse":
                raise
            continue
        if part.shape != z.shape or not np.isfinite(part).all():
            raise RefusedError(f"{role}: expected finite parts of {z.shape}, found others")
        z = z + part
    return z


async def host(party: Party, model: PartyModel, table: Table, *, max_rows: int = MAX_ROWS) -> None:
    """Answer one question of the guest.

    Args:
        party: in a host's role.
        model: the host's part.
        table: its columns, `(num_rows, num_columns)`, in the common order.
        max_rows: how many rows the guest may ask for.

    Raises:
        RefusedError: more rows than that, or rows that are not there.
    """
    rows = await party.recv("guest", "rows")
    if not 1 <= len(rows) <= max_rows:
        raise RefusedError(f"guest: expected to be asked for 1 to {max_rows} rows, found {len(rows)}")
    if rows.min() < 0 or rows.max() >= len(table):
        raise RefusedError(f"guest: expected rows from 0 to {len(table) - 1}, found others")
    await party.send("guest", "part", model.part(scratch.take(table, rows)))


def simulate_view(role: str, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives: it is what is revealed to it.

    Args:
        reveals: to a host `scored_rows`; to the guest, of each host in order, `partial_score`.
    """
    if role == "guest":
        return [("part", np.asarray(each, np.float64)) for each in reveals["partial_score"]]
    return [("rows", np.asarray(reveals["scored_rows"], np.int64))]
