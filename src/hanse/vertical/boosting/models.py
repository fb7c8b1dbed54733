"""What a user writes: `hs.vertical.Boosting(...)`, and what comes back.

    model = hs.vertical.Boosting(num_trees=50, depth=4, label="y", key="id")
    result = hs.vertical.simulate(model, guest=bank, hosts=[shop, telco])
    result.metrics, result.importance, result.plot_trees("trees.html")

A model is plain data, with the methods of the linear ones: `declared`, `program`, and what lies between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol, Reveal, compose
from hanse.core.arrays import Array, Arrays
from hanse.core.codec import encode
from hanse.core.errors import ConfigError
from hanse.vertical import alignment
from hanse.vertical.boosting import guest, host, plots, protocol, scoring
from hanse.vertical.boosting.columns import BinnedColumns, binned
from hanse.vertical.boosting.forest import Forest, Questions
from hanse.vertical.boosting.response import KINDS, Response, response_of
from hanse.vertical.boosting.saved import part_arrays, part_in
from hanse.vertical.boosting.scoring import IfOffline, PartyTrees
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.glm.dealer import data_roles
from hanse.vertical.glm.models import TIMEOUT_S, _align
from hanse.vertical.psi import chase_miao
from hanse.vertical.tables import Table, read_table

Wide = npt.NDArray[np.float64]
Program = Callable[[Party], Awaitable[Any]]
_SETTINGS = tuple(each.name for each in fields(Settings))
_MEASURES = {
    "classification": {
        "accuracy": "share of the judged rows whose likeliest class is right",
        "log_loss": "mean log loss of the judged rows",
        "auc": "area under the ROC curve of the judged rows",
        "ks": "distance between the scores of both classes",
    },
    "regression": {"rmse": "of the judged rows", "mae": "of the judged rows", "r2": "explained variance"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosting:
    """Gradient-boosted trees over the columns of a guest and of one or more hosts (SecureBoost).

    Attributes:
        label: the guest's column that is predicted.
        key: the column of identifiers at every party; None where rows are in one common order already.
        objective: `classification`, of two classes or more, or `regression`.
        num_trees, depth, …, seed: see `Settings`.

    Raises:
        ConfigError: a value out of its range.
    """

    label: str = "y"
    key: str | None = "id"
    objective: str = "classification"
    num_trees: int = 50
    depth: int = 4
    learning_rate: float = 0.3
    reg_lambda: float = 1.0
    min_split_gain: float = 0.0
    min_child_weight: float = 1.0
    min_bin_rows: int = 20
    max_bins: int = 32
    top_rate: float = 0.0
    other_rate: float = 0.0
    guest_trees: int = 0
    held_out: float = 0.0
    patience: int = 0
    cipher: str = "okamoto-uchiyama"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.objective not in KINDS:
            raise ConfigError(f"objective: expected one of {', '.join(KINDS)}, found {self.objective!r:.40}")
        self.settings()

    def settings(self) -> Settings:
        """The settings that all parties must hold alike."""
        return Settings(**{name: getattr(self, name) for name in _SETTINGS})

    def declared(self, num_hosts: int) -> Protocol:
        """The declaration of the training."""
        return protocol.protocol(num_hosts, self.settings())

    def scored(self, num_hosts: int) -> Protocol:
        """The declaration of joint scoring."""
        return scoring.protocol(num_hosts)

    def protocols(self, num_hosts: int) -> tuple[Protocol, ...]:
        """Everything that `simulate` and `predict` run, with intersection where there is a key."""
        meeting = () if self.key is None else (chase_miao.PROTOCOL,)
        rest = (alignment.PROTOCOL,) if meeting and num_hosts > 1 else ()
        return (*meeting, *rest, self.declared(num_hosts), self.scored(num_hosts))

    def measures(self) -> Mapping[str, str]:
        """Names of the metrics that the guest computes, each with what it is."""
        return _MEASURES[self.objective]

    def columns(self, table: Table, *, is_guest: bool) -> BinnedColumns:
        """A party's columns as they are trained on."""
        return binned(table.values, table.names, self.max_bins)

    def respond(self, label: npt.NDArray[Any]) -> Response:
        """The guest's label as it is trained on."""
        return response_of(label, self.objective)

    def program(self, role: str, columns: Any = None, response: Response | None = None, **options: Any) -> Program:
        """The program of one role of the training.

        Args:
            role: `guest` or a host.
            columns: see `columns`.
            response: of the guest.
            options: none.
        """
        settings = self.settings()
        if options:
            raise ConfigError(f"{', '.join(options)}: not for trees")
        assert columns is not None
        if role == "guest":
            assert response is not None
            return lambda party: guest.guest(party, columns, response, settings)
        return lambda party: host.host(party, columns, settings)

    def part_of(self, columns: BinnedColumns, trained: Any) -> PartyTrees:
        """A party's part of the model, from what its program returned."""
        if isinstance(trained, Questions):
            return PartyTrees(columns.names, trained)
        return PartyTrees(columns.names, trained.questions, trained.grown.forest)

    def names_in(self, part: PartyTrees) -> tuple[str, ...]:
        """The columns of a party that its part was trained on, in their order."""
        return part.names

    async def ask(self, party: Party, part: PartyTrees, values: Any, rows: Array, if_offline: IfOffline) -> Any:
        """The guest's margins of rows, float64 `(n, num_outputs)`; see `scoring.guest`."""
        return await scoring.guest(party, part, values, rows, if_offline=if_offline)

    async def answer(self, party: Party, part: PartyTrees, values: Any, *, max_rows: int | None = None) -> None:
        """A host's side of `ask`."""
        await scoring.host(party, part, values, max_rows=scoring.MAX_ROWS if max_rows is None else max_rows)

    def judge(self, response: Response, label: npt.NDArray[Any], scores: Any) -> Mapping[str, float]:
        """Metrics of margins."""
        return response.metrics(label, self.predicted(response, scores))

    def predicted(self, response: Response, scores: Any) -> Wide:
        """Margins as predictions; see `Response.predict`."""
        return response.predict(scores.T)

    def encoded(self, part: PartyTrees, response: Response | None) -> Arrays:
        """A party's part as arrays; at the guest with its response, of which the rows are left out."""
        return part_arrays(part, response)

    def decoded(self, arrays: Arrays) -> tuple[PartyTrees, Response | None]:
        """What `encoded` made.

        Raises:
            CodecError: it is something else.
        """
        return part_in(arrays)

    def simulated(self, guest: Any, hosts: Sequence[Any]) -> "Result":
        """See `hs.vertical.simulate`."""
        return asyncio.run(_simulate(self, guest, hosts))


@dataclass(frozen=True, slots=True)
class Result:
    """Trained trees with all parties' parts: what `simulate` alone can hold in one hand.

    Attributes:
        model: what was trained.
        parts: role → that party's part.
        response: the guest's label as it was trained on.
        metrics: of the rows held out if there are any, otherwise of all rows that were trained on.
        scores: margins of all common rows, float64 `(num_rows, num_outputs)`.
        rows: places of these rows in the guest's table.
        losses: the mean loss on the rows held out after each round; empty without them.
    """

    model: Boosting
    parts: Mapping[str, PartyTrees]
    response: Response
    metrics: Mapping[str, float]
    scores: Wide
    rows: npt.NDArray[np.int64]
    losses: tuple[float, ...]

    @property
    def forest(self) -> Forest:
        """The trees as the guest knows them."""
        forest = self.parts["guest"].forest
        assert forest is not None
        return forest

    @property
    def classes(self) -> tuple[Any, ...]:
        """The label's values, in the order of predictions; empty for a regression."""
        return self.response.classes

    @property
    def reveals(self) -> tuple[Reveal, ...]:
        """What all that ran told whom, composed."""
        return compose(self.model.protocols(len(self.parts) - 1))

    @property
    def importance(self) -> dict[str, dict[str, float]]:
        """Role → column → the sum of the gains of its splits, in the loss's own scale."""
        forest, found = self.forest, {}
        for party, (role, part) in enumerate(self.parts.items()):
            mine = forest.party == party
            gains = np.bincount(forest.column[mine], weights=forest.gain[mine], minlength=len(part.names))
            found[role] = dict(zip(part.names, gains.tolist(), strict=True))
        return found

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical tree list, which takes the parts of all parties."""
        return self.forest.digest([part.questions for part in self.parts.values()])

    def plot_trees(self, path: str | Path | None = None) -> str:
        """Trees and importances as one HTML page; it is also written to `path` if there is one."""
        questions = [{"role": role, **_asked(part)} for role, part in self.parts.items()]
        title = f"{self.forest.num_trees} trees for {self.model.label}"
        made = plots.page(self.forest, questions, self.importance, title)
        if path is not None:
            Path(path).write_text(made, encoding="utf-8")
        return made

    def save(self, folder: str | Path) -> None:
        """Write each party's part to `folder`/ROLE.safetensors. Between organisations, each keeps its own file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for role, part in self.parts.items():
            arrays = part_arrays(part, self.response if role == "guest" else None)
            (folder / f"{role}.safetensors").write_bytes(encode(arrays))

    def predict(
        self, guest: Any, hosts: Any, *, if_offline: IfOffline = "refuse"
    ) -> tuple[npt.NDArray[np.int64], Wide]:
        """Score further rows together.

        Args:
            guest, hosts: tables as for `simulate`; a label is not looked at. A host that is None is offline.
            if_offline: see `scoring.guest`.

        Returns:
            Places of the common rows in the guest's table, and their predictions, see `Response.predict`.
        """
        listed = list(hosts) if isinstance(hosts, list | tuple) else [hosts]
        tables = [
            None if each is None else read_table(each, key=self.model.key, only=part.names, party=role)
            for (role, part), each in zip(self.parts.items(), [guest, *listed], strict=True)
        ]
        return asyncio.run(self._predict(tables, if_offline))

    async def _predict(self, tables: list[Table | None], if_offline: IfOffline) -> tuple[Any, Any]:
        there = [each for each in tables if each is not None]
        alone = [np.arange(there[0].num_rows, dtype=np.int64)]
        places = await _align(there, self.model.key) if len(there) > 1 else alone
        aligned = iter([table.take(rows) for table, rows in zip(there, places, strict=True)])
        scores = await _score(self.model, self.parts, [each and next(aligned) for each in tables], if_offline)
        return places[0], self.model.predicted(self.response, scores)


def _asked(part: PartyTrees) -> dict[str, str]:
    """Each split by its number, in words."""
    made = {}
    asked = part.questions
    for at, (column, threshold, missing) in enumerate(
        zip(asked.column.tolist(), asked.threshold.tolist(), asked.missing_left.tolist(), strict=True)
    ):
        name = part.names[column]
        made[str(at)] = f"{name} is known" if np.isinf(threshold) else f"{name} ≤ {threshold:.4g}"
        made[str(at)] += " or missing" if missing else ""
    return made


async def _simulate(model: Boosting, guest: Any, hosts: Sequence[Any]) -> Result:
    roles = data_roles(len(hosts))
    tables = [read_table(guest, key=model.key, label=model.label, party="guest")]
    for role, each in zip(roles[1:], hosts, strict=True):
        tables.append(read_table(each, key=model.key, not_here=model.label, party=role))
    places = await _align(tables, model.key)
    aligned = dict(zip(roles, (table.take(rows) for table, rows in zip(tables, places, strict=True)), strict=True))
    label = aligned["guest"].label
    assert label is not None
    response = model.respond(label)
    columns = {role: model.columns(table, is_guest=role == "guest") for role, table in aligned.items()}
    programs = {
        role: model.program(role, each, **({"response": response} if role == "guest" else {}))
        for role, each in columns.items()
    }
    trained = await run_local(model.declared(len(hosts)), programs, timeout_s=TIMEOUT_S)
    parts = {role: model.part_of(columns[role], trained[role]) for role in roles}
    scores = await _score(model, parts, list(aligned.values()), "refuse")
    grown = trained["guest"].grown
    judged = grown.held_out if grown.held_out.any() else ~grown.held_out
    found = model.judge(response, label[judged], scores[judged])
    return Result(model, parts, response, found, scores, places[0], grown.losses)


async def _score(
    model: Boosting, parts: Mapping[str, PartyTrees], tables: Sequence[Table | None], if_offline: IfOffline
) -> Wide:
    """The guest's margins for aligned tables."""
    own = tables[0]
    assert own is not None
    rows = np.arange(own.num_rows, dtype=np.int64)
    programs: dict[str, Program] = {
        "guest": lambda party: model.ask(party, parts["guest"], own.values, rows, if_offline)
    }
    for (role, part), table in zip(list(parts.items())[1:], tables[1:], strict=True):
        programs[role] = _offline if table is None else _answering(model, part, table)
    found: Wide = (await run_local(model.scored(len(parts) - 1), programs))["guest"]
    return found


def _answering(model: Boosting, part: PartyTrees, table: Table) -> Program:
    return lambda party: model.answer(party, part, table.values)


async def _offline(party: Party) -> None:
    await party.stop()
