"""`hs.vertical.Intersection`: which customers companies share, as an app that can be submitted as it is.

    app = hs.vertical.Intersection(dataset="customers", key="id")
    app = hs.vertical.Intersection(
        dataset="customers", key=["email", "phone"], match="any", repeated="pairs", join="left"
    )

The guest and one or several hosts learn which of their own rows the others have, too; each keeps their places, in a
common order, in its folder `outputs`. The server and who submits learn how many there are: `rows` and `common`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.app import RoleApp, RolePlay, RoleProgram
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol, Reveal
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER
from hanse.core.origin import file_of, included, maker_of
from hanse.core.stream import Stream
from hanse.vertical import alignment
from hanse.vertical.alignment import JOINS, NONE, Holdings
from hanse.vertical.casting import hosts_among, role_app
from hanse.vertical.parties import GUEST
from hanse.vertical.psi import chase_miao, diffie_hellman
from hanse.vertical.psi.ids import Ids, Places, secret_order
from hanse.vertical.psi.keys import Key, Keyed, keyed, read_key, streamed

_PROTOCOLS: dict[str, Any] = {"default": chase_miao, "diffie-hellman": diffie_hellman}
REPEATED = ("refuse", "pairs")


@dataclass(frozen=True, slots=True, kw_only=True)
class Intersection(RolePlay):
    """Private set intersection of one data set at each site: a guest's and one or several hosts'.

    Returns of each role: arrays `places`: int64, `(num_joined,)`, rows of that site's data set; the same person in the
    same place at all. Where a host has no row for a guest's (`join="left"`) its place is −1. Metrics: `rows`, how many
    rows the data set has; `common`, how many of the joined rows have one at this host, or, at the guest, at all hosts;
    with a left join `joined`, how many there are.

    Attributes:
        dataset: its name, the same at all sites; a mapping of columns, such as a CSV file without a target.
        key: the columns that identify a person, see `hanse.vertical.psi.keys`. Whole numbers and text are different
            things, at all sites alike.
        match: of several columns: `all` must agree, or `any`.
        join: `inner`: rows that all have; `left`: all of the guest's.
        repeated: identifiers that stand in several rows of a table: `refuse`, or `pairs`: each row of one table with
            each of the other, as SQL joins.
        max_joined: how many rows the joined table may have, and so what a host that says that it holds identifiers many
            times may cost the guest: about 100 bytes each while they are joined; at most 2^27.
        only_count: the guest learns how many identifiers are common and not which, the host nothing but the guest's
            number; one host, one column or several together, no join. Needs the extra `vertical`.
        protocol: `default` (Chase–Miao) or `diffie-hellman` (slower, fewer bytes; needs the extra `vertical`).
        timeout_s, deadline_s, away_s, retries, seed, threads, include: as for `hs.RoleApp`.

    Raises:
        ConfigError: a value that is wrong, by name.
    """

    dataset: str
    key: str | Sequence[str | Sequence[str]]
    match: str = "all"
    join: str = "inner"
    repeated: str = "refuse"
    max_joined: int = alignment.USUAL_JOINED
    only_count: bool = False
    protocol: str = "default"
    timeout_s: float = 300.0
    deadline_s: float = 3600.0
    away_s: float = 600.0
    retries: int = 2
    seed: int = 0
    threads: int = 1
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, known in (("protocol", tuple(_PROTOCOLS)), ("join", JOINS), ("repeated", REPEATED)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name}: expected one of {', '.join(known)}; found {getattr(self, name)!r:.40}")
        if type(self.max_joined) is not int or not 1 <= self.max_joined <= alignment.MAX_JOINED:
            raise ConfigError(
                f"max_joined: expected a whole number from 1 to {alignment.MAX_JOINED}, found {self.max_joined!r:.40}"
            )
        columns = read_key(self.key, self.match)
        if self.only_count and (len(columns.alternatives), self.join, self.repeated) != (1, "inner", "refuse"):
            raise ConfigError("only_count: expected one key whose columns all match, an inner join and no repeated ids")
        object.__setattr__(self, "include", included(self.include))
        object.__setattr__(self, "module_globals", maker_of("<string>", file_of(type(self))))

    @property
    def columns(self) -> Key:
        """The key."""
        return read_key(self.key, self.match)

    @property
    def linked(self) -> bool:
        """Whether an identifier may stand in several rows, or a row have several."""
        return self.repeated == "pairs" or len(self.columns.alternatives) > 1

    def whole(self, hosts: Sequence[str]) -> Protocol:
        """Everything that runs with these hosts, joined, and what is told.

        Raises:
            ConfigError: several hosts where only a number is asked for.
        """
        if self.only_count and len(hosts) > 1:
            raise ConfigError(f"only_count: expected one host, found {len(hosts)}")
        meet = diffie_hellman.COUNTING if self.only_count else _PROTOCOLS[self.protocol].PROTOCOL
        parts = {f"psi-{host}": meet.recast({"host": host}) for host in hosts}
        if self._follows(hosts):
            after = alignment.declared(left=self.join == "left", linked=self.linked)
            parts |= {f"rows-{host}": after.recast({"host": host}) for host in hosts}
        joined = Protocol.joined("vertical/intersection", parts)
        told = []
        for role in (GUEST, *hosts):
            told.append(Reveal(SERVER, role, "rows", "how many rows this side holds"))
            if role == GUEST or not self.only_count:
                told.append(Reveal(SERVER, role, "common", "how many joined rows, or identifiers, are common"))
            if self.join == "left":
                told.append(Reveal(SERVER, role, "joined", "how many rows the joined table has"))
        return replace(joined, reveals=(*joined.reveals, *told))

    def cast(self, roles: Collection[str]) -> RoleApp:
        """See `RolePlay.cast`: for as many hosts as these roles have; for one where there are none."""
        hosts = hosts_among(roles)
        app = role_app(self, self.whole(hosts), seed=self.seed)
        for role in app.protocol.roles:
            app.role(role)(self._in_a_job(hosts))
        return app

    def _in_a_job(self, hosts: Sequence[str]) -> RoleProgram:
        async def play(party: Party, site: Any) -> Any:
            table = self.table(site.load(self.dataset))
            told: dict[str, Any] = {"rows": table.num_rows}
            if self.only_count:
                return {**told, **await self._count(party.part(f"psi-{hosts[0]}", {"host": hosts[0]}), table.ids)}
            if party.role == GUEST:
                places, common = await self.guest(party, table, hosts)
            else:
                places = await self.host(party, table, hosts)
                common = int((places != NONE).sum())
            told["common"] = common
            if self.join == "left":
                told["joined"] = len(places)
            return {"places": places}, told

        return play

    async def _count(self, party: Party, ids: Any) -> dict[str, int]:
        if party.role == GUEST:
            return {"common": await diffie_hellman.count_guest(party, ids)}
        await diffie_hellman.count_host(party, ids)
        return {}

    def table(self, source: Any) -> Keyed:
        """A data set's identifiers and the rows that hold them.

        Raises:
            ConfigError: no such column, one of another kind, or identifiers that repeat where that is refused.
        """
        found = read_keyed(source, self.dataset, self.columns)
        if isinstance(found.ids, Stream):
            if self.linked or self.only_count or self.protocol != "default":
                raise ConfigError(
                    f"data set {self.dataset}: expected a key in memory; a stream's identifiers are intersected "
                    "by the default protocol, each once"
                )
            return found
        num_repeated = len(found.places) - len(found.ids)
        if num_repeated and self.repeated == "refuse":
            raise ConfigError(
                f"ids: expected each once, found {num_repeated} that repeat another; "
                "remove or number them, or join with repeated='pairs'"
            )
        return found

    async def guest(self, party: Party, table: Keyed, hosts: Sequence[str]) -> tuple[Places, int]:
        """Meet all hosts, one after another.

        Returns:
            The guest's row of each joined row, int64; and how many of these have a row at all hosts.

        Raises:
            As `chase_miao.guest`; ConfigError: too many joined rows.
        """
        play = _PROTOCOLS[self.protocol].guest
        for host in hosts if self.linked else ():
            # each pair is in a joined row, which may be there for each alternative
            most = self.max_joined * len(self.columns.alternatives)
            alignment.limit_holders(party.part(f"rows-{host}", {"host": host}), most)
        holdings = []
        for host in hosts:
            meeting = await play(party.part(f"psi-{host}", {"host": host}), table.ids)
            if not self._follows(hosts):
                return table.rows_of(meeting), len(meeting)
            mine = Holdings(*table.held(meeting))
            every = np.arange(len(meeting), dtype=np.int64)
            after = party.part(f"rows-{host}", {"host": host})
            theirs = await alignment.hear_holders(after, len(meeting)) if self.linked else Holdings(every, every)
            holdings.append((mine, theirs))
        joined = alignment.join(table.num_rows, holdings, left=self.join == "left", most=self.max_joined)
        order = secret_order(len(joined.own))
        for host, rows in zip(hosts, joined.theirs, strict=True):
            await alignment.guest(party.part(f"rows-{host}", {"host": host}), rows[order])
        common = np.all([rows != NONE for rows in joined.theirs], axis=0)
        return joined.own[order], int(common.sum())

    async def host(self, party: Party, table: Keyed, hosts: Sequence[str]) -> Places:
        """The other side: its own row of each joined row, −1 where it has none; errors as for `guest`."""
        names = {"host": party.role}
        meeting: Places = await _PROTOCOLS[self.protocol].host(party.part(f"psi-{party.role}", names), table.ids)
        if not self._follows(hosts):
            return table.rows_of(meeting)
        after = party.part(f"rows-{party.role}", names)
        if self.linked:
            own = await alignment.tell_holders(after, *table.held(meeting))
        else:
            own = table.rows_of(meeting)
        left = self.join == "left"
        return await alignment.host(after, own, left=left, repeated=self.linked, most=self.max_joined)

    def _follows(self, hosts: Sequence[str]) -> bool:
        """Whether intersection alone does not say which rows are joined."""
        return not self.only_count and (self.linked or self.join == "left" or len(hosts) > 1)


def read_keyed(source: Any, dataset: str, key: Key) -> Keyed:
    """A data set's identifiers and the rows that hold them; repeated ones are one.

    Raises:
        ConfigError: no such column, or one of another kind; of a key of one column, missing values.
    """
    if key.is_plain and isinstance(stream := _column(source, dataset, key.alternatives[0][0]), Stream):
        return streamed(stream)
    read = [
        [
            key_column(_column(source, dataset, name), f"data set {dataset}: {name[:60]!r}", missing=not key.is_plain)
            for name in group
        ]
        for group in key.alternatives
    ]
    return keyed([[ids for ids, _ in group] for group in read], [[absent for _, absent in group] for group in read])


def identifiers(table: Any, dataset: str, key: str) -> Ids:
    """A key column as identifiers: text, or whole numbers, which CSV files bring as floats.

    Raises:
        ConfigError: no such column, or one of another kind.
    """
    return as_identifiers(_column(table, dataset, key), f"data set {dataset}: {key[:60]!r}")


def _column(table: Any, dataset: str, key: str) -> Any:
    try:
        found = table[key]
        return found if isinstance(found, Stream) else np.asarray(found)
    except (KeyError, IndexError, TypeError, ValueError):
        raise ConfigError(
            f"data set {dataset}: expected a column {key[:60]!r}, found none; a target hides columns"
        ) from None


def key_column(column: Any, what: str, *, missing: bool) -> tuple[Ids, npt.NDArray[np.bool_]]:
    """A column as identifiers, and where it has none: None, NaN, or empty text.

    Args:
        missing: whether values may be missing; where one is, any identifier stands in its place.

    Raises:
        ConfigError: a column of another kind, or missing values where there may be none.
    """
    if isinstance(column, Stream):
        raise ConfigError(f"{what}: expected a column in memory, found a stream")
    absent = np.zeros(len(column), np.bool_)
    if missing and column.ndim == 1:
        if column.dtype.kind == "f":
            absent = np.isnan(column)
            column = np.where(absent, 0.0, column)
        elif column.dtype.kind == "U":
            absent = column == ""
        elif column.dtype.kind == "O":
            absent = np.array([each is None or each == "" or each != each for each in column.tolist()], np.bool_)
            values = column[~absent]
            column = np.array(column)
            column[absent] = type(values[0])() if len(values) else ""
    return as_identifiers(column, what), absent


def as_identifiers(column: Any, what: str) -> Ids:
    """A column as identifiers, see `identifiers`.

    Args:
        what: its name, for messages.

    Raises:
        ConfigError: a column of another kind.
    """
    if isinstance(column, Stream):
        raise ConfigError(f"{what}: expected a column in memory, found a stream")
    column = np.asarray(column)
    if column.ndim != 1:
        raise ConfigError(f"{what}: expected one identifier a row")
    if column.dtype.kind == "f":
        whole = np.isfinite(column) & (column == np.trunc(column)) & (np.abs(column) < 2.0**53)
        if not whole.all():
            raise ConfigError(f"{what}: expected whole numbers or text")
        column = column.astype(np.int64)
    return column if column.dtype.kind in "iuU" else list(column)
