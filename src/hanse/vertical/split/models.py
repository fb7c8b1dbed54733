"""What a user writes: `hs.vertical.SplitNetwork(...)`.

    model = hs.vertical.SplitNetwork(bottom=(32, 16), top=(16,), label="y", key="id", epochs=20)
    result = hs.vertical.simulate(model, guest=bank, hosts=[shop, telco])
    result.metrics, result.predict(new_bank, [new_shop, new_telco])

Networks are widths, or functions of the user's that make modules of PyTorch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError
from hanse.vertical import metrics
from hanse.vertical.glm.columns import Columns, prepare
from hanse.vertical.glm.families import Response, response_of, softmax
from hanse.vertical.model import Model, Played, Program
from hanse.vertical.parties import IfOffline
from hanse.vertical.psi.ids import Places
from hanse.vertical.split import guest, host, protocol, saved, scoring
from hanse.vertical.split.networks import Bottom, Top, check_widths
from hanse.vertical.split.scoring import SplitPart
from hanse.vertical.split.settings import Settings
from hanse.vertical.tables import Table
from hanse.vertical.together import Together

_SETTINGS = tuple(each.name for each in fields(Settings))
_MEASURES = {
    "cross_entropy": {
        "accuracy": "share of the judged rows whose likeliest class is right",
        "log_loss": "mean log loss of the judged rows",
        "auc": "area under the ROC curve of the judged rows",
        "ks": "distance between the scores of both classes",
    },
    "mse": {"rmse": "of the judged rows", "mae": "of the judged rows", "r2": "explained variance"},
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SplitNetwork(Model):
    """A network over the columns of several parties; see `Settings` for how it is trained, `Model` for tables and jobs.

    Attributes:
        bottom: each party's network over its own columns, or a mapping from roles to networks.
        top: the guest's network over what the bottoms give.
        standardise: bring columns to mean 0 and variance 1, each party its own.
        clip: hold scaled values within ±clip.

    Raises:
        ConfigError: a value out of its range.
    """

    bottom: Bottom | Mapping[str, Bottom] = (32, 16)
    top: Top = (16,)
    standardise: bool = True
    clip: float | None = None
    loss: str = "cross_entropy"
    epochs: int = 10
    batch_rows: int = 256
    chunks: int = 2
    optimiser: str = "adam"
    learning_rate: float = 0.003
    momentum: float = 0.0
    l2: float = 0.0
    clip_embeddings: float = 0.0
    noise: float = 0.0
    compression: str = "none"
    kept: float = 0.25

    def __post_init__(self) -> None:
        Model.__post_init__(self)
        for each in self.bottom.values() if isinstance(self.bottom, Mapping) else [self.bottom]:
            check_widths("bottom", each)
        check_widths("top", self.top)
        if self.weight is not None:
            raise ConfigError(f"weight: expected none for split networks, found {self.weight!r:.40}")
        self.settings()

    def settings(self) -> Settings:
        """What all parties must hold alike."""
        return Settings(**{name: getattr(self, name) for name in _SETTINGS})

    def bottom_of(self, role: str) -> Bottom:
        """A role's bottom network.

        Raises:
            ConfigError: there is none for it.
        """
        if not isinstance(self.bottom, Mapping):
            return self.bottom
        if role not in self.bottom:
            raise ConfigError(f"bottom: expected a network for {role}, found {', '.join(self.bottom)[:200]}")
        return self.bottom[role]

    def declared(self, num_hosts: int) -> Protocol:
        """The declaration of the training."""
        return protocol.protocol(self.settings(), num_hosts)

    def scored(self, num_hosts: int) -> Protocol:
        """The declaration of joint scoring."""
        return protocol.scoring(self.settings(), num_hosts)

    def measures(self) -> Mapping[str, str]:
        """Names of the metrics that the guest tells, each with what it is."""
        return _MEASURES[self.loss]

    def columns(self, table: Table, *, is_guest: bool) -> Columns:
        """A party's columns as they are trained on."""
        del is_guest
        return prepare(table.values, table.names, intercept=False, standardise=self.standardise, clip=self.clip)

    def respond(self, label: npt.NDArray[Any], among: npt.NDArray[Any] | None = None) -> Response:
        """The guest's label as it is trained on."""
        return response_of(label, "linear" if self.loss == "mse" else "logistic")

    def program(
        self, role: str, columns: Columns | None = None, response: Response | None = None, **options: Any
    ) -> Program:
        """The program of one role of the training.

        Args:
            role: `guest` or a host.
            columns: its own.
            response: of the guest.
            options: `progress`: epochs that are done, with this party's state after them.
        """
        progress = options.pop("progress", BEGINNING)
        if options:
            raise ConfigError(f"{', '.join(options)}: not for split networks")
        assert columns is not None
        settings, bottom = self.settings(), self.bottom_of(role)
        if role == "guest":
            assert response is not None
            y = response.values
            return lambda party: guest.guest(party, columns.values, y, settings, bottom, self.top, progress)
        return lambda party: host.host(party, columns.values, settings, bottom, progress)

    def part_of(self, columns: Columns, trained: Any, num_hosts: int) -> SplitPart:
        """A party's part of the model, without its rows."""
        del num_hosts  # the guest's has a default for each
        scaled = replace(columns, values=columns.values[:0].copy())
        if isinstance(trained, guest.TrainedGuest):
            return SplitPart("guest", scaled, trained.bottom, trained.top, dict(trained.defaults))
        return SplitPart(trained.role, scaled, trained.bottom)

    def names_in(self, part: SplitPart) -> tuple[str, ...]:
        """The columns of a party that its part was trained on, in their order."""
        return part.columns.own_names

    async def ask(self, party: Party, part: SplitPart, values: Any, rows: Places, if_offline: IfOffline) -> Any:
        """The guest's outputs of these rows; see `scoring.guest`. `default` takes a host's mean embedding."""
        refuse = if_offline == "refuse"
        return await scoring.guest(party, part, values, rows, self.settings(), refuse_offline=refuse)

    async def answer(self, party: Party, part: SplitPart, values: Any, *, max_rows: int | None = None) -> None:
        """A host's side of `ask`."""
        await scoring.host(party, part, values, self.settings(), max_rows=max_rows)

    def judge(self, response: Response, label: npt.NDArray[Any], scores: npt.NDArray[np.float64]) -> dict[str, float]:
        """Metrics of outputs."""
        predicted = self.predicted(response, scores)
        if self.loss == "mse":
            return metrics.of_numbers(label, predicted)
        return metrics.of_classes(label, predicted, response.classes)

    def predicted(self, response: Response, scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Outputs as predictions: of two classes the chance of the second, of more that of each, or numbers."""
        if self.loss == "mse" or scores.shape[1] == 1:
            return response.predict(scores)
        return softmax(scores)

    def encoded(self, part: SplitPart, response: Response | None) -> Arrays:
        """A party's part as arrays; at the guest with its response, of which the rows are left out."""
        return saved.encoded(part, response)

    def decoded(self, arrays: Arrays) -> tuple[SplitPart, Response | None]:
        """What `encoded` made, with this model's networks.

        Raises:
            CodecError: it is something else.
        """
        return saved.decoded(arrays, self.bottom_of(saved.role_in(arrays)), self.top)

    def result(self, played: Mapping[str, Played]) -> "Result":
        """See `Model.result`."""
        of_guest = played["guest"]
        parts = {role: each.part for role, each in played.items()}
        losses = of_guest.trained.losses
        return Result(self, parts, of_guest.response, of_guest.metrics, of_guest.scores, of_guest.rows, losses)

    def __repr__(self) -> str:
        named = {each.name: getattr(self, each.name) for each in fields(self)} | {"bottom": _told(self.bottom)}
        return f"SplitNetwork({named | {'top': _told(self.top)}})"


@dataclass(frozen=True, slots=True)
class Result(Together):
    """A trained network with all parties' parts: what `simulate` alone can hold in one hand.

    Attributes:
        losses: the mean loss of each epoch.
    """

    losses: tuple[float, ...]


def _told(network: Any) -> str:
    """A network in words that are the same in every process."""
    if isinstance(network, Mapping):
        return str({role: _told(each) for role, each in network.items()})
    return str(network) if isinstance(network, tuple) else getattr(network, "__qualname__", type(network).__qualname__)
