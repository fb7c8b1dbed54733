"""`hs.vertical.Binning`: how much the columns of two companies tell of a label that one of them holds, as an app.

    app = hs.vertical.Binning(dataset="customers", key="id", label="y")

First `hanse.vertical.psi.chase_miao` aligns the rows, then each party cuts its own columns into bins, and
`hanse.vertical.label_counts` counts positive rows in those of the host under encryption. No third party. A label of
several values is counted once for each of them, that value against the rest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.app import RoleApp
from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError
from hanse.vertical import label_counts, meeting
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
from hanse.vertical.correlated import checked_numbers, numbers
from hanse.vertical.glm.families import MAX_CLASSES
from hanse.vertical.intersection import identifiers
from hanse.vertical.label_counts import Sees
from hanse.vertical.psi import chase_miao

CLASSES = Protocol(
    name="statistics/label-kinds",
    roles=("guest", "host"),
    messages=(Message("kinds", "guest", "host", "int64", ()),),
    guarantee=Guarantee("semi-honest", 1, 128, 128, ()),
    reveals=(Reveal("host", "guest", "label_kinds", "how many values the label has in the common rows"),),
)
"""How often labels are counted: once for a label of two values, otherwise for each value against the rest."""
_TELLS = {"common": "how many identifiers both hold", "columns": "how many columns this side has"}


class Binning(RoleApp):
    """Weight of evidence and information value of every column of guest and host, over their common rows.

    Returns of both roles: metrics `common` and `columns`. Arrays of the guest: `iv`, float64 `(its columns,)`,
    `host_iv` likewise for the host's, and of its own columns `bins` (of each column), `edges`, `missing`, `rows`,
    `positives`, `woe`, column behind column; with `sees="guest"` also `host_bins`, `host_rows`, `host_positives` and
    `host_woe`, in an order of bins that means nothing. Arrays of the host: `bins`, `edges`, `missing`, `rows`; with
    `sees="host"` also `positives`, `woe` and `iv`. `bins_of` and `woe_of` read them. Of a label of more than two values
    all that is counted has a first axis: one row for each value against the rest, in rising order of the values.

    Args:
        dataset: its name, the same at guest and host; a mapping of columns, such as a CSV file without a target.
        key: the column that identifies a person.
        label: the guest's column of two values, of which the larger is called positive, or of up to 64. All other
            columns must be numbers; NaN is missing.
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
        parts = {"psi": chase_miao.PROTOCOL, "classes": CLASSES, "counts": counting}
        super().__init__(Protocol.joined("psi+label-counts", parts), tells=_TELLS, include=include, **options)

        async def guest(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            values = label_of(table, dataset, label)
            own = {name: column for name, column in table.items() if name != label}
            checked_numbers(own, dataset, key)
            places = await chase_miao.guest(party.part("psi"), identifiers(table, dataset, key))
            kinds = kinds_of(values[meeting.some(places)])
            bins, at = _cut(numbers(own, dataset, key)[places], num_bins, min_rows, method)
            await party.part("classes").send("host", "kinds", np.array(len(kinds), np.int64))
            sizes = [each.num_bins for each in bins]
            rows = [count(each, size) for each, size in zip(at, sizes, strict=True)]
            own_counts, their_counts = [], []
            for positive in kinds:
                found = await label_counts.guest(party.part("counts"), positive, sees=sees)
                told = {"iv": found.information_values}
                if found.rows is not None and found.positives is not None:
                    told |= {"bins": np.array([len(each) for each in found.rows], np.int64)}
                    told |= {"rows": np.concatenate(found.rows), **_counted(found.rows, found.positives)}
                their_counts.append(told)
                positives = [count(each, size, positive) for each, size in zip(at, sizes, strict=True)]
                own_counts.append(_counted(rows, positives))
            theirs = {f"host_{name}": array for name, array in _stacked(their_counts, alike=("bins",)).items()}
            arrays = {**_described(bins, rows), **_stacked(own_counts), **theirs}
            return arrays, {"common": len(places), "columns": len(bins)}

        async def host(party: Party, site: Any) -> Any:
            table = site.load(dataset)
            checked_numbers(table, dataset, key, not_here=label)
            places = await chase_miao.host(party.part("psi"), identifiers(table, dataset, key))
            columns = numbers(table, dataset, key, not_here=label)
            bins, at = _cut(columns[meeting.some(places)], num_bins, min_rows, method)
            sizes = [each.num_bins for each in bins]
            num_kinds = int(await party.part("classes").recv("guest", "kinds"))
            if not 1 <= num_kinds <= MAX_CLASSES or num_kinds == 2:
                raise RefusedError(f"guest: expected a label of two values, or of 3 to {MAX_CLASSES}, found others")
            rows = [count(each, size) for each, size in zip(at, sizes, strict=True)]
            counts = []
            for _ in range(num_kinds):
                positives = await label_counts.host(party.part("counts"), at, sizes, sees=sees)
                counts.append({} if positives is None else _counted(rows, positives))
            return {**_described(bins, rows), **_stacked(counts)}, {"common": len(places), "columns": len(bins)}

        self.role("guest")(guest)
        self.role("host")(host)


def label_of(table: Any, dataset: str, label: str) -> npt.NDArray[Any]:
    """A label's column, `(n,)`.

    Raises:
        ConfigError: there is no such column, or it has fewer than 2 values or more than 64, or missing ones.
    """
    try:
        column = np.asarray(table[label])
    except (KeyError, IndexError, TypeError, ValueError):
        raise ConfigError(f"data set {dataset}: expected a column {label[:60]!r} as the label, found none") from None
    if column.dtype.kind == "f" and np.isnan(column).any():
        raise ConfigError(
            f"data set {dataset}: expected a label in every row, found {int(np.isnan(column).sum())} none"
        )
    if column.dtype.hasobject and all(type(each) is str for each in column.tolist()):
        column = column.astype(np.str_)
    if column.dtype.kind not in "fiubU":
        raise ConfigError(f"data set {dataset}: expected a label of numbers or text in every row, found other kinds")
    if column.dtype.kind == "U" and (column == "").any():
        raise ConfigError(f"data set {dataset}: expected a label in every row, found {int((column == '').sum())} empty")
    values = np.unique(column)
    if column.ndim != 1 or not 2 <= len(values) <= MAX_CLASSES:
        raise ConfigError(f"data set {dataset}: expected a label of 2 to {MAX_CLASSES} values, found {len(values)}")
    return column


def positives_of(table: Any, dataset: str, label: str) -> npt.NDArray[np.bool_]:
    """A label of two values as bool: True for the larger; errors as for `label_of`, and for more than two values."""
    column = label_of(table, dataset, label)
    values = np.unique(column)
    if len(values) != 2:
        raise ConfigError(f"data set {dataset}: expected a label of two values, found {len(values)}")
    positive: npt.NDArray[np.bool_] = column == values[1]
    return positive


def kinds_of(values: npt.NDArray[Any]) -> list[npt.NDArray[np.bool_]]:
    """What is counted of a label: where it has its larger value; or, of more than two, for each value where it has it.

    Raises:
        ConfigError: rows of one value only.
    """
    different = np.unique(values)
    if len(different) < 2:
        raise ConfigError("label: expected common rows of two values at least, found one")
    return [values == value for value in (different[1:] if len(different) == 2 else different)]


def bins_of(arrays: Mapping[str, Array]) -> list[Bins]:
    """The bins of a party's own columns, from what its role returned: for `binning.transform`."""
    sizes, missing = arrays["bins"].tolist(), arrays["missing"].tolist()
    num_edges = [size - 1 - (at > 0) for size, at in zip(sizes, missing, strict=True)]
    edges = np.split(arrays["edges"], np.cumsum(num_edges)[:-1])
    return [Bins(each, at) for each, at in zip(edges, missing, strict=True)]


def woe_of(arrays: Mapping[str, Array], kind: int = 0) -> list[npt.NDArray[np.float64]]:
    """The weight of evidence of each bin of each own column, from what its role returned.

    Args:
        kind: of a label of more than two values, the place of the one that is asked for.
    """
    return np.split(np.atleast_2d(arrays["woe"])[kind], np.cumsum(arrays["bins"])[:-1])


def _cut(
    table: npt.NDArray[np.float64], num_bins: int, min_rows: int, method: Method
) -> tuple[list[Bins], list[Counts]]:
    bins = cut_all(table, num_bins=num_bins, min_rows=min_rows, method=method)
    return bins, [each.place(column) for each, column in zip(bins, table.T, strict=True)]


def _described(bins: list[Bins], rows: list[Counts]) -> dict[str, Array]:
    return {
        "edges": np.concatenate([each.edges for each in bins]),
        "missing": np.array([each.missing for each in bins], np.int64),
        "bins": np.array([each.num_bins for each in bins], np.int64),
        "rows": np.concatenate(rows),
    }


def _counted(rows: list[Counts], positives: list[Counts]) -> dict[str, Array]:
    both = list(zip(rows, positives, strict=True))
    return {
        "positives": np.concatenate(positives),
        "woe": np.concatenate([woe(n, p) for n, p in both]),
        "iv": np.array([information_value(n, p) for n, p in both]),
    }


def _stacked(counts: Sequence[Mapping[str, Array]], alike: Sequence[str] = ()) -> dict[str, Array]:
    """What was counted, as it is of one kind of rows, and of several one row each but where all are alike."""
    if len(counts) == 1:
        return dict(counts[0])
    return {name: counts[0][name] if name in alike else np.stack([each[name] for each in counts]) for name in counts[0]}


__all__ = ["MAX_BINS", "METHODS", "Binning", "bins_of", "label_of", "positives_of", "woe_of"]
