"""All parties of a vertical model in this process: `hs.vertical.simulate`, over local channels.

Linear models bring their own (`hanse.vertical.glm.models`). Any other model is what `Seam` says: role programs for
training and scoring, and what lies between.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hanse.channels import protocol
from hanse.channels.local import run_local
from hanse.core.codec import encode
from hanse.vertical import alignment
from hanse.vertical.glm import models as glm
from hanse.vertical.glm.dealer import data_roles
from hanse.vertical.psi import chase_miao
from hanse.vertical.tables import Table, read_table

Numbers = npt.NDArray[np.float64]


class Seam(Protocol):
    """What a model says of itself; see `hanse.vertical.split.models` for one."""

    @property
    def label(self) -> str:
        """The guest's column that is predicted."""

    @property
    def key(self) -> str | None:
        """The column of identifiers at every party."""

    def declared(self, num_hosts: int) -> protocol.Protocol:
        """The declaration of the training."""

    def scored(self, num_hosts: int) -> protocol.Protocol:
        """The declaration of joint scoring."""

    def columns(self, table: Table, *, is_guest: bool) -> Any:
        """A party's columns as they are trained on."""

    def respond(self, label: npt.NDArray[Any]) -> Any:
        """The guest's label as it is trained on."""

    def program(self, role: str, columns: Any = None, response: Any = None, **options: Any) -> glm.Program:
        """The program of one role of the training."""

    def part_of(self, columns: Any, trained: Any) -> Any:
        """A party's part of the model, without its rows."""

    def names_in(self, part: Any) -> tuple[str, ...]:
        """The columns that a part was trained on."""

    async def ask(self, party: Any, part: Any, values: Any, rows: Any, if_offline: Any) -> Any:
        """The guest's scores of rows."""

    async def answer(self, party: Any, part: Any, values: Any, *, max_rows: int | None = None) -> None:
        """A host's side of it."""

    def judge(self, response: Any, label: npt.NDArray[Any], scores: Any) -> Mapping[str, float]:
        """Metrics of scores."""

    def predicted(self, response: Any, scores: Any) -> Numbers:
        """Scores as predictions."""

    def encoded(self, part: Any, response: Any) -> Any:
        """A part as arrays."""


@dataclass(frozen=True, slots=True)
class Joint:
    """A trained model with all its parties' parts: what no single party ever holds.

    Attributes:
        model: what was trained.
        parts: role → that party's part.
        response: the guest's label as it was trained on.
        metrics: of the rows that were trained on, computed by the guest.
        scores: of these rows, float64 `(num_rows, num_outputs)`.
        rows: places of these rows in the guest's table.
        trained: role → what its program returned.
    """

    model: Seam
    parts: Mapping[str, Any]
    response: Any
    metrics: Mapping[str, float]
    scores: Numbers
    rows: npt.NDArray[np.int64]
    trained: Mapping[str, Any]

    @property
    def reveals(self) -> tuple[protocol.Reveal, ...]:
        """What all that ran told whom, composed."""
        num_hosts = len(self.parts) - 1
        meeting = () if self.model.key is None else (chase_miao.PROTOCOL,)
        rest = (alignment.PROTOCOL,) if meeting and num_hosts > 1 else ()
        return protocol.compose((*meeting, *rest, self.model.declared(num_hosts), self.model.scored(num_hosts)))

    def save(self, folder: str | Path) -> None:
        """Write each party's part to `folder`/ROLE.safetensors. Between organisations, each keeps its own file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for role, part in self.parts.items():
            arrays = self.model.encoded(part, self.response if role == "guest" else None)
            (folder / f"{role}.safetensors").write_bytes(encode(arrays))

    def predict(
        self, guest: Any, hosts: Any, *, if_offline: str = "refuse"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Score further rows together.

        Args:
            guest, hosts: tables as for `simulate`; a label is not looked at. A host that is None is offline.
            if_offline: `refuse` for no scores then, or `default` for what the model takes for a host that is away.

        Returns:
            Places of the common rows in the guest's table, and their predictions.
        """
        model = self.model
        tables = [
            None if each is None else read_table(each, key=model.key, only=model.names_in(part), party=role)
            for (role, part), each in zip(self.parts.items(), [guest, *_listed(hosts)], strict=True)
        ]
        places, scores = asyncio.run(self._predict(tables, if_offline))
        return places, model.predicted(self.response, scores)

    async def _predict(self, tables: list[Table | None], if_offline: str) -> tuple[Any, Any]:
        there = [each for each in tables if each is not None]
        places = await glm._align(there, self.model.key)
        aligned = iter([table.take(rows) for table, rows in zip(there, places, strict=True)])
        found = [None if each is None else next(aligned) for each in tables]
        return places[0], await _score(self.model, self.parts, found, if_offline)


def simulate(model: Any, guest: Any, hosts: Any, *, start: Mapping[str, Any] | None = None) -> Any:
    """Train with all parties in this process, over local channels, with the cryptography as between organisations.

    Args:
        model: what to train.
        guest: the table of the party with the label; see `hanse.vertical.tables` for what is taken.
        hosts: the table of one host, or a list of several.
        start: of linear models, `weights()` of an earlier result: training goes on from there.

    Returns:
        The trained model: `Joint`, or of linear models `hanse.vertical.glm.models.Result`.

    Raises:
        ConfigError: tables that do not fit the model or each other, no common rows, a training that diverged.
    """
    if isinstance(model, glm.LinearModel):
        return glm.simulate(model, guest, hosts, start=start)
    return asyncio.run(_simulate(model, guest, _listed(hosts)))


async def _simulate(model: Seam, guest: Any, hosts: list[Any]) -> Joint:
    roles = data_roles(len(hosts))
    tables = [read_table(guest, key=model.key, label=model.label, party="guest")]
    for role, each in zip(roles[1:], hosts, strict=True):
        tables.append(read_table(each, key=model.key, not_here=model.label, party=role))
    places = await glm._align(tables, model.key)
    aligned = [table.take(rows) for table, rows in zip(tables, places, strict=True)]
    label = aligned[0].label
    assert label is not None
    response = model.respond(label)
    columns = {role: model.columns(table, is_guest=role == "guest") for role, table in zip(roles, aligned, strict=True)}
    declared = model.declared(len(hosts))
    programs = {"arbiter": model.program("arbiter")} if "arbiter" in declared.roles else {}
    for role in roles:
        programs[role] = model.program(role, columns[role], response if role == "guest" else None)
    trained = await run_local(declared, programs, timeout_s=glm.TIMEOUT_S)
    parts = {role: model.part_of(columns[role], trained[role]) for role in roles}
    scores = await _score(model, parts, list(aligned), "refuse")
    return Joint(model, parts, response, model.judge(response, label, scores), scores, places[0], trained)


async def _score(model: Seam, parts: Mapping[str, Any], tables: list[Table | None], if_offline: str) -> Any:
    """The guest's scores of aligned tables."""
    own = tables[0]
    assert own is not None
    rows = np.arange(own.num_rows, dtype=np.int64)
    programs: dict[str, glm.Program] = {
        "guest": lambda party: model.ask(party, parts["guest"], own.values, rows, if_offline)
    }
    for (role, part), table in zip(list(parts.items())[1:], tables[1:], strict=True):
        programs[role] = glm._offline if table is None else _answering(model, part, table)
    return (await run_local(model.scored(len(parts) - 1), programs, timeout_s=glm.TIMEOUT_S))["guest"]


def _answering(model: Seam, part: Any, table: Table) -> glm.Program:
    return lambda party: model.answer(party, part, table.values)


def _listed(hosts: Any) -> list[Any]:
    return list(hosts) if isinstance(hosts, list | tuple) else [hosts]
