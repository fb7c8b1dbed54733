"""What is tracked, as plain data: runs that begin, have parameters and metrics, and end. Pure; the field's own words.

A job has one run for the aggregator and one for each site. A run's name is its prefix, the job's id and who it
belongs to, so that no two jobs share one. Every record has a key that is its own within its run: the same event, told
twice (a server that starts again, a person who looks again), makes the same keys and is kept once.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hanse.core.errors import ConfigError
from hanse.core.tracked import Tracked

AGGREGATOR = "aggregator"
Kind = Literal["begin", "metrics", "end"]
Plain = str | int | float | bool
MAX_TEXT = 250
"""Characters of a parameter that every backend takes."""
MAX_VALUES = 1000
"""Steps of one metric that are kept of one reply."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row in a tracking server's list.

    Args:
        prefix: groups what belongs together: MLflow's and SageMaker's experiment.
        job: the job's id.
        who: a site, or `aggregator`.
    """

    prefix: str
    job: str
    who: str

    @property
    def name(self) -> str:
        """Unique for the job."""
        return f"{self.prefix}-{self.job}-{self.who}"


@dataclass(frozen=True, slots=True)
class Metric:
    """One number.

    Args:
        step: the round; or, for a number of one step within a round, the steps so far.
    """

    name: str
    value: float
    step: int


@dataclass(frozen=True, slots=True)
class Record:
    """One thing to tell a backend.

    Args:
        key: unique within the run.
        at_ms: when it happened, which a backend stores; the same however often it is delivered.
        params: of `begin` and `metrics`.
        status: of `end`: `finished`, `failed` or `cancelled`.
    """

    run: Run
    kind: Kind
    key: str
    at_ms: int
    params: Mapping[str, Plain] = field(default_factory=dict)
    metrics: tuple[Metric, ...] = ()
    status: str = ""

    def to_json(self) -> str:
        """As one line; numbers that are not finite as texts."""
        return json.dumps(
            {
                "run": [self.run.prefix, self.run.job, self.run.who],
                "kind": self.kind,
                "key": self.key,
                "at_ms": self.at_ms,
                "params": dict(self.params),
                "metrics": [[m.name, _as_json(m.value), m.step] for m in self.metrics],
                "status": self.status,
            },
            separators=(",", ":"),
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> "Record":
        """Read what `to_json` wrote."""
        value = json.loads(text)
        metrics = tuple(Metric(name, float(number), step) for name, number, step in value["metrics"])
        run = Run(*value["run"])
        return cls(run, value["kind"], value["key"], value["at_ms"], value["params"], metrics, value["status"])


def begin(run: Run, at_ms: int, params: Mapping[str, Any]) -> Record:
    """A run begins. Parameters that are neither texts nor numbers are left out."""
    return Record(run, "begin", "begin", at_ms, plain_params(params))


def end(run: Run, at_ms: int, status: str) -> Record:
    """A run ends."""
    return Record(run, "end", "end", at_ms, status=status)


def of_round(run: Run, at_ms: int, record: Mapping[str, Any]) -> Record:
    """What the server knows of a round, as `RoundRecord.to_json` gives it, for the aggregator's run.

    Metrics have the names of the round's record; those of one site begin with `site/NAME/`; besides them
    `num_folded`, `num_failed`, `seconds/PHASE` and `bytes/WAY`.
    """
    number = int(record["number"])
    found: dict[str, Any] = {
        **record.get("metrics", {}),
        "num_folded": len(record.get("folded", ())),
        "num_failed": len(record.get("failed", ())),
        **{f"seconds/{phase}": value for phase, value in record.get("seconds_by_phase", {}).items()},
        **{f"bytes/{way}": value for way, value in record.get("bytes", {}).items()},
    }
    for site, metrics in record.get("by_site", {}).items():
        found |= {f"site/{site}/{name}": value for name, value in metrics.items()}
    return Record(run, "metrics", f"round/{number}", at_ms, metrics=numbers(found, number))


def of_reply(
    run: Run,
    at_ms: int,
    *,
    key: str,
    round_: int,
    phase: str,
    metrics: Mapping[str, Any],
    num_examples: int,
    seconds: float,
    config: Mapping[str, Any] | None = None,
) -> Record:
    """What a site measured in one phase, for its own run; and what it was told (`config`), as `config/NAME`.

    Texts among the metrics become parameters; lists of numbers are steps within the round. Metrics of `train` begin
    with `train_`, those of `evaluate` have their own name, others begin with their phase.
    """
    start = {"evaluate": "", "train": "train_"}.get(phase, f"{phase}_")
    named = {start + name: value for name, value in metrics.items()}
    examples = {f"{start or 'evaluate_'}num_examples": num_examples} if num_examples else {}
    told = {f"config/{name}": value for name, value in (config or {}).items() if name != "round"}
    found = {**named, **told, **examples, f"seconds/{phase}": seconds}
    texts = {name: value for name, value in named.items() if isinstance(value, str)}
    return Record(run, "metrics", key, at_ms, plain_params(texts), numbers(found, round_))


def of_tracked(run: Run, at_ms: int, *, key: str, round_: int, tracked: Iterable[Tracked]) -> Record:
    """What a site's code said during one task with `site.track`, for its own run.

    A number said at a step comes with the number `round` at the same step, so that steps can be told by round.
    """
    metrics: list[Metric] = []
    texts: dict[str, Plain] = {}
    for said in tracked:
        step = round_ if said.step is None else said.step
        found = numbers({name: value for name, value in said.values.items() if not isinstance(value, str)}, step)
        if said.step is not None and found:
            metrics.append(Metric("round", float(round_), step))
        metrics += found
        texts |= {name: value for name, value in said.values.items() if isinstance(value, str)}
    return Record(run, "metrics", key, at_ms, plain_params(texts), tuple(dict.fromkeys(metrics)))


def numbers(values: Mapping[str, Any], step: int) -> tuple[Metric, ...]:
    """What among `values` is a number, at `step`; a list of n numbers at the n steps before the end of that round."""
    found: list[Metric] = []
    for name, value in values.items():
        if isinstance(value, list):
            items = [number for number in map(_number, value) if number is not None][:MAX_VALUES]
            found += [Metric(name, number, (step - 1) * len(items) + at + 1) for at, number in enumerate(items)]
        elif (number := _number(value)) is not None:
            found.append(Metric(name, number, step))
    return tuple(found)


def plain_params(params: Mapping[str, Any]) -> dict[str, Plain]:
    """Texts, cut to what every backend takes, and numbers."""
    return {
        str(name): value[:MAX_TEXT] if isinstance(value, str) else value
        for name, value in params.items()
        if isinstance(value, str | int | float | bool) and not (isinstance(value, float) and not math.isfinite(value))
    }


def check_params(params: Mapping[Any, Any], where: str) -> dict[str, Plain]:
    """What a person gave as parameters of their own.

    Raises:
        ConfigError: a name or a value that no backend takes.
    """
    for name, value in params.items():
        if not isinstance(name, str) or not isinstance(value, str | int | float | bool):
            raise ConfigError(f"{where}: expected names with texts or numbers, found {type(value).__name__}")
    return plain_params(params)


def joined(records: Iterable[Record]) -> list[tuple[Run, list[Record]]]:
    """Records by run, in order."""
    found: dict[Run, list[Record]] = {}
    for record in records:
        found.setdefault(record.run, []).append(record)
    return list(found.items())


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _number(value: Any) -> float | None:
    if isinstance(value, str) and value in ("nan", "inf", "-inf"):
        return float(value)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
