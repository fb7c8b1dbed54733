"""Joint scoring of trees: the guest learns margins of rows that all parties hold, for a batch or a single row.

The guest names rows; each host answers, for every split of its own, whether each row goes left: one turn for all trees
of any depth. Then the guest walks the trees. Answers are exactly those of training, so joint scores equal offline
scores to the last bit.

That is more than the walk alone needs: with one bit for each split also of trees' other branches, a host's columns of
the scored rows are known up to its splits. Asking level by level would tell less and take a turn for each level. How
often a guest may ask is for the host's policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Guarantee, Message, Protocol, Reveal
from hanse.core.arrays import Array
from hanse.core.errors import ConfigError, RefusedError, UnavailableError
from hanse.vertical.boosting.forest import Forest, Mask, Questions, Wide
from hanse.vertical.glm.dealer import data_roles

MAX_ROWS = 1 << 24
IfOffline = Literal["refuse", "default"]


@dataclass(frozen=True, slots=True)
class PartyTrees:
    """One party's part of trained trees. It stays there.

    Attributes:
        names: of the columns that it was trained on.
        questions: its own splits.
        forest: at the guest, the trees; None at hosts.
        num_hosts: how many there were in the training; 0 if that is not known.
    """

    names: tuple[str, ...]
    questions: Questions
    forest: Forest | None = None
    num_hosts: int = 0


def protocol(num_hosts: int = 1) -> Protocol:
    """The declaration for that many hosts."""
    hosts = data_roles(num_hosts)[1:]
    return Protocol(
        name="boosting/scoring",
        roles=("guest", *hosts),
        messages=tuple(
            message
            for host in hosts
            for message in (
                Message("rows", "guest", host, "int64", (None,)),
                Message("lefts", host, "guest", "uint8", (None, None)),
            )
        ),
        guarantee=Guarantee("semi-honest", 1, 128, 128, ()),
        reveals=tuple(
            reveal
            for host in hosts
            for reveal in (
                Reveal(host, "guest", "scored_rows", "which of the common rows the guest asks for"),
                Reveal(
                    "guest", host, "split_answers", "for each of these rows and each split of the host: left or not"
                ),
            )
        ),
    )


async def guest(party: Party, part: PartyTrees, table: Wide, rows: Array, *, if_offline: IfOffline = "refuse") -> Wide:
    """Score rows.

    Args:
        party: in the role `guest`.
        part: the guest's.
        table: the guest's columns of these rows, `(n, num_columns)`.
        rows: places of these rows in the common order, `(n,)`.
        if_offline: what a host that cannot be reached means: `refuse` the scores, or take the `default` direction at
            its splits: to the child that more of the training's Σh went to.

    Returns:
        Margins, float64 `(n, num_outputs)`.

    Raises:
        ConfigError: rows that do not fit the table. RefusedError: answers that do not fit the trees. UnavailableError:
        a host is silent or gone, and `refuse` was asked for.
    """
    forest = part.forest
    if forest is None:
        raise ConfigError("scoring: expected the guest's part of the model, found a host's")
    if rows.shape != (len(table),) or not 1 <= len(rows) <= MAX_ROWS:
        raise ConfigError(f"scoring: expected one place for each of 1 to {MAX_ROWS} rows, found {rows.shape}")
    if if_offline not in ("refuse", "default"):
        raise ConfigError(f"if_offline: expected refuse or default, found {if_offline!r:.40}")
    _check_columns(part, table)
    hosts = party.protocol.roles[1:]
    asked = []
    for role in hosts:
        try:
            await party.send(role, "rows", rows)
            asked.append(role)
        except UnavailableError:
            if if_offline == "refuse":
                raise
    lefts: list[Mask | None] = [part.questions.lefts(table)]
    for place, role in enumerate(hosts):
        needed = int(forest.question[forest.party == place + 1].max(initial=-1)) + 1
        try:
            lefts.append(_unpacked(await party.recv(role, "lefts"), len(rows), needed, role) if role in asked else None)
        except UnavailableError:
            if if_offline == "refuse":
                raise
            lefts.append(None)
    return np.ascontiguousarray(forest.margins(len(rows), lefts).T)


async def host(party: Party, part: PartyTrees, table: Wide, *, max_rows: int = MAX_ROWS) -> None:
    """Answer one question of the guest.

    Args:
        party: in a host's role.
        part: the host's.
        table: its columns, `(num_rows, num_columns)`, in the common order.
        max_rows: how many rows the guest may ask for.

    Raises:
        RefusedError: more rows than that, or rows that are not there.
    """
    _check_columns(part, table)
    rows = await party.recv("guest", "rows")
    if not 1 <= len(rows) <= max_rows:
        raise RefusedError(f"guest: expected to be asked for 1 to {max_rows} rows, found {len(rows)}")
    if rows.min() < 0 or rows.max() >= len(table):
        raise RefusedError(f"guest: expected rows from 0 to {len(table) - 1}, found others")
    await party.send("guest", "lefts", np.packbits(part.questions.lefts(table[rows]), axis=1))


def simulate_view(role: str, reveals: Mapping[str, Any]) -> list[tuple[str, Array]]:
    """What `role` receives: it is what is revealed to it.

    Args:
        reveals: to a host `scored_rows`; to the guest, of each host in order, `split_answers`, bool `(rows, splits)`.
    """
    if role == "guest":
        return [("lefts", np.packbits(np.asarray(each, np.bool_), axis=1)) for each in reveals["split_answers"]]
    return [("rows", np.asarray(reveals["scored_rows"], np.int64))]


def _check_columns(part: PartyTrees, table: Wide) -> None:
    if table.ndim != 2 or table.shape[1] != len(part.names) or np.isinf(table).any():
        raise ConfigError(f"table: expected {len(part.names)} columns of finite or missing values, as trained on")


def _unpacked(raw: Array, num_rows: int, needed: int, who: str) -> npt.NDArray[np.bool_]:
    if len(raw) != num_rows or 8 * raw.shape[1] < needed:
        raise RefusedError(f"{who}: expected answers to {needed} splits for {num_rows} rows, found another number")
    bits: Mask = np.unpackbits(raw, axis=1, count=needed).view(np.bool_)  # a host may have sent a gibibyte
    return bits
