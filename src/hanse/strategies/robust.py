"""Strategies that some of the sites may lie to: each names a robust reducer and counts every site the same.

    strategy         reducer             tolerates                    source of the rule
    FedMedian        Median              f < n/2                      Yin et al., ICML 2018, Definition 1
    FedTrimmedMean   TrimmedMean         f ≤ trim · n                 Yin et al., ICML 2018, Definition 2
    FedKrum          Krum                2f + 3 ≤ n                   Blanchard et al., NIPS 2017, section 4
    FedBulyan        Bulyan              4f + 3 ≤ n                   El Mhamdi et al., ICML 2018, section 4
    RFA              GeometricMedian     f < n/2                      Pillutla et al., IEEE TSP 2022, Algorithm 2
    FedNormBound     NormBound           bounds the harm              Sun et al., 2019, section 4.2
    FLTrust          RootTrust           any f, with a trusted root   Cao et al., NDSS 2021, Algorithm 2

Full references stand with the rules, in `aggregation/selects.py` and `aggregation/gathers.py`. n is the number of
updates in a round, f of those that may be arbitrary. The proofs assume honest updates that are alike; where sites' data
differ much, every rule also turns honest minorities away (a table of measured accuracies is in docs/results.md).

Not here: FedAvg's weights by examples, since a weight is the sender's own claim.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from hanse.aggregation import Bulyan, GeometricMedian, Krum, Median, NormBound, RootTrust, TrimmedMean
from hanse.core.errors import ConfigError
from hanse.strategies.strategy import (
    Ask,
    Context,
    FoldInput,
    PhasePlan,
    Reducer,
    Strategy,
    check_count,
    check_number,
)


@dataclass(frozen=True)
class _Robust(Strategy):
    """Deltas of equal weight, added to the model once they are reduced."""

    update_kind: ClassVar[str] = "delta"

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """1 for every reply."""
        return [1.0] * len(replies)


@dataclass(frozen=True)
class FedMedian(_Robust):
    """The median of each coordinate."""

    name: ClassVar[str] = "fedmedian"

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return Median()


@dataclass(frozen=True)
class FedTrimmedMean(_Robust):
    """The mean of each coordinate without its extremes.

    Args:
        trim: share cut at each end, in [0, 0.5).

    Raises:
        ConfigError: out of range.
    """

    trim: float = 0.2

    name: ClassVar[str] = "fedtrimmedmean"

    def __post_init__(self) -> None:
        check_number("fedtrimmedmean.trim", self.trim, 0.0, 0.5, open_high=True)

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return TrimmedMean(self.trim)


@dataclass(frozen=True)
class FedKrum(_Robust):
    """The update nearest to its neighbours, or the mean of the `keep` nearest (Multi-Krum).

    Args:
        num_byzantine: f ≥ 0.
        keep: updates that are averaged, ≥ 1.

    Raises:
        ConfigError: out of range.
    """

    num_byzantine: int = 1
    keep: int = 1

    name: ClassVar[str] = "fedkrum"

    def __post_init__(self) -> None:
        check_count("fedkrum.num_byzantine", self.num_byzantine, 0)
        check_count("fedkrum.keep", self.keep, 1)

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return Krum(self.num_byzantine, keep=self.keep)


@dataclass(frozen=True)
class FedBulyan(_Robust):
    """Repeated Krum, then the mean of the values around each coordinate's median.

    Args:
        num_byzantine: f ≥ 0.

    Raises:
        ConfigError: out of range.
    """

    num_byzantine: int = 1

    name: ClassVar[str] = "fedbulyan"

    def __post_init__(self) -> None:
        check_count("fedbulyan.num_byzantine", self.num_byzantine, 0)

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return Bulyan(self.num_byzantine)


@dataclass(frozen=True)
class RFA(_Robust):
    """The geometric median.

    Args:
        smoothing: ν > 0 of the paper's Algorithm 2.

    Raises:
        ConfigError: out of range.
    """

    smoothing: float = 1e-6

    name: ClassVar[str] = "rfa"

    def __post_init__(self) -> None:
        check_number("rfa.smoothing", self.smoothing, 0.0, open_low=True)

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return GeometricMedian(self.smoothing)


@dataclass(frozen=True)
class FedNormBound(_Robust):
    """The mean of deltas, of which none may be longer than `max_norm`.

    Args:
        max_norm: > 0, Euclidean, of the whole delta; longer ones are scaled down to it.

    Raises:
        ConfigError: out of range.
    """

    max_norm: float = 1.0

    name: ClassVar[str] = "fednormbound"

    def __post_init__(self) -> None:
        check_number("fednormbound.max_norm", self.max_norm, 0.0, open_low=True)

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return NormBound(self.max_norm)


@dataclass(frozen=True)
class FLTrust(_Robust):
    """Updates count as far as they point where the root's does.

    The paper's server holds a small, clean data set and trains on it itself. A Hanse server holds no data, so one site,
    which everybody trusts, plays that part: it is asked in every round, sampled or not, and its update judges the
    others and is not added up. A round without it fails.

    Args:
        root: the name of that site.

    Raises:
        ConfigError: no name. From `plan`: that site is not there.
    """

    root: str = "root"

    name: ClassVar[str] = "fltrust"

    def __post_init__(self) -> None:
        if type(self.root) is not str or not self.root:
            raise ConfigError(f"fltrust.root: expected the name of a site, found {str(self.root)[:60]!r}")

    def plan(self, context: Context) -> PhasePlan:
        """The sampled sites and the root."""
        plan = super().plan(context)
        if context.phase != "train" or any(ask.site == self.root for ask in plan.asks):
            return plan
        if self.root not in context.sites:
            if context.spec.quorum == 1:  # also how a phase is extended, by other sites than the root
                return plan
            raise ConfigError(f"fltrust: expected the root site {self.root[:60]!r}, found it is not available")
        root = Ask(self.root, "train", {"round": context.round, **self.config(context, self.root)})
        asks = tuple(sorted((*plan.asks, root), key=lambda ask: ask.site))
        close = replace(plan.close, count=plan.close.count + 1, quorum=plan.close.quorum + 1)
        return replace(plan, asks=asks, close=close)

    def weigh(self, replies: Sequence[FoldInput]) -> list[float]:
        """0 says to `RootTrust` which one is the root's."""
        return [0.0 if reply.site == self.root else 1.0 for reply in replies]

    def reducer(self) -> Reducer:
        """See `Strategy.reducer`."""
        return RootTrust()
