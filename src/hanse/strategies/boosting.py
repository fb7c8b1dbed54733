"""Boosting: gradient-boosted trees of sites that hold different rows, equal to those of the pooled rows.

Chen and Guestrin's algorithm (see `hanse.trees`), with the histograms of all sites added up before a split is chosen.
Derivatives are whole numbers, so the sums are exact and the trees are, bit for bit, those that one site with all rows
would have grown from the same edges. In the first round sites are asked for the target's distribution and for what
their features look like (`trees.summary_of` of released values); a round is then one phase for each level.

**Reveals.** To the server, which adds up: each site's histograms, level by level, which for few rows in a node are
nearly the rows' own derivatives. To all sites: the trees and the edges.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hanse.analytics.describe import moments
from hanse.analytics.exact import PRODUCT_DIGITS, SUM_DIGITS
from hanse.core.arrays import Array, Arrays, ArraySpec, Layout
from hanse.core.errors import ConfigError, UpdateError
from hanse.core.records import Config
from hanse.core.spec import RunSpec
from hanse.strategies.strategy import Context, PhasePlan, Strategy, check_number
from hanse.strategies.whole import Answers, Totals
from hanse.trees import Edges, Forest, Growth, Objective, grown, objective_of, pooled_edges

TARGET, EDGES, LEVEL = "target", "edges", "level-"
MAX_DEPTH = 12
MAX_FEATURES = 100_000
SUMMARY_VALUES = 4096
"""What a site tells of a feature at most."""


@dataclass(frozen=True)
class Boosting(Strategy):
    """Trees grown of summed histograms; one round is one tree, or one for each class.

    Args:
        objective: `binary`, `multiclass` or `regression`.
        num_classes: for `multiclass`.
        max_depth: levels of questions, 1 to 12.
        learning_rate: η, in (0, 1].
        reg_lambda: λ ≥ 0. min_split_gain: γ ≥ 0.
        min_child_weight: the least Σ h of a child. min_child_rows: its least number of rows.
        max_bins: of a feature, 2 to 1024.
        min_group: rows that each value must stand for of which a site tells that its features have it; the edges are
            made of these (1: of the values themselves).

    Raises:
        ConfigError: out of range.
    """

    objective: str = "binary"
    num_classes: int = 2
    max_depth: int = 4
    learning_rate: float = 0.3
    reg_lambda: float = 1.0
    min_split_gain: float = 0.0
    min_child_weight: float = 1.0
    min_child_rows: int = 5
    max_bins: int = 64
    min_group: int = 10

    name: ClassVar[str] = "boosting"
    needs_model: ClassVar[bool] = False
    stepwise: ClassVar[bool] = True
    has_client_part: ClassVar[bool] = True

    def __post_init__(self) -> None:
        objective_of(self.objective, self.num_classes)
        check_number("boosting.learning_rate", self.learning_rate, 0.0, 1.0, open_low=True)
        for name in ("reg_lambda", "min_split_gain", "min_child_weight"):
            check_number(f"boosting.{name}", getattr(self, name), 0.0)
        whole = (
            ("max_depth", 1, MAX_DEPTH),
            ("min_child_rows", 1, 10**9),
            ("max_bins", 2, 1024),
            ("min_group", 1, 10**6),
        )
        for name, low, high in whole:
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ConfigError(
                    f"boosting.{name}: expected a whole number from {low} to {high}, found {value!r}"[:200]
                )

    @property
    def growth(self) -> Growth:
        """How trees grow."""
        return Growth(
            self.learning_rate,
            self.reg_lambda,
            self.min_split_gain,
            self.min_child_weight,
            self.min_child_rows,
            self.max_bins,
        )

    # ---- planning ----

    def phases(self, spec: RunSpec, round_: int) -> tuple[str, ...]:
        """Target and edges in the first round, then level by level, and `evaluate` where it is due."""
        first = (TARGET, EDGES) if round_ == 1 else ()
        last = ("evaluate",) if spec.evaluate_every and round_ % spec.evaluate_every == 0 else ()
        return (*first, *(f"{LEVEL}{level}" for level in range(self.max_depth)), *last)

    def folds(self, phase: str) -> bool:
        """All but `evaluate`."""
        return phase != "evaluate"

    def plan(self, context: Context) -> PhasePlan:
        """The sampled sites, the same ones for all levels of a tree as far as they stay."""
        if context.phase == "evaluate":
            return self._everyone(context, "evaluate")
        return self._same(context, "step", quorum=context.spec.quorum)

    def config(self, context: Context, site: str) -> Config:
        """Of a step: what the site must know to tell its histograms."""
        if context.phase == "evaluate":
            return {}
        names = ("objective", "num_classes", "max_bins", "min_group")
        return {name: getattr(self, name) for name in names}

    # ---- folding ----

    def reducer_of(self, phase: str, model: Arrays | None) -> Totals | Answers:
        """Edges are made of each site's summary; everything else is added up."""
        if phase == TARGET:
            return Totals(target_layout(self.objective, self.num_classes), self._begin)
        if model is None:
            raise UpdateError(f"boosting: phase {phase} needs what the phases before have found")
        if phase == EDGES:
            return Answers(wrong_summary, lambda told: self._with_edges(model, told))
        level = int(phase.removeprefix(LEVEL))
        forest, edges = Forest.of(model), edges_of(model)
        cells = (num_growing(forest, level), edges.num_features, self.max_bins + 1, 3)
        layout = Layout((ArraySpec("histograms", np.dtype(np.int64), cells),))
        return Totals(layout, lambda totals: self._grow(model, level, totals["histograms"]))

    def _begin(self, totals: Arrays) -> Arrays:
        objective = objective_of(self.objective, self.num_classes)
        base, unit = objective.start(self._totals(totals))
        forest = Forest.empty(objective, base, self.max_depth)
        return Arrays({**forest.arrays(), "unit": np.array([unit])})

    def _totals(self, totals: Arrays) -> Array:
        if self.objective != "regression":
            return np.asarray(totals["rows"], dtype=np.float64)
        mean, variance = moments(int(totals["rows"][0]), totals["sum"], totals["squares"])
        if mean is None:
            raise UpdateError("boosting: expected rows at some site, found none")
        return np.array([mean, np.sqrt(variance or 0.0)])

    def _with_edges(self, model: Arrays, told: Sequence[tuple[str, Arrays]]) -> Arrays:
        counts = {site: len(arrays["lengths"]) for site, arrays in told}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{site} {count}" for site, count in list(counts.items())[:8])
            raise UpdateError(f"boosting: expected the same number of features at all sites, found {found}")
        apart = [summaries_of(arrays) for _, arrays in told]
        edges = Edges.of([pooled_edges(column, self.max_bins) for column in zip(*apart, strict=True)])
        return Arrays({**model, "edges": edges.values, "edge_starts": edges.starts})

    def _grow(self, model: Arrays, level: int, totals: Array) -> Arrays:
        forest = Forest.of(model)
        if level:  # these are our own: `split` writes into them
            forest = Forest.of({**model, **{name: array.copy() for name, array in forest.arrays().items()}})
        made = grown(forest, level, totals, edges_of(model), self.growth, int(model["unit"][0]))
        return Arrays({**model, **made.arrays()})


def target_layout(objective: str, num_classes: int) -> Layout:
    """What sites tell of their target: rows of each class, or rows, and digits of Σ y and Σ y²."""
    sizes = {"rows": num_classes} if objective != "regression" else {
        "rows": 1, "sum": SUM_DIGITS, "squares": PRODUCT_DIGITS,
    }  # fmt: skip
    return Layout(tuple(ArraySpec(name, np.dtype(np.int64), (size,)) for name, size in sizes.items()))


def edges_of(model: Arrays) -> Edges:
    """The edges among what is known."""
    return Edges(model["edges"], model["edge_starts"])


def num_growing(forest: Forest, level: int) -> int:
    """How many nodes grow at this level."""
    return forest.objective.num_outputs if level == 0 else len(forest.growing(level))


def objective_in(config: Config) -> Objective:
    """The objective that a step's config names."""
    return objective_of(str(config["objective"]), int(config["num_classes"]))  # type: ignore[arg-type]  # checked there


def summaries_of(told: Arrays) -> list[tuple[Array, Array]]:
    """One summary for each feature."""
    ends = np.cumsum(told["lengths"]).tolist()
    starts = [0, *ends[:-1]]
    return [(told["values"][a:b], told["counts"][a:b]) for a, b in zip(starts, ends, strict=True)]


def wrong_summary(told: Arrays) -> str:
    """Why this is no summary of features; empty if it is."""
    expected = {"values": np.float64, "counts": np.int64, "lengths": np.int64}
    if list(told) != list(expected) or any(told[n].dtype != d or told[n].ndim != 1 for n, d in expected.items()):
        return "expected values, counts and lengths of a summary"
    values, counts, lengths = told["values"], told["counts"], told["lengths"]
    if not 0 < len(lengths) <= MAX_FEATURES or (lengths < 0).any() or (lengths > SUMMARY_VALUES + 1).any():
        return f"expected summaries of 1 to {MAX_FEATURES} features, each of at most {SUMMARY_VALUES} values"
    if not len(values) == len(counts) == int(lengths.sum()) or not np.isfinite(values).all():
        return "expected a count for each value, and finite values"
    if (counts < 1).any() or (counts > 2**40).any():
        return "expected counts from 1 to 2**40"
    return ""
