"""Which of the available sites a round asks: plain data, given as `hs.App(selection=...)`, under any strategy.

    Uniform         each alike (McMahan et al., AISTATS 2017, Algorithm 1)
    ByExamples      the more examples, the likelier (Li et al., FedProx, MLSys 2020, Algorithm 2)
    PowerOfChoice   of some candidates those with the highest loss (Cho et al., AISTATS 2022)
    Balanced        those that have taken part least, as far as they are there

How many are asked is `sample`'s business. What a selection knows of sites it remembers from their replies; every
draw follows from the job's seed, the round and the phase.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from hanse.core.errors import ConfigError, TaskError
from hanse.core.seeds import generator, key_of
from hanse.core.spec import RunSpec

if TYPE_CHECKING:
    from hanse.strategies.strategy import Context, FoldInput, Memory

CANDIDATES = "candidates"
"""The phase in which candidates answer their loss."""


@dataclass(frozen=True)
class Selection:
    """How sites are chosen. Fields are numbers, strings and booleans."""

    name: ClassVar[str] = ""

    def choose(self, context: "Context", sites: Sequence[str], count: int) -> Sequence[str]:
        """`count` of `sites`, fewer than there are, in order of name."""
        raise NotImplementedError

    def remember(self, memory: "Memory", replies: Sequence["FoldInput"]) -> "Memory":
        """What is to be known for later choices; see `Strategy.remember`."""
        return memory

    def num_candidates(self, count: int) -> int:
        """How many are to answer their loss before `count` are chosen; 0 where none need."""
        return 0

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, **asdict(self)}


@dataclass(frozen=True)
class Uniform(Selection):
    """Each set of that size is as likely as any other."""

    name: ClassVar[str] = "uniform"

    def choose(self, context: "Context", sites: Sequence[str], count: int) -> Sequence[str]:
        """See `Selection.choose`."""
        return draw(context, sites, count, "cohort")


@dataclass(frozen=True)
class ByExamples(Selection):
    """One site after another, each with a chance in proportion to its number of examples, without repetition.

    The number is what the site answered last; of one that never answered, the mean of the others. Together with equal
    weights (`hs.FedAvg("equal")`, `hs.FedProx(weights="equal")`) examples count alike, as they do where sites are
    chosen uniformly and weighed by examples. A site that lies about its number is chosen too often.
    """

    name: ClassVar[str] = "by-examples"

    def choose(self, context: "Context", sites: Sequence[str], count: int) -> Sequence[str]:
        """See `Selection.choose`. After Efraimidis and Spirakis, 2006: the least of exponential numbers."""
        known: Mapping[str, float] = context.memory.get("examples", {})
        usual = sum(known.values()) / len(known) if known else 1.0
        sizes = np.array([max(known.get(site, usual), 1e-9) for site in sites])
        waits = _numbers(context, "by-examples").exponential(size=len(sites)) / sizes
        return [sites[place] for place in sorted(np.argsort(waits, kind="stable")[:count])]

    def remember(self, memory: "Memory", replies: Sequence["FoldInput"]) -> "Memory":
        """`examples` by site."""
        found = {reply.site: reply.num_examples for reply in replies}
        return {**memory, "examples": {**memory.get("examples", {}), **found}}


@dataclass(frozen=True)
class PowerOfChoice(ByExamples):
    """Candidates, drawn by examples, evaluate the model; those with the highest loss train.

    Cho, Wang, Joshi, "Towards understanding biased client selection in federated learning", AISTATS 2022,
    https://arxiv.org/abs/2010.01243, Algorithm π_pow-d. It converges faster and ends a little off the optimum. Sites
    must answer `loss` when they evaluate.

    Args:
        candidates: d; at least as many as train are asked.

    Raises:
        ConfigError: not a whole number from 1.
    """

    candidates: int = 10

    name: ClassVar[str] = "power-of-choice"

    def __post_init__(self) -> None:
        if type(self.candidates) is not int or not 1 <= self.candidates < 2**31:
            raise ConfigError(f"candidates: expected a whole number from 1, found {self.candidates!r}"[:200])

    def num_candidates(self, count: int) -> int:
        """d."""
        return max(self.candidates, count)

    def choose(self, context: "Context", sites: Sequence[str], count: int) -> Sequence[str]:
        """See `Selection.choose`; by examples where nobody has answered a loss, as in the phase of candidates.

        Raises:
            TaskError: candidates answered, none of them with a loss.
        """
        if context.phase == CANDIDATES or not context.previous:
            return super().choose(context, sites, count)
        losses = {each.site: each.metrics.get("loss") for each in context.previous}
        told = {site: float(loss) for site, loss in losses.items() if isinstance(loss, int | float) and site in sites}
        if not told:
            raise TaskError("bad_reply", "PowerOfChoice: expected sites to answer a metric 'loss' when they evaluate")
        ranked = sorted(told, key=lambda site: (-told[site] if told[site] == told[site] else np.inf, site))
        return sorted(ranked[:count])


@dataclass(frozen=True)
class Balanced(Selection):
    """Those that have taken part in the fewest rounds so far; among equals, by chance.

    A site that is seldom there is taken whenever it is, so that all have a say in the end.
    """

    name: ClassVar[str] = "balanced"

    def choose(self, context: "Context", sites: Sequence[str], count: int) -> Sequence[str]:
        """See `Selection.choose`."""
        served: Mapping[str, int] = context.memory.get("served", {})
        chance = _numbers(context, "balanced").permutation(len(sites))
        order = sorted(range(len(sites)), key=lambda place: (served.get(sites[place], 0), chance[place]))
        return [sites[place] for place in sorted(order[:count])]

    def remember(self, memory: "Memory", replies: Sequence["FoldInput"]) -> "Memory":
        """`served`: rounds by site."""
        served = dict(memory.get("served", {}))
        for reply in replies:
            served[reply.site] = served.get(reply.site, 0) + 1
        return {**memory, "served": served}


_KINDS: Mapping[str, type[Selection]] = {kind.name: kind for kind in (Uniform, ByExamples, PowerOfChoice, Balanced)}


def selection_of(spec: RunSpec) -> Selection:
    """The selection of a run; `Uniform` where it has none.

    Raises:
        ConfigError: an unknown name, or parameters that it does not take.
    """
    if spec.selection is None:
        return Uniform()
    given = dict(spec.selection)
    kind = _KINDS.get(str(given.pop("name", "")))
    if kind is None:
        raise ConfigError(f"selection: expected one of {', '.join(_KINDS)}, found {spec.selection.get('name')!r}"[:200])
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"selection {kind.name}: {error}") from None


def draw(context: "Context", sites: Sequence[str], count: int, purpose: str) -> Sequence[str]:
    """`count` of these sites, uniformly; other ones for another purpose, and for each plan of a phase."""
    if count >= len(sites):
        return sites
    if not count:
        return ()
    picked = _numbers(context, purpose).choice(len(sites), size=count, replace=False)
    return tuple(map(sites.__getitem__, sorted(picked.tolist())))


def _numbers(context: "Context", purpose: str) -> np.random.Generator:
    asked = len(context.asked)
    key = key_of(context.spec.seed, round_=context.round, phase=context.phase, attempt=asked, purpose=purpose)
    return generator(key)
