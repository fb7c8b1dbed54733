"""XGBoost: trees that each site grows with XGBoost on its own rows, put one after another.

Bagging, where all sites grow from the same forest side by side and each one's trees count in full with a learning rate
divided by their number; or cyclic, where one site after another goes on with the forest of those before. No paper fixes
either; Flower and FLARE offer both. Unlike `Boosting`, which equals pooled training, the forest depends on how rows lie
at sites.

The server needs no XGBoost: trees are arrays to it (`trees/boosters.py`). **Reveals.** To the server and to all sites:
each site's trees, whose leaves and thresholds come of its own rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hanse.core.arrays import Arrays
from hanse.core.errors import ConfigError, UpdateError
from hanse.core.records import Config
from hanse.core.spec import RunSpec
from hanse.strategies.strategy import Context, PhasePlan, Strategy, check_number, cohort_size
from hanse.strategies.whole import Answers
from hanse.trees.boosters import appended, header, read_header, wrong_trees

OBJECTIVES = ("binary:logistic", "multi:softprob", "reg:squarederror")
MODES = ("bagging", "cyclic")


@dataclass(frozen=True)
class XGBoost(Strategy):
    """A forest of XGBoost's trees, made at the sites.

    Args:
        mode: `bagging` or `cyclic`.
        objective: `binary:logistic`, `multi:softprob` or `reg:squarederror`.
        num_classes: for `multi:softprob`.
        local_rounds: boosting rounds of a site in one round of the federation.
        base_score: where margins begin, the same at all sites: a probability, or for regression a value.

    Raises:
        ConfigError: out of range. From `plan`: cyclic with a quorum above 1, since only one site's trees are added.
    """

    mode: str = "bagging"
    objective: str = "binary:logistic"
    num_classes: int = 2
    local_rounds: int = 1
    base_score: float = 0.5

    name: ClassVar[str] = "xgboost"
    needs_model: ClassVar[bool] = False
    stepwise: ClassVar[bool] = True
    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, word, known in (("mode", self.mode, MODES), ("objective", self.objective, OBJECTIVES)):
            if word not in known:
                raise ConfigError(f"xgboost.{name}: expected one of {', '.join(known)}; found {str(word)[:60]!r}")
        most = 1000 if self.objective == "multi:softprob" else 2
        for name, value, high in (("num_classes", self.num_classes, most), ("local_rounds", self.local_rounds, 1000)):
            low = 2 if name == "num_classes" else 1
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(f"xgboost.{name}: expected from {low} to {high}, found {value!r}"[:200])
        bounds = (0.0, 1.0) if self.objective != "reg:squarederror" else (-1e30, 1e30)
        check_number("xgboost.base_score", self.base_score, *bounds, open_low=True, open_high=True)

    @property
    def num_outputs(self) -> int:
        """Trees of one boosting round."""
        return self.num_classes if self.objective == "multi:softprob" else 1

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """`grow`, and `evaluate` where it is due."""
        return ("grow", "evaluate") if spec.evaluate_every and round_ % spec.evaluate_every == 0 else ("grow",)

    def folds(self, phase: str) -> bool:
        """Trees are put together after `grow`."""
        return phase == "grow"

    def plan(self, context: Context) -> PhasePlan:
        """Every sampled site, or the one whose turn it is."""
        if context.phase == "evaluate":
            return self._everyone(context, "evaluate")
        if self.mode == "bagging":
            return self._sampled(context, "step")
        if (context.spec.quorum or 1) > 1:
            raise ConfigError("xgboost: cyclic adds the trees of one site a round; expected a quorum of 1 or none")
        known = sorted((*context.sites, *context.busy))
        turn = known[(context.round - 1) % len(known)] if known else ""
        chosen = [turn] if turn in context.sites else list(context.sites[:1])
        return self._close(replace(context, spec=replace(context.spec, quorum=1)), chosen, "step", 1)

    def config(self, context: Context, site: str) -> Config:
        """Of a step: what the site grows, and by what its learning rate is multiplied."""
        if context.phase == "evaluate":
            return {}
        known = len(context.sites) + len(context.busy)
        share = 1.0 if self.mode == "cyclic" else 1.0 / max(1, cohort_size(context.spec, known))
        return {
            "objective": self.objective,
            "num_classes": self.num_classes,
            "local_rounds": self.local_rounds,
            "base_score": float(self.base_score),
            "share": share,
        }

    def reducer_of(self, phase: str, model: Arrays | None) -> Answers:
        """Each site's trees, checked, behind those that there are."""
        return Answers(lambda told: self._wrong(model, told), lambda told: self._together(model, told))

    def _wrong(self, model: Arrays | None, told: Arrays) -> str:
        try:
            found = read_header(told, OBJECTIVES)
            known = None if model is None else read_header(model, OBJECTIVES)
        except ConfigError as error:
            return str(error)
        if (found[0], found[1], found[3]) != (self.objective, self.num_outputs, float(self.base_score)):
            return "expected trees of this job's objective, classes and base score"
        if known is not None and found[2] != known[2]:
            return f"expected trees of {known[2]} features, found {found[2]}"
        return wrong_trees(told, found[2], self.num_outputs)

    def _together(self, model: Arrays | None, told: Sequence[tuple[str, Arrays]]) -> Arrays:
        features = {site: read_header(arrays, OBJECTIVES)[2] for site, arrays in told}
        if len(set(features.values())) > 1:
            found = ", ".join(f"{site} {count}" for site, count in list(features.items())[:8])
            raise UpdateError(f"xgboost: expected the same number of features at all sites, found {found}")
        parts = [*([] if model is None else [model]), *(arrays for _, arrays in told)]
        about = header(self.objective, self.num_outputs, next(iter(features.values())), float(self.base_score))
        return Arrays({**about, **appended(parts)})
