"""What a user writes: `hs.vertical.Boosting(...)`, and what comes back.

    model = hs.vertical.Boosting(num_trees=50, depth=4, label="y", key="id")
    result = hs.vertical.simulate(model, guest=bank, hosts=[shop, telco])
    result.metrics, result.importance, result.plot_trees("trees.html")

A model is plain data, with the methods of the linear ones: `declared`, `program`, and what lies between.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hanse.channels.checkpoints import BEGINNING
from hanse.channels.party import Party
from hanse.channels.protocol import Protocol
from hanse.core.arrays import Array, Arrays
from hanse.core.errors import ConfigError
from hanse.vertical.answers import check_epsilon
from hanse.vertical.boosting import guest, host, plots, protocol, scoring
from hanse.vertical.boosting.columns import BinnedColumns, binned
from hanse.vertical.boosting.forest import Forest, Questions
from hanse.vertical.boosting.response import KINDS, Response, response_of
from hanse.vertical.boosting.saved import part_arrays, part_in
from hanse.vertical.boosting.scoring import PartyTrees
from hanse.vertical.boosting.selection import Selection
from hanse.vertical.boosting.settings import Settings
from hanse.vertical.model import Model, Played, Program
from hanse.vertical.parties import IfOffline
from hanse.vertical.psi.ids import Places
from hanse.vertical.tables import Table
from hanse.vertical.together import Together

Wide = npt.NDArray[np.float64]
_SETTINGS = tuple(each.name for each in fields(Settings) if each.name != "fold")
_MEASURES = {
    "classification": {
        "accuracy": "share of the judged rows whose likeliest class is right",
        "log_loss": "mean log loss of the judged rows",
        "auc": "area under the ROC curve of the judged rows",
        "ks": "distance between the scores of both classes",
    },
    "regression": {"rmse": "of the judged rows", "mae": "of the judged rows", "r2": "explained variance"},
}
_CHOSEN = {
    "cv_loss": "the lowest mean loss of cross-validation",
    "cv_depth": "the depth that had it",
    "cv_trees": "how many rounds had it",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosting(Model):
    """Gradient-boosted trees over the columns of a guest and of one or more hosts (SecureBoost).

    Attributes:
        objective: `classification`, of two classes or more, or `regression`.
        label_epsilon: of a classification: grow trees on labels that are answered by chance, each once and for all, so
            that what training tells is label_epsilon-differentially private in each label, see
            `hanse.vertical.answers`. Metrics are of the real ones. None: grow on these.
        num_trees, depth, …: see `Settings`. For tables and jobs see `Model`.

    Raises:
        ConfigError: a value out of its range.
    """

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
    cross_validate: int = 0
    depths: tuple[int, ...] = ()
    cipher: str = "okamoto-uchiyama"
    label_epsilon: float | None = None

    def __post_init__(self) -> None:
        Model.__post_init__(self)
        if self.objective not in KINDS:
            raise ConfigError(f"objective: expected one of {', '.join(KINDS)}, found {self.objective!r:.40}")
        if self.label_epsilon is not None:
            check_epsilon(self.label_epsilon)
            if self.objective != "classification":
                raise ConfigError(f"label_epsilon: expected a classification, found a {self.objective}")
        object.__setattr__(self, "depths", tuple(self.depths))
        self.settings()

    def settings(self) -> Settings:
        """The settings that all parties must hold alike."""
        return Settings(**{name: getattr(self, name) for name in _SETTINGS})

    def declared(self, num_hosts: int) -> Protocol:
        """The declaration of the training."""
        return protocol.protocol(num_hosts, self.settings(), self.label_epsilon)

    def scored(self, num_hosts: int) -> Protocol:
        """The declaration of joint scoring."""
        return scoring.protocol(num_hosts)

    def measures(self) -> Mapping[str, str]:
        """Names of the metrics that the guest computes, each with what it is."""
        return _MEASURES[self.objective] | (_CHOSEN if self.cross_validate else {})

    def columns(self, table: Table, *, is_guest: bool) -> BinnedColumns:
        """A party's columns as they are trained on."""
        return binned(table.values, table.names, self.max_bins)

    def respond(self, label: npt.NDArray[Any], among: npt.NDArray[Any] | None = None) -> Response:
        """See `Model.respond`."""
        return response_of(label, self.objective, None if self.label_epsilon is None else among)

    def answered(
        self, response: Response, rows: Callable[[], Iterable[bytes]], secret: Callable[[], bytes]
    ) -> Response:
        """See `Model.answered`."""
        if self.label_epsilon is None:
            return response
        return response.answered(float(self.label_epsilon), self.label, rows(), secret())

    def program(self, role: str, columns: Any = None, response: Response | None = None, **options: Any) -> Program:
        """The program of one role of the training.

        Args:
            role: `guest` or a host.
            columns: see `columns`.
            response: of the guest.
            options: `progress`: trees that are done, with this party's state after them.
        """
        settings = self.settings()
        progress = options.pop("progress", BEGINNING)
        if options:
            raise ConfigError(f"{', '.join(options)}: not for trees")
        assert columns is not None
        if role == "guest":
            assert response is not None
            return lambda party: guest.guest(party, columns, response, settings, progress)
        return lambda party: host.host(party, columns, settings, progress)

    def part_of(self, columns: BinnedColumns, trained: Any, num_hosts: int) -> PartyTrees:
        """A party's part of the model, from what its program returned."""
        if isinstance(trained, Questions):
            return PartyTrees(columns.names, trained, num_hosts=num_hosts)
        return PartyTrees(columns.names, trained.questions, trained.grown.forest, num_hosts)

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

    def judged(self, trained: Any, num_rows: int) -> Places:
        """See `Model.judged`: the rows that the training held out, if there are any."""
        held_out = trained.grown.held_out
        return np.flatnonzero(held_out if held_out.any() else ~held_out)

    def also_told(self, trained: Any) -> Mapping[str, float]:
        """See `Model.also_told`: what cross-validation chose."""
        found = trained.selection
        if found is None:
            return {}
        return {"cv_loss": found.loss, "cv_depth": float(found.depth), "cv_trees": float(found.num_trees)}

    def result(self, played: Mapping[str, Played]) -> "Result":
        """See `Model.result`."""
        guest = played["guest"]
        parts = {role: each.part for role, each in played.items()}
        losses = guest.trained.grown.losses
        return Result(
            self, parts, guest.response, guest.metrics, guest.scores, guest.rows, losses, guest.trained.selection
        )


@dataclass(frozen=True, slots=True)
class Result(Together):
    """Trained trees with all parties' parts: what `simulate` alone can hold in one hand.

    Attributes:
        losses: the mean loss on the rows held out by the training after each round; empty without them.
        selection: what `cross_validate` found: losses of every depth and number of rounds, and the best of them.
    """

    losses: tuple[float, ...]
    selection: Selection | None = None

    @property
    def forest(self) -> Forest:
        """The trees as the guest knows them."""
        forest: Forest = self.parts["guest"].forest
        return forest

    @property
    def classes(self) -> tuple[Any, ...]:
        """The label's values, in the order of predictions; empty for a regression."""
        return tuple(self.response.classes)

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
