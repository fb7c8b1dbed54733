"""`hs.vertical.Scoring`: parties that trained a model score further rows together, each with the part that it kept.

    model = hs.vertical.LogisticRegression(label="y", key="id")
    app = hs.vertical.Scoring(model, trained_by="j3k…", dataset="applicants")
    hs.run(app, roles={"guest": "bank", "host": ["shop", "telco"]})

The roles meet over their tables' identifiers, many rows or a single one; the guest asks for the common rows and keeps
`places` (of its own table) and `predictions` in its folder `outputs`. The server and who submits learn how many rows
there are, and no score.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.app import RoleApp, RolePlay, RoleProgram
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol, Reveal
from hanse.core.errors import ConfigError, UnavailableError
from hanse.core.ids import SERVER, check_name
from hanse.core.origin import file_of, included, maker_of
from hanse.vertical import meeting
from hanse.vertical.casting import hosts_among, role_app
from hanse.vertical.model import TELLS, Model
from hanse.vertical.parties import GUEST, IfOffline
from hanse.vertical.psi.ids import Places

IF_OFFLINE = ("refuse", "default")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a role ends with.

    Attributes:
        rows: places of the common rows in its table, in their common order.
        predictions: of the label, for these rows, at the guest; none at hosts.
        num_rows: how many rows its table has.
    """

    rows: Places
    predictions: npt.NDArray[np.float64]
    num_rows: int


@dataclass(frozen=True, slots=True)
class Scoring(RolePlay):
    """Joint scores of rows of one data set.

    Attributes:
        model: as it was trained: its kind, its key and its label's name count here.
        trained_by: the job that trained it; each site looks for the part that it kept then, under the same role.
        dataset: the data set's name, the same at every party.
        if_offline: what a host means that is away for `away_s`: `refuse`, or `default`: it is left out, and what it
            would have added is what the model takes for a party that says nothing (see `Model.ask`).
        max_rows: how many rows the guest may have scored; None for as many as are common.
        timeout_s, deadline_s, away_s, retries, threads, include: as for `hs.RoleApp`.

    Raises:
        ConfigError: a value out of its range.
    """

    model: Model
    trained_by: str
    dataset: str = "customers"
    if_offline: IfOffline = "refuse"
    max_rows: int | None = None
    timeout_s: float = 600.0
    deadline_s: float = 3600.0
    away_s: float = 30.0
    retries: int = 2
    threads: int = 1
    include: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, Model):
            raise ConfigError(f"model: expected a vertical model, found {type(self.model).__name__}")
        check_name(self.trained_by, "trained_by")
        if self.if_offline not in IF_OFFLINE:
            raise ConfigError(f"if_offline: expected one of {', '.join(IF_OFFLINE)}, found {self.if_offline!r:.40}")
        if self.max_rows is not None and not (type(self.max_rows) is int and self.max_rows >= 1):
            raise ConfigError(f"max_rows: expected a whole number above 0 or none, found {self.max_rows!r:.40}")
        object.__setattr__(self, "include", included(self.include))
        object.__setattr__(self, "module_globals", maker_of("<string>", file_of(type(self))))

    def whole(self, hosts: Sequence[str]) -> Protocol:
        """Everything that scoring with these hosts runs, joined."""
        meet = {} if self.model.key is None else meeting.parts(hosts)
        scored = self.model.scored(len(hosts))
        joined = Protocol.joined(f"vertical/{scored.name}", {**meet, "scoring": scored})
        told = (Reveal(SERVER, role, *each) for role in (GUEST, *hosts) for each in TELLS.items())
        return replace(joined, reveals=(*joined.reveals, *told))

    def cast(self, roles: Collection[str]) -> RoleApp:
        """See `RolePlay.cast`: for as many hosts as these roles have; for one where there are none."""
        hosts = hosts_among(roles)
        optional = hosts if self.if_offline != "refuse" else ()
        whole = self.whole(hosts)
        app = role_app(self, whole, seed=self.model.seed, outputs_of=self.trained_by, optional=optional)
        for role in app.protocol.roles:
            app.role(role)(self._in_a_job(hosts))
        return app

    def _in_a_job(self, hosts: Sequence[str]) -> RoleProgram:
        async def play(party: Party, site: Any) -> Any:
            part, response = self.model.decoded(site.outputs())
            source = site.load(self.dataset)
            found = await self.play(party, part, response, source, hosts)
            told = {"rows": found.num_rows, "common": len(found.rows)}
            if party.role != GUEST:
                return told
            return {"places": found.rows, "predictions": found.predictions}, told

        return play

    async def play(self, party: Party, part: Any, response: Any, source: Any, hosts: Sequence[str]) -> Scored:
        """Play a role.

        Args:
            party: of the protocol `whole`; hosts that are away are its `absent`.
            part: the role's own.
            response: the guest's; None at hosts.
            source: its table.
            hosts: names of the hosts' roles.

        Raises:
            ConfigError: a table that does not fit, no common rows, another number of hosts than were trained with.
            UnavailableError: a host is away, and `refuse`.
        """
        model = self.model
        if part.num_hosts not in (0, len(hosts)):
            raise ConfigError(f"scoring: expected the {part.num_hosts} hosts of the training, found {len(hosts)}")
        if party.absent and self.if_offline == "refuse":
            raise UnavailableError(f"{', '.join(sorted(party.absent))} is away, and scores without are refused")
        table = model.table(source, party.role, only=model.names_in(part), scored=True)
        there = [host for host in hosts if host not in party.absent]
        places = await model.meet(party, table, there)
        aligned = table.take(places)
        if self.max_rows is not None and len(places) > self.max_rows:
            raise ConfigError(f"scoring: expected at most {self.max_rows} common rows, found {len(places)}")
        scoring = party.part("scoring")
        if party.role != GUEST:
            await model.answer(scoring, part, aligned.values, max_rows=self.max_rows)
            return Scored(places, np.empty(0), table.num_rows)
        rows = np.arange(len(places), dtype=np.int64)
        scores = await model.ask(scoring, part, aligned.values, rows, self.if_offline)
        return Scored(places, model.predicted(response, scores), table.num_rows)
