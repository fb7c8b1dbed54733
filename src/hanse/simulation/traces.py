"""How long virtual sites take and when they are there: pure functions of (seed, site, attempt) in virtual time.

    Constant(seconds)                     every task takes as long
    LogNormal(median_s, spread, jitter)   some sites are slow, and every task varies
    Diurnal(period_s, share)              each site is there for a part of every day, at its own hours
    Dropout(probability)                  a site that is asked does not answer

A trace of one's own is a function of a `Visit`: `durations` answers seconds, `availability` whether the site answers.
Both must give the same every time; `visit.uniform(purpose)` is a number that does.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from hanse.core.errors import ConfigError
from hanse.core.seeds import generator, key_of
from hanse.rounds.names import Picked

_NORMAL = NormalDist()
MAX_S = 1e9


@dataclass(frozen=True, slots=True)
class Visit:
    """One question to one site.

    Args:
        seed: the job's.
        attempt: how often the site was asked before in this phase of this round.
        now_s: virtual seconds since the run began.
    """

    seed: int
    site: str
    round: int
    phase: str
    attempt: int
    now_s: float

    def uniform(self, purpose: str, *, of_site: bool = False) -> float:
        """A number above 0 and below 1 that depends on this visit and `purpose`, or on the site and `purpose` only."""
        if of_site:
            return _unit(key_of(self.seed, site=self.site, purpose=purpose))
        return _unit(
            key_of(
                self.seed, round_=self.round, phase=self.phase, site=self.site, attempt=self.attempt, purpose=purpose
            )
        )

    def normal(self, purpose: str, *, of_site: bool = False) -> float:
        """A standard normal number, as `uniform`."""
        return _NORMAL.inv_cdf(self.uniform(purpose, of_site=of_site))


Durations = Callable[[Visit], float]
Availability = Callable[[Visit], bool]


@runtime_checkable
class Presence(Protocol):
    """An availability that also says who is there before anybody is asked."""

    step_s: float
    """How often to look again while too few are there."""

    def present(self, names: Sequence[str], seed: int, now_s: float) -> npt.NDArray[np.bool_]:
        """Who is there: `(len(names),)`."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Every task takes `seconds` ≥ 0."""

    seconds: float

    def __post_init__(self) -> None:
        _check("seconds", self.seconds, 0.0, MAX_S)

    def __call__(self, visit: Visit) -> float:
        return self.seconds


@dataclass(frozen=True, slots=True)
class LogNormal:
    """exp(N(ln median_s, spread²)) of the site, times exp(N(0, jitter²)) of the visit.

    Args:
        median_s: > 0.
        spread: between sites, ≥ 0.
        jitter: between visits of one site, ≥ 0.
    """

    median_s: float = 60.0
    spread: float = 1.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        _check("median_s", self.median_s, 1e-9, MAX_S)
        _check("spread", self.spread, 0.0, 10.0)
        _check("jitter", self.jitter, 0.0, 10.0)

    def __call__(self, visit: Visit) -> float:
        site = self.spread * visit.normal("speed", of_site=True) if self.spread else 0.0
        own = self.jitter * visit.normal("duration") if self.jitter else 0.0
        return min(self.median_s * math.exp(site + own), MAX_S)


@dataclass(frozen=True, slots=True)
class Dropout:
    """A site that is asked does not answer, with `probability` from 0 up to and not including 1."""

    probability: float

    def __post_init__(self) -> None:
        _check("probability", self.probability, 0.0, 1.0 - 1e-12)

    def __call__(self, visit: Visit) -> bool:
        return visit.uniform("dropout") >= self.probability


@dataclass(frozen=True, slots=True)
class Diurnal:
    """Each site is there for `share` of every period, from an hour of its own on.

    Args:
        period_s: > 0; a day by default.
        share: above 0, up to 1.
        step_s: how often to look again while too few are there.
    """

    period_s: float = 86_400.0
    share: float = 0.5
    step_s: float = 60.0

    def __post_init__(self) -> None:
        _check("period_s", self.period_s, 1e-3, MAX_S)
        _check("share", self.share, 1e-9, 1.0)
        _check("step_s", self.step_s, 1e-3, MAX_S)

    def __call__(self, visit: Visit) -> bool:
        return True

    def present(self, names: Sequence[str], seed: int, now_s: float) -> npt.NDArray[np.bool_]:
        """See `Presence.present`; the hours are a function of the seed and a site's place among all sites."""
        begins = _begins(len(names), seed) * self.period_s
        return (now_s - begins) % self.period_s < self.share * self.period_s


@lru_cache(maxsize=2)
def _begins(count: int, seed: int) -> npt.NDArray[np.float64]:
    return generator(key_of(seed, purpose="diurnal")).random(count)


@dataclass(frozen=True, slots=True)
class Traces:
    """What a simulation was told about time. Neither: the wall clock's, and everybody is there."""

    durations: Durations | None = None
    availability: Availability | None = None

    @property
    def virtual(self) -> bool:
        """Whether time is virtual."""
        return self.durations is not None or self.availability is not None

    @property
    def step_ms(self) -> int:
        """How often to look again while too few sites are there; 0 if that would change nothing."""
        trace: Any = self.availability
        return max(1, round(trace.step_s * 1000)) if isinstance(trace, Presence) else 0

    def takes_ms(self, visit: Visit, *, certain: bool = False) -> float:
        """Virtual milliseconds until the site's reply arrives; infinite if none does, unless it is `certain`.

        Raises:
            ConfigError: a trace answered nonsense.
        """
        if self.availability is not None and not certain and not self.availability(visit):
            return math.inf
        if self.durations is None:
            return 0.0
        seconds: Any = self.durations(visit)
        if not isinstance(seconds, int | float | np.number) or not 0 <= float(seconds) <= MAX_S:
            raise ConfigError(f"durations: expected seconds from 0 to {MAX_S:g}, found {seconds!r}"[:200])
        return float(round(float(seconds) * 1000))

    def present(self, names: Sequence[str], seed: int, now_s: float) -> Sequence[str]:
        """Which of the sites are there."""
        trace: Any = self.availability
        if not isinstance(trace, Presence):
            return names
        return Picked(names, np.flatnonzero(trace.present(names, seed, now_s)))


def traces_of(durations: Any, availability: Any) -> Traces:
    """The arguments `durations` and `availability` of `hs.simulate`; a number is a constant.

    Raises:
        ConfigError: neither a number nor a function.
    """
    if isinstance(durations, int | float) and not isinstance(durations, bool):
        durations = Constant(float(durations))
    for what, value in (("durations", durations), ("availability", availability)):
        if value is not None and not callable(value):
            raise ConfigError(
                f"{what}: expected a function of a Visit, such as hs.traces.LogNormal(), found {type(value).__name__}"
            )
    return Traces(durations, availability)


def _unit(key: int) -> float:
    return ((key >> 75) + 0.5) * 2.0**-53


def _check(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{name}: expected a number from {low:g} to {high:g}, found {value!r}"[:200])
