"""What a user writes: `hs.vertical.LogisticRegression(...)` and its kin, and what comes back.

    model = hs.vertical.LogisticRegression(label="y", key="id", epochs=20)
    result = hs.vertical.simulate(model, guest=bank, hosts=[shop, telco])
    result.metrics, result.coefficients["host1"], result.predict(new_bank, [new_shop, new_telco])

A model is plain data. `simulate` runs all parties in this process over local channels: intersection, training, scoring.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.channels.local import run_local
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol, Reveal, compose
from hanse.core.errors import ConfigError
from hanse.vertical import alignment, metrics
from hanse.vertical.glm import dealer, dealer_free, scoring
from hanse.vertical.glm.columns import Columns, prepare
from hanse.vertical.glm.dealer import Trained
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.saved import encode_part
from hanse.vertical.glm.scoring import IfOffline, PartyModel
from hanse.vertical.glm.series import RANGES
from hanse.vertical.glm.training import Training
from hanse.vertical.psi import chase_miao
from hanse.vertical.tables import Table, read_table

PROTOCOLS = ("dealer", "dealer-free", "own-gradient")
TIMEOUT_S = 600.0
"""Of a wait, where all parties share this process's processors."""
_TRAINING = tuple(each.name for each in fields(Training) if each.name != "family")
Program = Callable[[Party], Awaitable[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModel:
    """What the models share; see `Training` for the settings of training.

    Attributes:
        label: the guest's column that is predicted.
        key: the column of identifiers at every party; None where rows are in one common order already.
        weight: the guest's column of sample weights, or None.
        protocol: `dealer`: secret sharing, with a third organisation that deals (the arbiter). Without a third, for one
            host: `dealer-free`, which reveals no more and takes about a hundred times the computation; `own-gradient`,
            in which each party sees the gradients of its own columns, and which takes half of that.
        standardise: bring columns to mean 0 and variance 1, each party its own.
        clip: hold scaled values within ±clip.

    Raises:
        ConfigError: a value out of its range.
    """

    family: ClassVar[str]

    label: str = "y"
    key: str | None = "id"
    weight: str | None = None
    protocol: str = "dealer"
    standardise: bool = True
    clip: float | None = None
    epochs: int = 20
    batch_rows: int = 1024
    learning_rate: float = 0.5
    momentum: float = 0.0
    optimiser: str = "sgd"
    l1: float = 0.0
    l2: float = 0.0
    tolerance: float = 0.0
    seed: int = 0
    wide_scores: bool = False

    def __post_init__(self) -> None:
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {self.protocol!r}")
        self.training()

    def training(self) -> Training:
        """The settings that all parties must hold alike."""
        return Training(family=self.family, **{name: getattr(self, name) for name in _TRAINING})

    def declared(self, num_hosts: int) -> Protocol:
        """The declaration of the training."""
        if self.protocol == "dealer":
            return dealer.protocol(num_hosts, early_stop=self.tolerance > 0)
        if num_hosts != 1:
            raise ConfigError(f"hosts: expected one for {self.protocol}, found {num_hosts}; take the protocol dealer")
        return dealer_free.protocol(own_gradients=self.own_gradients, early_stop=self.tolerance > 0)

    @property
    def own_gradients(self) -> bool:
        """Whether parties see the gradients of their own columns."""
        return self.protocol == "own-gradient"

    def protocols(self, num_hosts: int) -> tuple[Protocol, ...]:
        """Everything that `simulate` and `predict` run, with intersection where there is a key."""
        meeting = () if self.key is None else (chase_miao.PROTOCOL,)
        rest = (alignment.PROTOCOL,) if meeting and num_hosts > 1 else ()
        return (*meeting, *rest, self.declared(num_hosts), scoring.protocol(num_hosts))

    def columns(self, table: Table, *, is_guest: bool) -> Columns:
        """A party's columns as they are trained on."""
        return prepare(table.values, table.names, intercept=is_guest, standardise=self.standardise, clip=self.clip)

    def program(
        self, role: str, columns: Columns | None = None, response: Response | None = None, **options: Any
    ) -> Program:
        """The program of one role.

        Args:
            role: `guest`, a host, or `arbiter`.
            columns: of the guest and the hosts.
            response: of the guest.
            options: `sample_weights` of the guest, `start` of either.
        """
        training = self.training()
        if role == "arbiter":
            return lambda party: dealer.arbiter(party, training)
        assert columns is not None
        if self.protocol != "dealer":
            options["own_gradients"] = self.own_gradients
        room: Any = dealer if self.protocol == "dealer" else dealer_free
        if role == "guest":
            assert response is not None
            return lambda party: room.guest(party, columns, response, training, **options)
        return lambda party: room.host(party, columns, training, **options)


class LogisticRegression(LinearModel):
    """Two classes, or more, one against the rest."""

    __slots__ = ()
    family = "logistic"


class LinearRegression(LinearModel):
    """Least squares."""

    __slots__ = ()
    family = "linear"


class PoissonRegression(LinearModel):
    """Counts, with a logarithmic link."""

    __slots__ = ()
    family = "poisson"


@dataclass(frozen=True, slots=True)
class Result:
    """A trained model with all its parties' parts: what `simulate` alone can hold in one hand.

    Attributes:
        model: what was trained.
        parts: role → that party's part.
        response: the guest's label as it was trained on, which turns predictors into predictions.
        metrics: of the predictions for the rows that were trained on, computed by the guest.
        scores: the predictors of these rows, float64 `(num_rows, num_outputs)`.
        rows: places of these rows in the guest's table.
        changes: how far each epoch moved the weights; empty without a tolerance.
        num_steps: steps taken.
    """

    model: LinearModel
    parts: Mapping[str, PartyModel]
    response: Response
    metrics: Mapping[str, float]
    scores: npt.NDArray[np.float64]
    rows: npt.NDArray[np.int64]
    changes: tuple[float, ...]
    num_steps: int

    @property
    def coefficients(self) -> dict[str, dict[str, Any]]:
        """Role → column → weight by the column's own unit: a number, or one for each class."""
        return {
            role: {
                name: value.tolist() if len(value) > 1 else float(value[0])
                for name, value in part.coefficients().items()
            }
            for role, part in self.parts.items()
        }

    @property
    def classes(self) -> tuple[Any, ...]:
        """Of a logistic regression: the label's values, in the order of its predictions."""
        return self.response.classes

    @property
    def reveals(self) -> tuple[Reveal, ...]:
        """What all that ran told whom, composed."""
        return compose(self.model.protocols(len(self.parts) - 1))

    def weights(self) -> dict[str, npt.NDArray[np.float64]]:
        """Role → weights for scaled columns: what a warm start takes."""
        return {role: part.weights for role, part in self.parts.items()}

    def save(self, folder: str | Path) -> None:
        """Write each party's part to `folder`/ROLE.safetensors. Between organisations, each keeps its own file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for role, part in self.parts.items():
            content = encode_part(part, self.response if role == "guest" else None)
            (folder / f"{role}.safetensors").write_bytes(content)

    def predict(
        self, guest: Any, hosts: Any, *, if_offline: IfOffline = "refuse"
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Score further rows together.

        Args:
            guest, hosts: tables as for `simulate`; a label is not looked at. A host that is None is offline.
            if_offline: see `scoring.guest`.

        Returns:
            Places of the common rows in the guest's table, and their predictions, see `Response.predict`.
        """
        model = self.model
        tables = [
            None if each is None else read_table(each, key=model.key, only=part.columns.own_names, party=role)
            for (role, part), each in zip(self.parts.items(), [guest, *_listed(hosts)], strict=True)
        ]
        return asyncio.run(self._predict(tables, if_offline))

    async def _predict(self, tables: list[Table | None], if_offline: IfOffline) -> tuple[Any, Any]:
        there = [each for each in tables if each is not None]
        places = await _align(there, self.model.key)
        aligned = iter([table.take(rows) for table, rows in zip(there, places, strict=True)])
        z = await _score(self.parts, [None if each is None else next(aligned) for each in tables], if_offline)
        return places[0], self.response.predict(z)


def simulate(model: Any, guest: Any, hosts: Any, *, start: Mapping[str, npt.NDArray[np.float64]] | None = None) -> Any:
    """Train with all parties in this process, over local channels, with the cryptography as between organisations.

    Args:
        model: what to train.
        guest: the table of the party with the label; see `hanse.vertical.tables` for what is taken.
        hosts: the table of one host, or a list of several.
        start: of a linear model, `weights()` of an earlier result: training goes on from there.

    Returns:
        The trained model: `Result` here, or that of `hanse.vertical.boosting.models`.

    Raises:
        ConfigError: tables that do not fit the model or each other, no common rows, a training that diverged.
    """
    if not isinstance(model, LinearModel):
        return model.simulated(guest, _listed(hosts))  # trees
    return asyncio.run(_simulate(model, guest, _listed(hosts), start or {}))


async def _simulate(model: LinearModel, guest: Any, hosts: list[Any], start: Mapping[str, Any]) -> Result:
    roles = dealer.data_roles(len(hosts))
    tables = [read_table(guest, key=model.key, label=model.label, weight=model.weight, party="guest")]
    for role, each in zip(roles[1:], hosts, strict=True):
        tables.append(read_table(each, key=model.key, not_here=model.label, party=role))
    places = await _align(tables, model.key)
    aligned = [table.take(rows) for table, rows in zip(tables, places, strict=True)]
    label = aligned[0].label
    assert label is not None
    response = response_of(label, model.family)
    columns = {role: model.columns(table, is_guest=role == "guest") for role, table in zip(roles, aligned, strict=True)}
    declared = model.declared(len(hosts))
    programs = {"arbiter": model.program("arbiter")} if "arbiter" in declared.roles else {}
    for role in roles:
        options: dict[str, Any] = {"start": start.get(role)}
        if role == "guest":
            options |= {"response": response, "sample_weights": aligned[0].sample_weights}
        programs[role] = model.program(role, columns[role], **options)
    trained: dict[str, Trained] = await run_local(declared, programs, timeout_s=TIMEOUT_S)
    parts = {
        role: PartyModel(replace(columns[role], values=columns[role].values[:0].copy()), trained[role].weights)
        for role in roles
    }
    z = await _score(parts, list(aligned), "refuse")
    _check_range(model, z)
    found = _metrics(response, label, response.predict(z))
    return Result(model, parts, response, found, z, places[0], trained["guest"].changes, trained["guest"].num_steps)


async def _align(tables: Sequence[Table], key: str | None) -> list[npt.NDArray[np.int64]]:
    """For each party, places of the common rows in its table, in the common order."""
    if key is None:
        rows = {table.num_rows for table in tables}
        if len(rows) != 1:
            raise ConfigError(f"tables: expected one number of rows without a key, found {sorted(rows)}")
        return [np.arange(tables[0].num_rows, dtype=np.int64) for _ in tables]
    meetings = []
    guest_ids: Any = tables[0].ids
    for table in tables[1:]:
        host_ids: Any = table.ids
        met = await run_local(
            chase_miao.PROTOCOL,
            {
                "guest": _with(chase_miao.guest, guest_ids),
                "host": _with(chase_miao.host, host_ids),
            },
        )
        meetings.append(met)
    everywhere, rows_of = alignment.common([met["guest"] for met in meetings])
    if not len(everywhere):
        raise ConfigError("tables: expected rows that all parties hold, found none in common")
    if len(meetings) == 1:
        return [everywhere, meetings[0]["host"]]
    places = [everywhere]
    for met, kept in zip(meetings, rows_of, strict=True):
        told = await run_local(
            alignment.PROTOCOL,
            {
                "guest": _with(alignment.guest, kept),
                "host": _with(alignment.host, met["host"]),
            },
        )
        places.append(told["host"])
    return places


async def _score(
    parts: Mapping[str, PartyModel], tables: Sequence[Table | None], if_offline: IfOffline
) -> npt.NDArray[np.float64]:
    """The guest's predictors for aligned tables."""
    own = tables[0]
    assert own is not None
    rows = np.arange(own.num_rows, dtype=np.int64)
    programs: dict[str, Program] = {
        "guest": lambda party: scoring.guest(party, parts["guest"], own.values, rows, if_offline=if_offline)
    }
    for (role, part), table in zip(list(parts.items())[1:], tables[1:], strict=True):
        programs[role] = _offline if table is None else _answering(part, table)
    results = await run_local(scoring.protocol(len(parts) - 1), programs)
    z: npt.NDArray[np.float64] = results["guest"]
    return z


def _with(program: Callable[..., Awaitable[Any]], *arguments: Any) -> Program:
    return lambda party: program(party, *arguments)


def _answering(part: PartyModel, table: Table) -> Program:
    return lambda party: scoring.host(party, part, table.values)


async def _offline(party: Party) -> None:
    await party.stop()


def _listed(hosts: Any) -> list[Any]:
    return list(hosts) if isinstance(hosts, list | tuple) else [hosts]


def _check_range(model: LinearModel, z: npt.NDArray[np.float64]) -> None:
    where = RANGES.get((model.family, model.wide_scores))
    if where is None:
        return
    beyond = int(((z < where.low) | (z > where.high)).any(axis=1).sum())
    if beyond and model.family == "logistic":
        raise ConfigError(
            f"training: {beyond} rows ended with scores beyond ±{where.high:g}, where the series for the sigmoid does "
            f"not hold; set wide_scores, or take more l2 or a smaller learning rate"
        )


def _metrics(response: Response, label: npt.NDArray[Any], predicted: npt.NDArray[np.float64]) -> dict[str, float]:
    if response.family.name == "logistic":
        return metrics.of_classes(label, predicted, response.classes)
    return (
        metrics.of_counts(label, predicted)
        if response.family.name == "poisson"
        else metrics.of_numbers(label, predicted)
    )
