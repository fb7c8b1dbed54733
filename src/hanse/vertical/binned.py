"""`hs.vertical.Binning`: how much the columns of two companies tell of a label that one of them holds, as an app.

    app = hs.vertical.Binning(dataset="customers", key="id", label="y")

First `hanse.vertical.psi.chase_miao` aligns the rows, then each party cuts its own columns into bins, and
`hanse.vertical.label_counts` counts positive rows in those of the host under encryption. No third party.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.app import RoleApp
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError
from hanse.vertical import label_counts
from hanse.vertical.binning import (
    MAX_BINS,
    METHODS,
    MIN_ROWS,
    Bins,
    Counts,
    Method,
    count,
    cut,
    cut_all,
    information_value,
    woe,
)
from hanse.vertical.correlated import numbers
from hanse.vertical.intersection import identifiers
from hanse.vertical.label_counts import Sees
from hanse.vertical.psi import chase_miao

_TELLS = {"common": "how many identifiers both hold", "columns": "how many columns this side has"}


class Binning(RoleApp):
    """Weight of evidence and information value of every column of guest and host, over their common rows.

    Returns of both roles: metrics `common` and `columns`. Arrays of the guest: `iv`, float64 `(its columns,)`,
    `host_iv` likewise for the host's, and of its own columns `bins` (of each column), `edges`, `missing`, `rows`,
    `positives`, `woe`, column behind column; with `sees="guest"` also `host_bins`, `host_rows`, `host_positives` and
    `host_woe`, in an order of bins that means nothing. Arrays of the host: `bins`, `edges`, `missing`, `rows`; with
    `sees="host"` also `positives`, `woe` and `iv`. `bins_of` and `woe_of` read them.

    Args:
        dataset: its name, the same at guest and host; a mapping of columns, such as a CSV file without a target.
        key: the column that identifies a person.
        label: the guest's column of two values; the larger is called positive. All other columns must be numbers;
            NaN is missing.
        num_bins: of each column at most, and one of missing values.
        min_rows: of each bin at least.
        method: `quantile` or `width`, see `binning.cut`.
        sees: who learns the counts in the host's bins, `guest` or `host`; see `label_counts`.
        include: see `RoleApp`.
        options: as for `RoleApp`: `timeout_s`, `deadline_s`, `away_s`, `retries`, `seed`, `threads`.

    Raises:
        ConfigError: a setting out of range.
    """

    def __init__(
        self,
        *,
        dataset: str,
        key: str,
        label: str,
        num_bins: int = 10,
        min_rows: int = MIN_ROWS,
        method: Method = "quantile",
        sees: Sees = "guest",
        include: Sequence[str | Path] = (),
        **options: Any,
    ) -> None:
        counting = label_counts.protocol(sees)
        cut(np.zeros(max(1, min_rows)), num_bins=num_bins, min_rows=min_rows, method=method)  # settings, before a job
        parts = {"psi": chase_miao.PROTOCOL, "counts": counting}
        super().__init__(Protocol.joined("psi+label-counts", parts), tells=_TELLS, include=include, **options)

        async def guest(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            positive = positives_of(table, dataset, label)
            places = await chase_miao.guest(party.part("psi"), identifiers(table, dataset, key))
            positive = positive[places]
            own = {name: column for name, column in table.items() if name != label}
            bins, at = _cut(numbers(own, dataset, key)[places], num_bins, min_rows, method)
            found = await label_counts.guest(party.part("counts"), positive, sees=sees)
            positives = [count(each, b.num_bins, positive) for each, b in zip(at, bins, strict=True)]
            arrays = _described(bins, at, positives) | {"host_iv": found.information_values}
            if found.rows is not None and found.positives is not None:
                theirs = _counted([len(each) for each in found.rows], found.rows, found.positives)
                theirs.pop("iv")
                arrays |= {f"host_{name}": array for name, array in theirs.items()}
            return arrays, {"common": len(places), "columns": len(bins)}

        async def host(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            places = await chase_miao.host(party.part("psi"), identifiers(table, dataset, key))
            bins, at = _cut(numbers(table, dataset, key)[places], num_bins, min_rows, method)
            sizes = [each.num_bins for each in bins]
            positives = await label_counts.host(party.part("counts"), at, sizes, sees=sees)
            return _described(bins, at, positives), {"common": len(places), "columns": len(bins)}

        self.role("guest")(guest)
        self.role("host")(host)


def positives_of(table: Any, dataset: str, label: str) -> npt.NDArray[np.bool_]:
    """A label of two values as bool: True for the larger.

    Raises:
        ConfigError: there is no such column, or it has another number of values, or missing ones.
    """
    try:
        column = np.asarray(table[label])
    except (KeyError, IndexError, TypeError, ValueError):
        raise ConfigError(f"data set {dataset}: expected a column {label[:60]!r} as the label, found none") from None
    if column.dtype.kind == "f" and np.isnan(column).any():
        raise ConfigError(
            f"data set {dataset}: expected a label in every row, found {int(np.isnan(column).sum())} none"
        )
    values = np.unique(column)
    if column.ndim != 1 or len(values) != 2:
        raise ConfigError(f"data set {dataset}: expected a label of two values, found {len(values)}")
    positive: npt.NDArray[np.bool_] = column == values[1]
    return positive


def bins_of(arrays: Mapping[str, Array]) -> list[Bins]:
    """The bins of a party's own columns, from what its role returned: for `binning.transform`."""
    sizes, missing = arrays["bins"].tolist(), arrays["missing"].tolist()
    num_edges = [size - 1 - (at > 0) for size, at in zip(sizes, missing, strict=True)]
    edges = np.split(arrays["edges"], np.cumsum(num_edges)[:-1])
    return [Bins(each, at) for each, at in zip(edges, missing, strict=True)]


def woe_of(arrays: Mapping[str, Array]) -> list[npt.NDArray[np.float64]]:
    """The weight of evidence of each bin of each own column, from what its role returned."""
    return np.split(arrays["woe"], np.cumsum(arrays["bins"])[:-1])


def _cut(
    table: npt.NDArray[np.float64], num_bins: int, min_rows: int, method: Method
) -> tuple[list[Bins], list[Counts]]:
    bins = cut_all(table, num_bins=num_bins, min_rows=min_rows, method=method)
    return bins, [each.place(column) for each, column in zip(bins, table.T, strict=True)]


def _described(bins: list[Bins], places: list[Counts], positives: list[Counts] | None) -> dict[str, Array]:
    sizes = [each.num_bins for each in bins]
    rows = [count(at, size) for at, size in zip(places, sizes, strict=True)]
    return {
        "edges": np.concatenate([each.edges for each in bins]),
        "missing": np.array([each.missing for each in bins], np.int64),
        **_counted(sizes, rows, positives),
    }


def _counted(sizes: list[int], rows: list[Counts], positives: list[Counts] | None) -> dict[str, Array]:
    found: dict[str, Array] = {"bins": np.array(sizes, np.int64), "rows": np.concatenate(rows)}
    if positives is not None:
        both = list(zip(rows, positives, strict=True))
        found |= {
            "positives": np.concatenate(positives),
            "woe": np.concatenate([woe(n, p) for n, p in both]),
            "iv": np.array([information_value(n, p) for n, p in both]),
        }
    return found


__all__ = ["MAX_BINS", "METHODS", "Binning", "bins_of", "positives_of", "woe_of"]
