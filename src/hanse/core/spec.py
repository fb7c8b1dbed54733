"""`RunSpec`: everything the round machine must know about one component, as plain data.

It is made by `hs.App`, travels in the signed job, and is checked here when it comes from outside. Nothing in it is
code: a strategy is a name with parameters.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hanse.core.errors import ConfigError

NUMERICS = 1
"""The canonical order of sums that this software computes (DESIGN §3.4); stored with the job for its life."""

MAX_ROUNDS = 1_000_000


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """Stop when `metric` has not improved by more than `min_delta` for `patience` rounds.

    Args:
        metric: a name in a round's metrics, as `RoundRecord.metrics` shows it.
        patience: rounds without improvement that are borne, ≥ 1.
        mode: `min` (losses) or `max` (accuracy).
    """

    metric: str
    patience: int = 3
    mode: str = "min"
    min_delta: float = 0.0


@dataclass(frozen=True, slots=True)
class RunSpec:
    """One component's run.

    Args:
        strategy: name of a built-in strategy, or `custom` for the app's own (`@app.strategy`).
        params: its parameters.
        rounds: ≥ 1.
        quorum: replies that a phase needs to count, ≥ 1; None means all that were asked.
        sample: share of the available sites (0, 1], or their number (int ≥ 1), asked in each round.
        over_select: extra share of sites asked so that stragglers need not be awaited, ≥ 0.
        deadline_s: seconds from the opening of a phase until it closes with what it has.
        grace_s: seconds to wait for the rest once enough replies are there.
        retries: how often a phase that misses its quorum is extended by fresh tasks before the job fails.
        evaluate_every: rounds between `evaluate` phases at the sites; 0 for none.
        initial: `ask` (one site's parameters), `given` (the job carries the arrays), or `none` (queries need no model).
        on_error: `continue` (a failed site is left out if the quorum holds) or `fail`.
        min_sites: sites that must be there before the first round starts; None for the quorum.
        server_config, server_evaluate: whether the app has `@app.config`, `@app.evaluate_on_server`.
        threads: compute threads in every worker.
        compression: how updates travel, `{"name": …, parameter: …}`; empty for as they are.
        selection: which sites are asked, as `strategies.selection.Selection.to_json`; None for any alike.
        lr: the sites' learning rate, `config["lr"]`: the fields of `strategies.schedule.Schedule`; None
        for none.
    """

    strategy: str = "fedavg"
    params: Mapping[str, Any] = field(default_factory=dict)
    rounds: int = 10
    quorum: int | None = None
    sample: float | int = 1.0
    over_select: float = 0.0
    deadline_s: float = 3600.0
    grace_s: float = 0.0
    retries: int = 2
    evaluate_every: int = 1
    initial: str = "ask"
    on_error: str = "continue"
    allow_nonfinite: bool = False
    keep_updates: bool = False
    min_sites: int | None = None
    seed: int = 0
    stop: EarlyStop | None = None
    server_config: bool = False
    server_evaluate: bool = False
    threads: int = 1
    compression: Mapping[str, Any] = field(default_factory=dict)
    numerics: int = NUMERICS
    selection: Mapping[str, Any] | None = None
    lr: Mapping[str, Any] | None = None
    groups: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _check_int("rounds", self.rounds, 1, MAX_ROUNDS)
        if self.quorum is not None:
            _check_int("quorum", self.quorum, 1, 1_000_000)
        if self.min_sites is not None:
            _check_int("min_sites", self.min_sites, 1, 1_000_000)
        _check_int("retries", self.retries, 0, 1000)
        _check_int("evaluate_every", self.evaluate_every, 0, MAX_ROUNDS)
        _check_int("seed", self.seed, 0, 2**63 - 1)
        _check_int("threads", self.threads, 1, 1024)
        _check_int("numerics", self.numerics, NUMERICS, NUMERICS)
        if type(self.sample) is int:
            _check_int("sample", self.sample, 1, 1_000_000)
        else:
            _check_float("sample", self.sample, 0.0, 1.0, open_low=True)
        _check_float("over_select", self.over_select, 0.0, 10.0)
        _check_float("deadline_s", self.deadline_s, 0.0, 1e9, open_low=True)
        _check_float("grace_s", self.grace_s, 0.0, 1e9)
        _check_word("initial", self.initial, ("ask", "given", "none"))
        _check_word("on_error", self.on_error, ("continue", "fail"))
        if self.stop is not None:
            if not isinstance(self.stop.metric, str):
                raise ConfigError(f"stop.metric: expected a metric's name, found {type(self.stop.metric).__name__}")
            _check_int("stop.patience", self.stop.patience, 1, MAX_ROUNDS)
            _check_word("stop.mode", self.stop.mode, ("min", "max"))
            _check_float("stop.min_delta", self.stop.min_delta, 0.0, 1e9)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object. What says nothing is left out where older software would not know it."""
        value = dataclasses.asdict(self)
        return value if self.groups is not None else {name: each for name, each in value.items() if name != "groups"}

    @classmethod
    def from_json(cls, value: Any) -> "RunSpec":
        """Read what `to_json` wrote.

        Raises:
            ConfigError: an unknown field, a wrong type or a value out of range, by name.
        """
        if not isinstance(value, dict):
            raise ConfigError(f"run: expected an object, found {type(value).__name__}")
        known = {spec.name: spec for spec in dataclasses.fields(cls)}
        for key, item in value.items():
            if key not in known:
                raise ConfigError(f"run.{str(key)[:60]}: unknown field; known are {', '.join(known)}")
            kinds = _KINDS.get(key)
            if kinds is not None and type(item) not in kinds:
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise ConfigError(f"run.{key}: expected {expected}, found {type(item).__name__}")
        value = dict(value)
        if isinstance(value.get("stop"), dict):
            try:
                value["stop"] = EarlyStop(**value["stop"])
            except TypeError:
                raise ConfigError("run.stop: expected metric, patience, mode, min_delta") from None
        return cls(**value)


_KINDS: dict[str, tuple[type, ...]] = {
    "strategy": (str,),
    "params": (dict,),
    "rounds": (int,),
    "quorum": (int, type(None)),
    "sample": (int, float),
    "over_select": (int, float),
    "deadline_s": (int, float),
    "grace_s": (int, float),
    "retries": (int,),
    "evaluate_every": (int,),
    "initial": (str,),
    "on_error": (str,),
    "allow_nonfinite": (bool,),
    "keep_updates": (bool,),
    "min_sites": (int, type(None)),
    "seed": (int,),
    "stop": (dict, type(None)),
    "server_config": (bool,),
    "server_evaluate": (bool,),
    "threads": (int,),
    "compression": (dict,),
    "numerics": (int,),
    "selection": (dict, type(None)),
    "lr": (dict, type(None)),
    "groups": (dict, type(None)),
}


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ConfigError(f"{name}: expected a whole number from {low} to {high}, found {value!r}")


def _check_float(name: str, value: Any, low: float, high: float, *, open_low: bool = False) -> None:
    fits = isinstance(value, int | float) and math.isfinite(value) and low <= value <= high
    if not fits or (open_low and value == low):
        raise ConfigError(
            f"{name}: expected a number {'above' if open_low else 'from'} {low} to {high}, found {value!r}"
        )


def _check_word(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name}: expected one of {', '.join(allowed)}; found {value!r}")
