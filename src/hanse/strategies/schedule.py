"""Learning rates by round, as plain data: for sites, `hs.App(lr=...)`, and for the server, a strategy's `server_lr`.

Steps and cosines by round are what papers on federated learning run: Reddi et al., ICLR 2021, appendix; Charles and
Konečný, "On the outsized importance of learning rates in local update methods", 2020. Cosine: Loshchilov and Hutter,
SGDR, ICLR 2017, Equation 5, without restarts. Warm-up: Goyal et al., 2017, section 2.2.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hanse.core.errors import ConfigError

KINDS = ("constant", "step", "cosine")


@dataclass(frozen=True)
class Schedule:
    """A learning rate for every round t = 1, 2, …

        constant   lr
        step       lr · factor^⌊(t − 1 − warmup) / every⌋
        cosine     least + (lr − least) (1 + cos(π u)) / 2, u from 0 to 1 between the end of the warm-up and `rounds`

    and before, for t ≤ warmup, lr · t / (warmup + 1).

    Args:
        lr: > 0.
        kind: `constant`, `step` or `cosine`.
        rounds: T ≥ 1, where a cosine ends; it stays there afterwards.
        every, factor: of steps: rounds ≥ 1 between them, and what each multiplies by, > 0.
        least: where a cosine ends, from 0 to lr.
        warmup: rounds ≥ 0.

    Raises:
        ConfigError: out of range.

    Example:
        >>> [round(Schedule(0.4, "cosine", rounds=5, warmup=1).at(t), 3) for t in (1, 2, 3, 4, 5, 9)]
        [0.2, 0.4, 0.3, 0.1, 0.0, 0.0]
    """

    lr: float
    kind: str = "constant"
    rounds: int = 1
    every: int = 1
    factor: float = 0.1
    least: float = 0.0
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"schedule.kind: expected one of {', '.join(KINDS)}, found {str(self.kind)[:60]!r}")
        for name, low in (("rounds", 1), ("every", 1), ("warmup", 0)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value < 2**31:
                raise ConfigError(f"schedule.{name}: expected a whole number from {low}, found {value!r}"[:200])
        _check("schedule.lr", self.lr, above=0.0)
        _check("schedule.factor", self.factor, above=0.0)
        least: Any = self.least
        if not (isinstance(least, int | float) and 0 <= least <= self.lr):
            raise ConfigError(f"schedule.least: expected a number from 0 to lr, found {self.least!r}"[:200])

    def at(self, round_: int) -> float:
        """The learning rate of a round, which counts from 1."""
        if round_ <= self.warmup:
            return self.lr * round_ / (self.warmup + 1)
        since = round_ - 1 - self.warmup
        if self.kind == "step":
            return float(self.lr * self.factor ** (since // self.every))
        if self.kind == "cosine":
            share = min(1.0, since / max(1, self.rounds - 1 - self.warmup))
            return self.least + (self.lr - self.least) * (1 + math.cos(math.pi * share)) / 2
        return float(self.lr)


Rate = float | Schedule
"""A learning rate, or one for every round."""


def rate_of(name: str, value: Any) -> Rate:
    """A rate that may have come as JSON.

    Raises:
        ConfigError: neither a number above 0 nor a schedule.
    """
    if isinstance(value, Mapping):
        try:
            return Schedule(**value)
        except TypeError as error:
            raise ConfigError(f"{name}: {error}"[:200]) from None
    if isinstance(value, Schedule):
        return value
    _check(name, value, above=0.0)
    rate: float = value
    return rate


def set_rate(strategy: Any, field: str, value: Any) -> None:
    """Check a frozen strategy's rate, and put a schedule there where it came as JSON.

    Raises:
        ConfigError: see `rate_of`.
    """
    rate = rate_of(f"{strategy.name}.{field}", value)
    if isinstance(value, Mapping):
        object.__setattr__(strategy, field, rate)


def rate_at(rate: Rate, round_: int) -> float:
    """What it is in a round."""
    return rate.at(round_) if isinstance(rate, Schedule) else rate


def _check(name: str, value: Any, *, above: float) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not above < value <= 1e300:
        raise ConfigError(f"{name}: expected a number above {above:g}, found {value!r}"[:200])
