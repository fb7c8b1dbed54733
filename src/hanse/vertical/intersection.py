"""`hs.vertical.Intersection`: which customers two companies share, as an app that can be submitted as it is.

    app = hs.vertical.Intersection(dataset="customers", key="id")

Both sides learn which of their own rows the other has, too; each keeps the places, in a common order, in its folder
`outputs`. The server and who submits learn how many there are on each side and in common: `rows` and `common`.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hanse.channels.app import RoleApp
from hanse.channels.party import Party
from hanse.core.errors import ConfigError
from hanse.vertical.psi import chase_miao, diffie_hellman
from hanse.vertical.psi.ids import Ids, Places

_PROTOCOLS = {"default": chase_miao, "diffie-hellman": diffie_hellman}
_TELLS = {"rows": "how many identifiers this side holds", "common": "how many identifiers both hold"}
Play = Callable[[Party, Ids], Awaitable[Places]]


class Intersection(RoleApp):
    """Private set intersection of one data set at each of two sites, the roles `guest` and `host`.

    Returns of each role: metrics `rows` and `common`, arrays `places`: int64, `(common,)`, rows of that site's data
    set; the same identifiers in the same order at both.

    Args:
        dataset: its name, the same at both sites; a mapping of columns, such as a CSV file without a target.
        key: the column that identifies a person. Whole numbers and text are different things, at both sites alike.
        protocol: `default` (Chase–Miao) or `diffie-hellman` (slower, fewer bytes; needs the extra `vertical`).
        include: see `RoleApp`.
        options: as for `RoleApp`: `timeout_s`, `deadline_s`, `away_s`, `retries`, `seed`, `threads`.

    Raises:
        ConfigError: an unknown protocol, or a value that is wrong, by name.
    """

    def __init__(
        self,
        *,
        dataset: str,
        key: str,
        protocol: str = "default",
        include: Sequence[str | Path] = (),
        **options: Any,
    ) -> None:
        module = _PROTOCOLS.get(protocol)
        if module is None:
            raise ConfigError(f"protocol: expected one of {', '.join(_PROTOCOLS)}; found {protocol!r:.40}")
        super().__init__(module.PROTOCOL, tells=_TELLS, include=include, **options)
        for role, play in (("guest", module.guest), ("host", module.host)):
            self.role(role)(_program(play, dataset, key))


def _program(play: Play, dataset: str, key: str) -> Callable[[Party, Any], Awaitable[Any]]:
    async def program(party: Party, site: Any) -> Any:
        ids = identifiers(site.load(dataset), dataset, key)
        places = await play(party, ids)
        return {"places": places}, {"rows": len(ids), "common": len(places)}

    return program


def identifiers(table: Any, dataset: str, key: str) -> Ids:
    """A key column as identifiers: text, or whole numbers, which CSV files bring as floats.

    Raises:
        ConfigError: no such column, or one of another kind.
    """
    try:
        column = np.asarray(table[key])
    except (KeyError, IndexError, TypeError, ValueError):
        raise ConfigError(
            f"data set {dataset}: expected a column {key[:60]!r}, found none; a target hides columns"
        ) from None
    return as_identifiers(column, f"data set {dataset}: {key[:60]!r}")


def as_identifiers(column: Any, what: str) -> Ids:
    """A column as identifiers, see `identifiers`.

    Args:
        what: its name, for messages.

    Raises:
        ConfigError: a column of another kind.
    """
    column = np.asarray(column)
    if column.ndim != 1:
        raise ConfigError(f"{what}: expected one identifier a row")
    if column.dtype.kind == "f":
        whole = np.isfinite(column) & (column == np.trunc(column)) & (np.abs(column) < 2.0**53)
        if not whole.all():
            raise ConfigError(f"{what}: expected whole numbers or text")
        column = column.astype(np.int64)
    return column if column.dtype.kind in "iuU" else list(column)
