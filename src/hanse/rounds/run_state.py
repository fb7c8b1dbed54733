"""Where a run stands, and how that is written down: the run record's own content.

The machine (`rounds.machine`) changes a state, shells write it with `encode` and read it with `decode`. Answers are not
in it: they are rows of the ledger, and are told to the machine again when a shell loads a record.
"""

import dataclasses
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hanse.core.errors import CodecError, ConfigError
from hanse.core.ids import TaskId
from hanse.core.quickly import maker
from hanse.core.spec import RunSpec
from hanse.rounds.events import BlobKey

STATE_VERSION = 1
OVER = ("finished", "failed", "cancelled")
_task_id = maker(TaskId)


@dataclass(slots=True)
class Slot:
    """One issued task.

    Args:
        folds: whether its update is to be reduced into the model.
        answer: "" while there is none, `ok`, or `failed`.
        receipt: what orders answers by their receipt, in microseconds of the server's clock or a little after.
        asked_ms: when it was issued.
        group: which of the groups that close apart it belongs to, see `Close.by_group`.
        id: its task id, once somebody has asked for it.
        is_awaited: whether its phase waits for it: it has no answer, and its site is there. Volatile.
    """

    site: str
    position: int
    round: int
    phase: str
    attempt: int
    call: str
    model: BlobKey | None
    folds: bool = True
    answer: str = ""
    receipt: int = 0
    asked_ms: int = 0
    group: int = 0
    id: TaskId | None = None
    is_awaited: bool = False


@dataclass(slots=True)
class RunState:
    """Where a run stands. Fields below the line are volatile: they are rebuilt when a shell loads the record."""

    job: str
    component: str
    spec: RunSpec
    status: str = "waiting"
    error: str = ""
    round: int = 0
    phase_index: int = 0
    num_phases: int = 1
    phase: str = ""
    stage: str = "waiting"
    next_ordinal: int = 0
    size: int = 0
    count: int = 0
    quorum: int = 0
    grace_s: float = 0.0
    keep_in_flight: bool = False
    refill: int = 0
    by_group: bool = False
    folds: bool = True
    order: str = "position"
    late_rule: str = "drop"
    deadline_ms: int = 0
    starved_until_ms: int = 0
    grace_ms: int | None = None
    opened_ms: int = 0
    extensions: int = 0
    only: tuple[str, ...] = ()
    refilling: bool = False
    open: dict[int, Slot] = field(default_factory=dict)
    closing: dict[int, Slot] = field(default_factory=dict)
    carried: dict[int, Slot] = field(default_factory=dict)
    released: dict[int, Slot] = field(default_factory=dict)
    previous: tuple[int, ...] = ()
    model: BlobKey | None = None
    state: tuple[BlobKey, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    fates: dict[int, tuple[str, str]] = field(default_factory=dict)
    best: float | None = None
    rounds_without_best: int = 0
    memory: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 0
    # ---- volatile ----
    sites: Sequence[str] = ()
    undecided: int = 0
    unwilling: tuple[tuple[str, str], ...] = ()
    enrolled: int = 0
    available: Container[str] = frozenset()
    num_ok: int = 0
    num_awaited: int = 0

    def task_id(self, ordinal: int, slot: Slot) -> TaskId:
        """The task id of a slot."""
        if slot.id is None:
            slot.id = _task_id(self.job, self.component, slot.round, slot.phase, ordinal)
        return slot.id

    @property
    def over(self) -> bool:
        """Whether nothing will happen any more."""
        return self.status in OVER


_PLAIN = (
    "job", "component", "status", "error", "round", "phase_index", "num_phases", "phase", "stage", "next_ordinal",
    "size", "count", "quorum", "grace_s", "keep_in_flight", "folds", "order", "late_rule", "deadline_ms",
    "starved_until_ms", "grace_ms", "opened_ms", "refill", "by_group", "refilling", "memory",
    "extensions", "metrics", "seconds", "failed", "best", "rounds_without_best", "revision",
)  # fmt: skip
_SLOTS = ("open", "closing", "carried", "released")


def encode(state: RunState) -> dict[str, Any]:
    """The state as a JSON object: what must survive. Answers are not in it, they are ledger rows."""
    models: dict[BlobKey, int] = {}
    value: dict[str, Any] = {"v": STATE_VERSION, **{name: getattr(state, name) for name in _PLAIN}}
    value["spec"] = _spec_json(state.spec)
    value["only"], value["previous"] = list(state.only), list(state.previous)
    for name in _SLOTS:
        value[name] = [
            [
                o,
                s.site,
                s.position,
                s.round,
                s.phase,
                s.attempt,
                s.call,
                _index(models, s.model),
                s.folds,
                s.receipt,
                s.asked_ms,
                s.group,
            ]
            for o, s in getattr(state, name).items()
        ]
    value["model"] = _index(models, state.model)
    value["state"] = [_index(models, key) for key in state.state]
    value["fates"] = [[o, site, fate] for o, (site, fate) in state.fates.items()]
    value["models"] = [list(key) for key in models]
    return value


def decode(value: Mapping[str, Any]) -> RunState:
    """Read what `encode` wrote.

    Raises:
        CodecError: another major version, or a record that is not a run's.
    """
    value = migrate(value)
    try:
        models: list[BlobKey] = [(scope, blob) for scope, blob in value["models"]]
        state = RunState(value["job"], value["component"], RunSpec.from_json(value["spec"]))
        for name in _PLAIN:
            setattr(state, name, value[name])
        state.only, state.previous = tuple(value["only"]), tuple(value["previous"])
        for name in _SLOTS:
            slots = getattr(state, name)
            for ordinal, site, position, round_, phase, attempt, call, model, folds, receipt, *rest in value[name]:
                key = None if model is None else models[model]
                slots[ordinal] = Slot(site, position, round_, phase, attempt, call, key, folds, "", receipt, *rest)
        for slot in (*state.closing.values(), *state.carried.values()):
            slot.answer = "ok"
        state.model = None if value["model"] is None else models[value["model"]]
        state.state = tuple(models[index] for index in value["state"])
        state.fates = {ordinal: (site, fate) for ordinal, site, fate in value["fates"]}
    except (KeyError, TypeError, ValueError, IndexError, ConfigError) as error:
        raise CodecError(f"run record: cannot be read: {type(error).__name__}: {error}") from None
    return state


def _spec_json(spec: RunSpec) -> dict[str, Any]:
    """`RunSpec.to_json` without its deep copies: nothing in a specification ever changes."""
    value = {name: getattr(spec, name) for name in _SPEC_FIELDS}
    value["stop"] = None if spec.stop is None else dataclasses.asdict(spec.stop)
    return value


_SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(RunSpec))


def migrate(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Bring an older record to this version; refuse an unknown one.

    Raises:
        CodecError: an unknown version.
    """
    if value.get("v") != STATE_VERSION:
        raise CodecError(
            f"run record: expected version {STATE_VERSION}, found {value.get('v')!r}; update this software"
        )
    return {**_ADDED, **value}


_ADDED: Mapping[str, Any] = {"refill": 0, "by_group": False, "refilling": False, "memory": {}, "grace_ms": None}
"""Fields that records of version 1 did not have at first; their slots ended with `receipt`."""


def _index(models: dict[BlobKey, int], key: BlobKey | None) -> int | None:
    return None if key is None else models.setdefault(key, len(models))


def copy(state: RunState) -> RunState:
    """An independent copy, volatile fields included; for tests that branch."""
    clone = dataclasses.replace(state)
    for name in _SLOTS:
        setattr(clone, name, {o: dataclasses.replace(s) for o, s in getattr(state, name).items()})
    for name in ("metrics", "seconds", "failed", "fates"):
        setattr(clone, name, dict(getattr(state, name)))
    return clone
