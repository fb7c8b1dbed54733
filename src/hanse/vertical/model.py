"""`Model`: a vertical model as an app. Roles meet, train, and judge what they trained; each keeps its part.

    app = hs.vertical.LogisticRegression(label="y", key="id", dataset="customers")
    hs.run(app, federation="federation.yaml", roles={"guest": "bank", "host": ["shop", "telco"], "arbiter": "notary"})

A model is plain data; how many hosts there are is known when its roles are cast, and with that what it declares: the
protocols of `meeting`, of the training and of the scoring, joined. The same program of a role runs in a job, in
`hs.simulate` and in `hs.vertical.simulate`.

What a kind of model differs in are the methods that raise `NotImplementedError` here.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from hanse.channels import resuming
from hanse.channels.app import RoleApp, RolePlay, RoleProgram
from hanse.channels.checkpoints import Checkpoints, Progress
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol, Reveal
from hanse.channels.secret import new_secret
from hanse.core import scratch
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.core.ids import SERVER
from hanse.core.origin import file_of, included, maker_of
from hanse.vertical import meeting
from hanse.vertical.casting import hosts_among, role_app
from hanse.vertical.intersection import as_identifiers
from hanse.vertical.parties import ARBITER, GUEST, IfOffline
from hanse.vertical.psi.ids import Places, encoded, kind_of
from hanse.vertical.tables import Table, read_table

Program = Callable[[Party], Awaitable[Any]]
GUEST_METRICS = "guest_metrics"
_MEASURED = "metrics that the guest tells of scores into which this side's columns go, too: {}"
TELLS = {"rows": "how many rows this side holds", "common": "how many rows all parties hold"}


@dataclass(frozen=True, slots=True)
class Played:
    """What a role with data ends with. It stays there.

    Attributes:
        part: its part of the model.
        rows: places in its own table of the rows that were judged, in their common order.
        common: how many rows all parties hold.
        num_rows: how many rows its table has.
        trained: what the training's program returned.
        response: the guest's label as it was trained on; None at hosts.
        scores: the guest's, of the rows that were judged, one row each; empty at hosts.
        metrics: the guest's, of these scores.
    """

    part: Any
    rows: Places
    common: int
    num_rows: int
    trained: Any
    response: Any = None
    scores: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 0)))
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(RolePlay):
    """What vertical models share.

    Attributes:
        label: the guest's column that is predicted.
        key: the column of identifiers at every party; None where rows are in one common order already.
        weight: the guest's column of sample weights, or None.
        test: the share of the common rows that is held out and judged by, 0 ≤ test < 1; with 0 the model is judged by
            the rows that it was trained on.
        seed: of the order of rows and of batches; what is secret is drawn elsewhere.
        dataset: of a job: the data set's name, the same at every party; a mapping of columns, such as a CSV file
            without a target.
        timeout_s, deadline_s, away_s, retries, threads, include: of a job, as for `hs.RoleApp`.

    Raises:
        ConfigError: a value out of its range.
    """

    label: str = "y"
    key: str | None = "id"
    weight: str | None = None
    test: float = 0.0
    seed: int = 0
    dataset: str = "customers"
    timeout_s: float = 600.0
    deadline_s: float = 86_400.0
    away_s: float = 600.0
    retries: int = 2
    threads: int = 1
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (type(self.test) in (int, float) and 0 <= self.test < 1):
            raise ConfigError(f"test: expected a share from 0 to below 1, found {self.test!r:.40}")
        object.__setattr__(self, "include", included(self.include))
        ours = ("<string>", *(file_of(kind) for kind in type(self).__mro__))  # a dataclass's own __init__ is a string
        object.__setattr__(self, "module_globals", maker_of(*ours))

    # ---- what a kind of model differs in ----

    def declared(self, num_hosts: int) -> Protocol:
        """The declaration of the training."""
        raise NotImplementedError

    def scored(self, num_hosts: int) -> Protocol:
        """The declaration of joint scoring."""
        raise NotImplementedError

    def measures(self) -> Mapping[str, str]:
        """Names of the metrics that the guest tells, each with what it is."""
        raise NotImplementedError

    def columns(self, table: Table, *, is_guest: bool) -> Any:
        """A party's columns as they are trained on."""
        raise NotImplementedError

    def respond(self, label: npt.NDArray[Any], among: npt.NDArray[Any] | None = None) -> Any:
        """The guest's label as it is trained on.

        Args:
            among: that of its whole table. Where labels are answered by chance, classes are its values: which of them
                occur in the common rows would tell whoever chooses these rows a label.
        """
        raise NotImplementedError

    def answered(self, response: Any, rows: Callable[[], Iterable[bytes]], secret: Callable[[], bytes]) -> Any:
        """What the guest trains on instead of its label, where that is not told as it is; by default the label.

        Args:
            response: see `respond`.
            rows: gives an identifier for each of its rows.
            secret: gives 32 bytes that only the guest's site knows, the same ones in all its jobs.
        """
        return response

    def program(self, role: str, columns: Any = None, response: Any = None, **options: Any) -> Program:
        """The program of one role of the training.

        Args:
            role: `guest`, a host, or `arbiter`.
            columns: of the guest and the hosts, see `columns`.
            response: of the guest, see `respond`.
            options: `progress` (`hanse.channels.checkpoints.Progress`), `sample_weights` of the guest, `start` of
                either, where there are any.
        """
        raise NotImplementedError

    def part_of(self, columns: Any, trained: Any, num_hosts: int) -> Any:
        """A party's part of the model, without its rows; it has `num_hosts`, or 0 where it does not know."""
        raise NotImplementedError

    def judged(self, trained: Any, num_rows: int) -> Places:
        """Where `test` holds nothing out: which of the rows that the guest trained on it judges by; by default all."""
        return np.arange(num_rows, dtype=np.int64)

    def names_in(self, part: Any) -> tuple[str, ...]:
        """The columns of a party that its part was trained on, in their order."""
        raise NotImplementedError

    async def ask(self, party: Party, part: Any, values: Any, rows: Places, if_offline: IfOffline) -> Any:
        """The guest's scores of these rows, float64 `(n, outputs)`.

        Args:
            party: in the role `guest` of the protocol `scored`.
            part: the guest's.
            values: its columns of these rows, `(n, columns)`.
            rows: their places in the hosts' tables.
            if_offline: what a host that cannot be reached means.
        """
        raise NotImplementedError

    async def answer(self, party: Party, part: Any, values: Any, *, max_rows: int | None = None) -> None:
        """A host's side of `ask`, for its columns `values` in the common order, once and for at most `max_rows`."""
        raise NotImplementedError

    def judge(self, response: Any, label: npt.NDArray[Any], scores: Any) -> Mapping[str, float]:
        """Metrics of scores, some of those that are named in `measures`."""
        raise NotImplementedError

    def also_told(self, trained: Any) -> Mapping[str, float]:
        """Metrics of the training itself, at the guest, some of those that are named in `measures`; by default none."""
        return {}

    def predicted(self, response: Any, scores: Any) -> npt.NDArray[np.float64]:
        """Scores as predictions of the label."""
        raise NotImplementedError

    def encoded(self, part: Any, response: Any) -> Arrays:
        """A party's part as arrays; at the guest with its response, of which the rows are left out."""
        raise NotImplementedError

    def decoded(self, arrays: Arrays) -> tuple[Any, Any]:
        """What `encoded` made: the part, and the guest's response.

        Raises:
            CodecError: it is something else.
        """
        raise NotImplementedError

    def result(self, played: "Mapping[str, Played]") -> Any:
        """What `hs.vertical.simulate` gives back.

        Args:
            played: of each role with data.
        """
        raise NotImplementedError

    # ---- the app ----

    def whole(self, hosts: Sequence[str]) -> Protocol:
        """Everything that a training with these hosts runs, joined."""
        meet = {} if self.key is None else meeting.parts(hosts)
        training = self.declared(len(hosts))
        parts = {
            "resuming": resuming.protocol(GUEST, hosts, [role for role in training.roles if role == ARBITER]),
            **meet,
            "training": training,
            "scoring": self.scored(len(hosts)),
        }
        joined = Protocol.joined(f"vertical/{training.name}", parts)
        told = [Reveal(SERVER, role, *each) for role in (GUEST, *hosts) for each in TELLS.items()]
        told += [Reveal(SERVER, GUEST, *each) for each in self.measures().items()]
        told += [Reveal(SERVER, host, GUEST_METRICS, _MEASURED.format(", ".join(self.measures()))) for host in hosts]
        return replace(joined, reveals=(*joined.reveals, *told))

    def cast(self, roles: Collection[str]) -> RoleApp:
        """See `RolePlay.cast`: for as many hosts as these roles have; for one where there are none."""
        hosts = hosts_among(roles)
        app = role_app(self, self.whole(hosts), seed=self.seed)
        for role in app.protocol.roles:
            app.role(role)(self._in_a_job(role, hosts))
        return app

    def _in_a_job(self, role: str, hosts: Sequence[str]) -> RoleProgram:
        async def play(party: Party, site: Any) -> Any:
            if role == ARBITER:
                await self.deal(party)
                return None
            played = await self.play(
                party, site.load(self.dataset), hosts, kept=site.checkpoints, log=site.log, secret=site.secret
            )
            told = {"rows": played.num_rows, "common": played.common, **played.metrics}
            return self.encoded(played.part, played.response), told

        return play

    async def deal(self, party: Party) -> None:
        """Play the role without data."""
        done = max(0, await resuming.listen(party.part("resuming"), GUEST))
        await self.program(ARBITER, progress=Progress(done))(party.part("training"))

    async def play(
        self,
        party: Party,
        source: Any,
        hosts: Sequence[str],
        *,
        start: Any = None,
        kept: Callable[[bytes], Checkpoints] | None = None,
        log: Callable[[str], None] = lambda text: None,
        secret: Callable[[], bytes] = new_secret,
    ) -> Played:
        """Play a role that has data, from its table to its part of the model.

        Args:
            party: of the protocol `whole`.
            source: its table, see `hanse.vertical.tables`.
            hosts: names of the hosts' roles.
            start: what training goes on from, where there is something.
            kept: gives the checkpoints that hold for a digest of the table.
            log: told where an earlier session is gone on from.
            secret: see `answered`; by default drawn for this training alone.

        Raises:
            ConfigError: a table that does not fit the model or the other parties', a training that diverged.
            RefusedError: a party does not keep to the protocol. UnavailableError: one is silent or gone.
        """
        is_guest = party.role == GUEST
        table = self.table(source, party.role)
        checkpoints = None if kept is None else kept(self._digest(table))
        progress, places = await self._begin(party, table, hosts, checkpoints, log)
        aligned = table.take(places)
        trained_on, judged_by = meeting.held_out(len(places), self.test, self.seed)
        used = aligned.take(trained_on) if self.test else aligned
        columns = self.columns(used, is_guest=is_guest)
        options: dict[str, Any] = {"progress": progress} if start is None else {"progress": progress, "start": start}
        response = None
        if is_guest:
            named = partial(_identified, used.ids, places[trained_on], f"{party.role}: {str(self.key)[:60]!r}")
            response = self.answered(self.respond(_given(used.label), _given(table.label)), named, secret)
            options["response"] = response
            if used.sample_weights is not None:
                options["sample_weights"] = used.sample_weights
        trained = await self.program(party.role, columns, **options)(party.part("training"))
        part = self.part_of(columns, trained, len(hosts))
        judged = judged_by if self.test else trained_on
        values, scoring = aligned.values, party.part("scoring")
        if self.test:
            values = scratch.take(values, judged)
        found = Played(part, places[judged], len(places), table.num_rows, trained, response)
        if not is_guest:
            await self.answer(scoring, part, values)
            return found
        rows = np.arange(len(judged), dtype=np.int64) if self.test else self.judged(trained, len(judged))
        scores = await self.ask(scoring, part, scratch.take(values, rows), rows, "refuse")
        metrics = self.judge(response, _given(aligned.label)[judged][rows], scores)
        told = {**metrics, **self.also_told(trained)}
        return replace(found, rows=found.rows[rows], scores=scores, metrics=told)

    async def _begin(
        self,
        party: Party,
        table: Table,
        hosts: Sequence[str],
        checkpoints: Checkpoints | None,
        log: Callable[[str], None],
    ) -> tuple[Progress, Places]:
        """Agree on a checkpoint, and meet unless it says who is common."""
        have = [] if checkpoints is None else checkpoints.have()
        part = party.part("resuming")
        agreed = await (resuming.lead(part, have) if party.role == GUEST else resuming.follow(part, have, GUEST))
        if checkpoints is None:
            return Progress(), await self.meet(party, table, hosts)
        checkpoints.drop_after(agreed)
        if agreed == resuming.NONE:
            places = await self.meet(party, table, hosts)
            checkpoints.keep(0, Arrays({"places": places}))
        else:
            places = np.asarray(checkpoints.load(0)["places"])
            log(f"role {party.role}: goes on from checkpoint {agreed}")
        state = checkpoints.load(agreed) if agreed > 0 else Arrays()
        return Progress(max(agreed, 0), state, checkpoints.keep, True), places

    def _digest(self, table: Table) -> bytes:
        """Of everything that a checkpoint depends on at this party: the model and the rows."""
        found = blake3(repr(self).encode())
        for column in (table.ids, table.values, table.label, table.sample_weights):
            if column is not None:
                found.update(f"{column.dtype} {column.shape} ".encode())
                if column.dtype.hasobject:
                    found.update(repr(column.tolist()).encode())
                else:
                    for block in scratch.blocks(column):
                        found.update(column[block].tobytes())
        return found.digest()

    def table(self, source: Any, role: str, *, only: tuple[str, ...] | None = None, scored: bool = False) -> Table:
        """Read a party's table.

        Args:
            only: the columns of numbers to take, where they are known.
            scored: whether the rows are to be scored: no label is looked for.

        Raises:
            ConfigError: see `read_table`.
        """
        named: dict[str, Any] = {"only": only, "key": self.key, "party": role}
        if role == GUEST and not scored:
            named |= {"label": self.label, "weight": self.weight}
        elif role != GUEST:
            named["not_here"] = self.label
        return read_table(source, **named)

    async def meet(self, party: Party, table: Table, hosts: Sequence[str]) -> Places:
        """Places of the common rows in a party's table, in the common order."""
        if self.key is None:
            return np.arange(table.num_rows, dtype=np.int64)
        ids = as_identifiers(table.ids, f"{party.role}: {self.key[:60]!r}")
        meet = meeting.guest if party.role == GUEST else meeting.host
        return await meet(party, ids, hosts, self.seed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(label={self.label!r}, key={self.key!r})"


def _identified(ids: npt.NDArray[Any] | None, places: Places, what: str) -> Iterable[bytes]:
    """Rows by their identifiers or, where there are none, by their places in the party's table."""
    found = places if ids is None else as_identifiers(ids, what)
    return encoded(found, kind_of(found))


def _given(label: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    assert label is not None
    return label
