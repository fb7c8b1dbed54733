"""`hs.vertical.Correlation` and `hs.vertical.VIF`: how two companies' columns go together, as apps.

    app = hs.vertical.Correlation(dataset="customers", key="id")

First `hanse.vertical.psi.chase_miao` aligns the rows, then `hanse.vertical.correlation` computes with a dealer: the
role `arbiter`, a third site that holds no data and colludes with neither. `VIF` goes on with
`hanse.vertical.inflation`. What is revealed is what all of them reveal.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.app import RoleApp
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.errors import ConfigError
from hanse.vertical import correlation, inflation, meeting
from hanse.vertical.correlation import Table
from hanse.vertical.intersection import identifiers
from hanse.vertical.psi import chase_miao

PROTOCOL = Protocol.joined("psi+correlation", {"psi": chase_miao.PROTOCOL, "correlation": correlation.PROTOCOL})
VIF_PROTOCOL = Protocol.joined(
    "psi+correlation+inflation",
    {"psi": chase_miao.PROTOCOL, "correlation": correlation.PROTOCOL, "inflation": inflation.PROTOCOL},
)
_TELLS = {"common": "how many identifiers both hold", "columns": "how many columns this side has"}


class Correlation(RoleApp):
    """Pearson's correlation of every column of the guest with every column of the host, over their common rows.

    Returns of guest and host: metrics `common` and `columns`; arrays `correlation`: float64, `(guest's columns, host's
    columns)`, in the order of the columns in each data set.

    Args:
        dataset: its name, the same at guest and host; a mapping of columns, such as a CSV file without a target.
        key: the column that identifies a person; every other column must be numbers that vary, without missing ones.
        include: see `RoleApp`.
        options: as for `RoleApp`: `timeout_s`, `deadline_s`, `away_s`, `retries`, `seed`, `threads`.
    """

    def __init__(self, *, dataset: str, key: str, include: Sequence[str | Path] = (), **options: Any) -> None:
        super().__init__(PROTOCOL, tells=_TELLS, include=include, **options)

        async def both(party: Party, site: Any) -> Any:
            rows, found = await _correlated(party, site, dataset, key)
            return {"correlation": found}, {"common": len(rows), "columns": rows.shape[1]}

        for role, program in (("guest", both), ("host", both), ("arbiter", _deal)):
            self.role(role)(program)


class VIF(RoleApp):
    """The variance inflation factor of every column of guest and host among all of them, over their common rows.

    Returns of guest and host: metrics `common` and `columns`; arrays `correlation` as of `Correlation`, and `vif`:
    float64, `(own columns,)`, each party for its own alone. It is infinite where the other columns determine a column.

    Arguments as of `Correlation`; at each party, too, no column may be a sum of its others.
    """

    def __init__(self, *, dataset: str, key: str, include: Sequence[str | Path] = (), **options: Any) -> None:
        super().__init__(VIF_PROTOCOL, tells=_TELLS, include=include, **options)

        async def both(party: Party, site: Any) -> Any:
            rows, found = await _correlated(party, site, dataset, key)
            between = found if party.role == "guest" else found.T
            factors = await inflation.exchange(party.part("inflation"), rows, between)
            return {"correlation": found, "vif": factors}, {"common": len(rows), "columns": rows.shape[1]}

        for role, program in (("guest", both), ("host", both), ("arbiter", _deal)):
            self.role(role)(program)


async def _correlated(party: Party, site: Any, dataset: str, key: str) -> tuple[Table, Table]:
    """This side's common rows, and the correlations."""
    psi, fit = (chase_miao.guest, correlation.guest) if party.role == "guest" else (chase_miao.host, correlation.host)
    table = site.load(dataset)
    checked_numbers(table, dataset, key)
    places = await psi(party.part("psi"), identifiers(table, dataset, key))
    rows = numbers(table, dataset, key)[meeting.some(places)]
    return rows, await fit(party.part("correlation"), rows)


async def _deal(party: Party, site: Any) -> None:
    await correlation.arbiter(party.part("correlation"))


def numbers(table: Any, dataset: str, key: str, *, not_here: str | None = None) -> Table:
    """Every column but the key: float64, `(rows, columns)`; arguments and errors as of `checked_numbers`."""
    columns = checked_numbers(table, dataset, key, not_here=not_here)
    return np.column_stack([values.astype(np.float64) for values in columns.values()])


def checked_numbers(
    table: Any, dataset: str, key: str, *, not_here: str | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """Every column but the key, as it is. To be asked before anything is told to others.

    Args:
        not_here: a column that this party must not have: the label, at the host.

    Raises:
        ConfigError: there is none, or one that is not of numbers, by name; lengths that differ; the label.
    """
    columns = {name: np.asarray(values) for name, values in table.items() if name != key}
    if not_here is not None and not_here in columns:
        raise ConfigError(
            f"data set {dataset}: expected no column {not_here[:60]!r}, which is the label and belongs to the guest"
        )
    text = [name for name, values in columns.items() if values.dtype.kind not in "biuf" or values.ndim != 1]
    if text or not columns:
        found = f"others in {', '.join(text)[:200]}" if text else "none"
        raise ConfigError(f"data set {dataset}: expected columns of numbers beside {key[:60]!r}, found {found}")
    lengths = {len(values) for values in table.values()}
    if len(lengths) != 1:
        raise ConfigError(f"data set {dataset}: expected columns of one length, found {len(lengths)} lengths")
    return columns
