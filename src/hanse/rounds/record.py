"""`RoundRecord`: what one round was, and how metrics of sites become metrics of a round.

Names of metrics say where they were measured:

    loss, accuracy, …        by the sites' `evaluate`, on their own held-out rows, mean weighted by num_examples
    train_loss, …            the same from the phase `train`; from any other phase NAME: NAME_loss
    server_loss, …           by `@app.evaluate_on_server`

so `EarlyStop("loss")` looks at what the sites evaluate. A record is kept as one row of JSON in the ledger.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeGuard

from hanse.core.errors import CodecError
from hanse.core.records import Metrics, Value
from hanse.rounds.site_rows import SiteRows

SERVER_PREFIX = "server_"
ROLE_PHASE = "role"
"""The one phase of a session in which sites play roles."""
GROUP_MEMBERS, GROUP_BYTES = "group_members", "group_bytes"
"""What a site that is a group says beside its members' metrics: how many members are in its answer, and the bytes of
models and updates that its members and their aggregator have exchanged for it. No means are made of them."""
SEVERAL = " | "
"""Between the numerics fingerprints of a group's members, where they differ."""
_OF_GROUPS = frozenset({GROUP_MEMBERS, GROUP_BYTES})
_PREFIXES = {"evaluate": "", "train": "train_"}
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def metric_name(phase: str, name: str) -> str:
    """How a metric that sites measured in `phase` is called in a round's record."""
    return _PREFIXES.get(phase, f"{phase}_") + name


def server_metrics(metrics: Mapping[str, Value]) -> dict[str, float]:
    """The numbers of a server-side evaluation, as a round's record names them."""
    return {SERVER_PREFIX + name: float(value) for name, value in metrics.items() if _is_number(value)}


def site_metrics(phase: str, metrics: Metrics) -> dict[str, Value]:
    """What one site measured in `phase`, as `RoundRecord.by_site` holds it; bytes are left out."""
    return {metric_name(phase, name): value for name, value in metrics.items() if _is_plain(value)}


def mean_metrics(phase: str, answers: Iterable[tuple[int, Metrics]]) -> dict[str, float]:
    """The mean over sites of every metric that is a number, weighted by num_examples.

    A NaN says that the metric is not defined at that site (AUC with one class only): the site is left out of that
    mean. An infinity counts. Sums are exactly rounded (`math.fsum`), so the order of sites changes no bit.

    Args:
        answers: (num_examples, metrics) of each folded reply. Where no site counted an example, all weigh the same.

    Returns:
        Names as in a round's record; NaN where no site could say.
    """
    values: dict[str, list[tuple[int, float]]] = {}
    for count, metrics in answers:
        for name, value in metrics.items():
            if _is_number(value) and name not in _OF_GROUPS:
                values.setdefault(metric_name(phase, name), []).append((count, float(value)))
    return {name: _weighted_mean(values[name]) for name in sorted(values)}


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round, as it was.

    Args:
        number: counts from 1.
        folded: sites whose updates are in this round's model, in order of position.
        late: sites whose reply came after the close.
        failed: site → reason, for sites that failed, were lost or whose update was refused.
        metrics: means over sites and the server's own; names as above.
        by_site: site → metric → value.
        seconds_by_phase: seconds by phase, `train`, `evaluate`, …, as the server's clock saw them.
        bytes: bytes moved: `down` to the sites and `up` from them; where updates are compressed, `saved` says by how
            much more `up` would have been.
        model: blob id of the model after this round.
        time_s: virtual seconds from the beginning of the run to the end of the round; 0 where time is not simulated.
    """

    number: int
    folded: tuple[str, ...] = ()
    late: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    by_site: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)
    seconds_by_phase: Mapping[str, float] = field(default_factory=dict)
    bytes: Mapping[str, int] = field(default_factory=dict)
    model: str = ""
    time_s: float = 0.0

    def __repr__(self) -> str:
        """One line, whatever the number of sites."""
        counts = f"{len(self.folded)} folded, {len(self.late)} late, {len(self.failed)} failed"
        return f"RoundRecord({self.number}, {counts}, metrics={shown(self.metrics)})"

    @property
    def moved_bytes(self) -> int:
        """Bytes moved in both directions."""
        return self.bytes.get("down", 0) + self.bytes.get("up", 0)

    @property
    def group_bytes(self) -> int:
        """Bytes moved within groups, where sites are groups: these went between members and their aggregators."""
        said = [values.get(metric_name("train", GROUP_BYTES), 0) for values in self.by_site.values()]
        return sum(int(value) for value in said if _is_number(value) and 0 <= value < 2**63)

    @property
    def seconds(self) -> float:
        """Seconds of all phases together."""
        return math.fsum(self.seconds_by_phase.values())

    def to_json(self) -> dict[str, Any]:
        """As a JSON object without NaN: numbers that are not finite become the words nan, inf and -inf."""
        return {spec.name: to_plain(getattr(self, spec.name)) for spec in fields(self)}

    @classmethod
    def from_json(cls, value: Any) -> "RoundRecord":
        """Read what `to_json` wrote. Unknown fields, of a later version, are ignored.

        Raises:
            CodecError: a field is missing or of another kind, by name.
        """
        if not isinstance(value, dict) or type(value.get("number")) is not int:
            raise CodecError("round record: expected an object with a whole number under 'number'")
        found: dict[str, Any] = {"number": value["number"]}
        for name, read in _READERS.items():
            if name in value:
                try:
                    found[name] = read(value[name])
                except (TypeError, ValueError, AttributeError, OverflowError):
                    raise CodecError(f"round record: {name!r} has an unexpected content") from None
        return cls(**found)


def shown(metrics: Mapping[str, float]) -> str:
    """Metrics in a line for people: four digits each."""
    return "{" + ", ".join(f"{name}: {value:.4g}" for name, value in metrics.items()) + "}"


def role_record(sites: Mapping[str, str], metrics: Mapping[str, Metrics], seconds: float) -> RoundRecord:
    """A session of roles that has ended well, as one round: metrics by site, and all together as `ROLE_NAME`.

    Args:
        sites: the site of each role.
        metrics: what each role has answered.
    """
    together = {
        f"{role}_{name}": float(value)
        for role, values in sorted(metrics.items())
        for name, value in values.items()
        if _is_number(value)
    }
    by_site = {
        sites[role]: {name: value for name, value in values.items() if _is_plain(value)}
        for role, values in metrics.items()
    }
    folded = tuple(sorted(sites.values()))
    return RoundRecord(1, folded=folded, metrics=together, by_site=by_site, seconds_by_phase={ROLE_PHASE: seconds})


def fate_of(record: RoundRecord, site: str) -> tuple[str, str]:
    """What became of a site's reply in a round, and the reason: folded, failed, late, or only asked."""
    if site in record.folded:
        return "folded", record.failed.get(site, "")
    if site in record.failed:
        return "failed", record.failed[site]
    return ("late" if site in record.late else "asked"), ""


def _weighted_mean(pairs: list[tuple[int, float]]) -> float:
    defined = [(count, value) for count, value in pairs if not math.isnan(value)]
    if not any(count for count, _ in defined):
        defined = [(1, value) for _, value in defined]
    total = math.fsum(count for count, _ in defined)
    if not total:
        return math.nan
    terms = [count * value for count, value in defined if count]
    try:
        return math.fsum(terms) / total
    except (OverflowError, ValueError):  # beyond float64, or infinities of both signs
        return sum(terms) / total


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) is float or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_plain(value: Value) -> bool:
    if type(value) in _NUMBERS:
        return True
    return not any(isinstance(item, bytes) for item in (value if isinstance(value, list) else [value]))


_NUMBERS = frozenset({float, int, bool})
_JSON_AS_IT_IS = frozenset({str, int, bool, type(None)})


def to_plain(value: Any) -> Any:
    """As JSON; tuples become lists."""
    if type(value) in _JSON_AS_IT_IS:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, SiteRows) and value.is_plain:
        return dict(value.items())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def read_number(value: Any) -> float:
    if isinstance(value, str):
        return _NON_FINITE[value] if value in _NON_FINITE else _refuse()
    return float(value) if _is_number(value) else _refuse()


def _metric(value: Any) -> Value:
    if isinstance(value, list):
        return [_scalar(item) for item in value]
    return _scalar(value)


def _scalar(value: Any) -> bool | int | float | str:
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    return value if isinstance(value, bool | int | float) else _refuse()


def _refuse() -> Any:
    raise TypeError


def read_text(value: Any) -> str:
    return value if isinstance(value, str) else _refuse()


def read_texts(value: Any) -> tuple[str, ...]:
    return tuple(read_text(item) for item in value) if isinstance(value, list) else _refuse()


def read_text_map(value: Any) -> dict[str, str]:
    return {read_text(key): read_text(item) for key, item in value.items()}


def _numbers(value: Any) -> dict[str, float]:
    return {read_text(key): read_number(item) for key, item in value.items()}


def _counts(value: Any) -> dict[str, int]:
    return {key: item if type(item) is int else _refuse() for key, item in value.items()}


def _sites_metrics(value: Any) -> dict[str, dict[str, Value]]:
    return {site: {name: _metric(item) for name, item in metrics.items()} for site, metrics in value.items()}


_READERS = {
    "folded": read_texts,
    "late": read_texts,
    "failed": read_text_map,
    "metrics": _numbers,
    "by_site": _sites_metrics,
    "seconds_by_phase": _numbers,
    "bytes": _counts,
    "model": read_text,
    "time_s": read_number,
}
