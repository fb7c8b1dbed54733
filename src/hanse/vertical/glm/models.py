"""What a user writes: `hs.vertical.LogisticRegression(...)` and its kin, and what comes back.

    model = hs.vertical.LogisticRegression(label="y", key="id", epochs=20)
    result = hs.vertical.simulate(model, guest=bank, hosts=[shop, telco])
    result.metrics, result.coefficients["host-1"], result.predict(new_bank, [new_shop, new_telco])

A model is plain data, and an app: `hs.run(model, roles={...})` trains it over real sites with the same programs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.vertical import metrics
from hanse.vertical.glm import answers, dealer, dealer_free, key_holder, scoring
from hanse.vertical.glm.columns import Columns, prepare
from hanse.vertical.glm.families import Response, response_of
from hanse.vertical.glm.leverage import USUAL_BOUND
from hanse.vertical.glm.saved import part_arrays, part_in
from hanse.vertical.glm.scoring import PartyModel
from hanse.vertical.glm.series import RANGES
from hanse.vertical.glm.training import STATISTICAL_BITS, Training
from hanse.vertical.model import Model, Played, Program
from hanse.vertical.parties import IfOffline
from hanse.vertical.psi.ids import Places
from hanse.vertical.tables import Table
from hanse.vertical.together import Together

PROTOCOLS = ("dealer", "arbiter", "dealer-free", "own-gradient")
_TRAINING = tuple(each.name for each in fields(Training) if each.name != "family")
_MEASURES = {
    "logistic": {
        "accuracy": "share of the judged rows whose likeliest class is right",
        "log_loss": "mean log loss of the judged rows",
        "auc": "area under the ROC curve of the judged rows",
        "ks": "distance between the scores of both classes",
    },
    "linear": {"rmse": "of the judged rows", "mae": "of the judged rows", "r2": "explained variance"},
    "poisson": {"rmse": "of the judged rows", "mae": "of the judged rows", "d2": "explained deviance"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearModel(Model):
    """What the models share; see `Model` for tables and jobs, `Training` for the settings of training.

    Attributes:
        protocol: `dealer`: secret sharing, with a third organisation that deals (the arbiter). `arbiter`: the third
            holds the key of a homomorphic cipher instead; each party sees the gradients of its own columns. Without a
            third, for one host: `dealer-free`, which reveals no more than `dealer` and takes about a hundred times the
            computation; `own-gradient`, in which each party sees its own gradients, and which takes half of that.
        max_leverage, high_leverage: where parties see gradients, what becomes of rows that these would give away, see
            `Training`.
        statistical_bits: without a dealer, what the whole training keeps to, see `Training`; `hanse explain` prints it.
        standardise: bring columns to mean 0 and variance 1, each party its own.
        clip: hold scaled values within ±clip.

    Raises:
        ConfigError: a value out of its range.
    """

    family: ClassVar[str]

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
    max_leverage: float = USUAL_BOUND
    high_leverage: str = "weigh_down"
    statistical_bits: int = STATISTICAL_BITS
    wide_scores: bool = False

    def __post_init__(self) -> None:
        Model.__post_init__(self)
        if self.protocol not in PROTOCOLS:
            raise ConfigError(f"protocol: expected one of {', '.join(PROTOCOLS)}, found {self.protocol!r}")
        self.training()

    def training(self) -> Training:
        """The settings that all parties must hold alike."""
        given = (each.name for each in fields(self) if each.name in _TRAINING)
        return Training(family=self.family, **{name: getattr(self, name) for name in given})

    @property
    def own_gradients(self) -> bool:
        """Whether parties see the gradients of their own columns."""
        return self.protocol == "own-gradient"

    # ---- see Model ----

    def declared(self, num_hosts: int) -> Protocol:
        """See `Model.declared`."""
        if self.protocol == "dealer":
            return dealer.protocol(num_hosts, early_stop=self.tolerance > 0)
        told: dict[str, Any] = {"early_stop": self.tolerance > 0, "any_leverage": self.training().tells_single_rows}
        told |= {"statistical_bits": self.statistical_bits, "label_epsilon": self.training().label_epsilon}
        if self.protocol == "arbiter":
            return key_holder.protocol(num_hosts, **told)
        if num_hosts != 1:
            raise ConfigError(f"hosts: expected one for {self.protocol}, found {num_hosts}; take the protocol dealer")
        return dealer_free.protocol(own_gradients=self.own_gradients, **told)

    def scored(self, num_hosts: int) -> Protocol:
        """See `Model.scored`."""
        return scoring.protocol(num_hosts)

    def measures(self) -> Mapping[str, str]:
        """See `Model.measures`."""
        return _MEASURES[self.family]

    def columns(self, table: Table, *, is_guest: bool) -> Columns:
        """See `Model.columns`."""
        return prepare(table.values, table.names, intercept=is_guest, standardise=self.standardise, clip=self.clip)

    def respond(self, label: npt.NDArray[Any], among: npt.NDArray[Any] | None = None) -> Response:
        """See `Model.respond`."""
        return response_of(label, self.family)

    def program(
        self, role: str, columns: Columns | None = None, response: Response | None = None, **options: Any
    ) -> Program:
        """See `Model.program`."""
        training = self.training()
        room: Any = {"dealer": dealer, "arbiter": key_holder}.get(self.protocol, dealer_free)
        if role == "arbiter":
            return lambda party: room.arbiter(party, training, **options)
        assert columns is not None
        if room is dealer_free:
            options["own_gradients"] = self.own_gradients
        if role == "guest":
            assert response is not None
            return lambda party: room.guest(party, columns, response, training, **options)
        return lambda party: room.host(party, columns, training, **options)

    def part_of(self, columns: Columns, trained: Any, num_hosts: int) -> PartyModel:
        """See `Model.part_of`."""
        return PartyModel(replace(columns, values=columns.values[:0].copy()), trained.weights, num_hosts)

    def names_in(self, part: PartyModel) -> tuple[str, ...]:
        """See `Model.names_in`."""
        return part.columns.own_names

    async def ask(self, party: Party, part: PartyModel, values: Any, rows: Places, if_offline: IfOffline) -> Any:
        """See `Model.ask`."""
        return await scoring.guest(party, part, values, rows, if_offline=if_offline)

    async def answer(self, party: Party, part: PartyModel, values: Any, *, max_rows: int | None = None) -> None:
        """See `Model.answer`."""
        await scoring.host(party, part, values, max_rows=scoring.MAX_ROWS if max_rows is None else max_rows)

    def judge(self, response: Response, label: npt.NDArray[Any], scores: Any) -> Mapping[str, float]:
        """See `Model.judge`."""
        _check_range(self, scores)
        return measured(response, label, self.predicted(response, scores))

    def predicted(self, response: Response, scores: Any) -> npt.NDArray[np.float64]:
        """See `Model.predicted` and `Response.predict`."""
        return response.predict(scores)

    def encoded(self, part: PartyModel, response: Response | None) -> Arrays:
        """See `Model.encoded`."""
        return part_arrays(part, response)

    def decoded(self, arrays: Arrays) -> tuple[PartyModel, Response | None]:
        """See `Model.decoded`."""
        return part_in(arrays)

    def result(self, played: Mapping[str, Played]) -> "Result":
        """See `Model.result`."""
        guest = played["guest"]
        return Result(
            self,
            {role: each.part for role, each in played.items()},
            guest.response,
            guest.metrics,
            guest.scores,
            guest.rows,
            guest.trained.changes,
            guest.trained.num_steps,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticRegression(LinearModel):
    """Two classes, or more.

    Attributes:
        multi_class: of more than two classes: `softmax`, whose probabilities are those of one model, or `ovr`, one
            against the rest: a model for each class, their chances divided by their sum. With K classes a softmax takes
            up to 2 log2(K) messages a step more, and about K to 3 K evaluations of a series a row instead of none.
        label_epsilon: train on labels that are answered by chance, each once and for all: what training tells is
            label_epsilon-differentially private in each label, see `hanse.vertical.answers`. Metrics are of the
            real ones. None: train on these.
    """

    family = "logistic"
    multi_class: str = "softmax"
    label_epsilon: float | None = None

    def respond(self, label: npt.NDArray[Any], among: npt.NDArray[Any] | None = None) -> Response:
        """See `Model.respond`."""
        return response_of(label, self.family, self.multi_class, None if self.label_epsilon is None else among)

    def answered(
        self, response: Response, rows: Callable[[], Iterable[bytes]], secret: Callable[[], bytes]
    ) -> Response:
        """See `Model.answered`."""
        if self.label_epsilon is None:
            return response
        return answers.answered(response, float(self.label_epsilon), self.label, rows(), secret())


class LinearRegression(LinearModel):
    """Least squares."""

    __slots__ = ()
    family = "linear"


class PoissonRegression(LinearModel):
    """Counts, with a logarithmic link."""

    __slots__ = ()
    family = "poisson"


@dataclass(frozen=True, slots=True)
class Result(Together):
    """A trained model with all its parties' parts: what `simulate` alone can hold in one hand.

    Attributes:
        changes: how far each epoch moved the weights; empty without a tolerance.
        num_steps: steps taken.
    """

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
        return tuple(self.response.classes)

    def weights(self) -> dict[str, npt.NDArray[np.float64]]:
        """Role → weights for scaled columns: what a warm start takes."""
        return {role: part.weights for role, part in self.parts.items()}


def _check_range(model: LinearModel, z: npt.NDArray[np.float64]) -> None:
    if model.family != "logistic":
        return
    high, largest = RANGES["logistic", model.wide_scores].high, np.abs(z).max(axis=1)
    if model.training().kind(z.shape[1]) == "softmax":
        # of what the series are evaluated at: differences of scores, or of log sums of up to K − 1 of them
        largest = np.ptp(z, axis=1) + np.log(z.shape[1] - 1)
    beyond = int((largest > high).sum())
    if beyond:
        raise ConfigError(
            f"training: {beyond} rows ended with scores beyond ±{high:g}, where the series for the sigmoid does "
            f"not hold; set wide_scores, or take more l2 or a smaller learning rate"
        )


def measured(response: Response, label: npt.NDArray[Any], predicted: npt.NDArray[np.float64]) -> dict[str, float]:
    """Metrics of predictions, by the family."""
    if response.family.name in ("logistic", "softmax"):
        return metrics.of_classes(label, predicted, response.classes)
    return (
        metrics.of_counts(label, predicted)
        if response.family.name == "poisson"
        else metrics.of_numbers(label, predicted)
    )
