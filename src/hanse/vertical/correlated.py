"""`hs.vertical.Correlation`: how two companies' columns go together over the customers that they share, as an app.

    app = hs.vertical.Correlation(dataset="customers", key="id")

First `hanse.vertical.psi.chase_miao` aligns the rows, then `hanse.vertical.correlation` computes with a dealer: the
role `arbiter`, a third site that holds no data and colludes with neither. What is revealed is what both reveal.
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
from hanse.vertical import correlation
from hanse.vertical.intersection import identifiers
from hanse.vertical.psi import chase_miao

PROTOCOL = Protocol.joined("psi+correlation", {"psi": chase_miao.PROTOCOL, "correlation": correlation.PROTOCOL})
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

        async def guest(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            places = await chase_miao.guest(party.part("psi"), identifiers(table, dataset, key))
            rows = numbers(table, dataset, key)[places]
            return _answer(await correlation.guest(party.part("correlation"), rows), rows)

        async def host(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            places = await chase_miao.host(party.part("psi"), identifiers(table, dataset, key))
            rows = numbers(table, dataset, key)[places]
            return _answer(await correlation.host(party.part("correlation"), rows), rows)

        async def arbiter(party: Party, site: Any) -> None:
            await correlation.arbiter(party.part("correlation"))

        for role, program in (("guest", guest), ("host", host), ("arbiter", arbiter)):
            self.role(role)(program)


def numbers(table: Any, dataset: str, key: str) -> npt.NDArray[np.float64]:
    """Every column but the key: float64, `(rows, columns)`.

    Raises:
        ConfigError: there is none, or one that is not of numbers, by name.
    """
    columns = {name: np.asarray(values) for name, values in table.items() if name != key}
    text = [name for name, values in columns.items() if values.dtype.kind not in "biuf" or values.ndim != 1]
    if text or not columns:
        found = f"others in {', '.join(text)[:200]}" if text else "none"
        raise ConfigError(f"data set {dataset}: expected columns of numbers beside {key[:60]!r}, found {found}")
    return np.column_stack([values.astype(np.float64) for values in columns.values()])


def _answer(found: npt.NDArray[np.float64], rows: npt.NDArray[np.float64]) -> Any:
    return {"correlation": found}, {"common": len(rows), "columns": rows.shape[1]}
