"""What can happen to a run (events), and what a run wants done (instructions).

Events carry the time; nothing here or in the machine reads a clock. Every instruction may be performed twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from hanse.core.ids import TaskId

BlobKey = tuple[str, str]
"""(scope, id) of a stored blob."""


# ---- events ----


@dataclass(frozen=True, slots=True)
class Started:
    """The run may begin as soon as enough sites are there."""

    now_ms: int


@dataclass(frozen=True, slots=True)
class SitesChanged:
    """The sites that hold a lease and accepted the job.

    Args:
        sites: a tuple in any order, or another sequence in order of name that knows its members (simulation).
        undecided: how many were asked and have not answered yet.
        unwilling: (site, what it said) of those that hold or refuse it: `hold` or `refuse`, or either with a reason.
        enrolled: how many sites there are that may be asked at all; 0 for unknown.
    """

    sites: Sequence[str]
    now_ms: int
    undecided: int = 0
    unwilling: tuple[tuple[str, str], ...] = ()
    enrolled: int = 0


class PlannedTask(NamedTuple):
    """One task that the strategy wants."""

    site: str
    call: str
    group: int = 0


@dataclass(frozen=True, slots=True)
class Planned:
    """A phase has been planned.

    Args:
        num_phases: phases of this round.
        folds: whether its updates are reduced into the model.
        order: `position` or `receipt`, see `Strategy.order`.
        late: `drop` or `carry`, see `Strategy.late`.
        count, quorum: wanted number of replies, and the least.
        refill, by_group: see `Close`.
        extends: the tasks come on top of those that are open.
    """

    round: int
    phase_index: int
    num_phases: int
    phase: str
    tasks: tuple[PlannedTask, ...]
    count: int
    quorum: int
    grace_s: float
    deadline_s: float
    now_ms: int
    keep_in_flight: bool = False
    folds: bool = True
    order: str = "position"
    late: str = "drop"
    extends: bool = False
    refill: int = 0
    by_group: bool = False


@dataclass(frozen=True, slots=True)
class PlanFailed:
    """The strategy could not plan; with other sites it may. `final`: it never will."""

    round: int
    phase_index: int
    reason: str
    now_ms: int
    final: bool = False


Answer = tuple[int, str, int]
"""A reply whose row exists: ordinal, the reason of failure ("" for success), and receipt, which orders replies."""


@dataclass(frozen=True, slots=True)
class Replied:
    """Replies that were received since the last event; all are noted before anything is decided."""

    replies: tuple[Answer, ...]
    now_ms: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that was set."""

    id: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class Reduced:
    """The closed phase has been reduced: the new model and strategy state exist as blobs.

    Args:
        memory: what the strategy will be told when it plans and reduces next, plain JSON.
    """

    round: int
    phase_index: int
    model: BlobKey | None
    state: tuple[BlobKey, ...]
    metrics: Mapping[str, float]
    now_ms: int
    memory: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReduceRefused:
    """Replies that failed verification while they were read, by ordinal."""

    round: int
    phase_index: int
    reasons: Mapping[int, str]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The server's own evaluation of the round's model."""

    round: int
    metrics: Mapping[str, float]
    now_ms: int


@dataclass(frozen=True, slots=True)
class Failed:
    """Something that the run cannot do without has failed for good: the server's user code, the disk."""

    reason: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A person wants it to end."""

    by: str
    now_ms: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """A shell has loaded the record.

    Args:
        replies: every row that exists.
        sites: sites expected to be there; their leases start afresh.
    """

    replies: tuple[Answer, ...]
    sites: Sequence[str]
    now_ms: int


Event = (
    Started
    | SitesChanged
    | Planned
    | PlanFailed
    | Replied
    | TimerFired
    | Reduced
    | ReduceRefused
    | Evaluated
    | Failed
    | Cancelled
    | Resumed
)


# ---- instructions ----


@dataclass(frozen=True, slots=True)
class Plan:
    """Ask the strategy for phase `phase_index` of `round`; answer `Planned` or `PlanFailed`.

    Args:
        only: when a phase is extended: exactly these sites are asked in addition.
        previous: folded ordinals of the phase before, in order.
        refills: sites have answered and more are to be set to work, while the phase stays as it is.
        asked: sites that were asked in this phase of this round before, where it is extended or refilled.
    """

    round: int
    phase_index: int
    sites: Sequence[str]
    busy: tuple[str, ...]
    only: tuple[str, ...] = ()
    previous: tuple[int, ...] = ()
    refills: bool = False
    asked: tuple[str, ...] = ()

    @property
    def extends(self) -> bool:
        """Whether what is planned comes on top of what is open."""
        return self.refills or bool(self.only)


class Send(NamedTuple):
    """Put a task into its site's inbox. The shell has what to ask from the plan, or plans again."""

    task: TaskId
    site: str
    position: int
    attempt: int
    call: str
    deadline_ms: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Answer `TimerFired(id)` at `at_ms` or later."""

    id: str
    at_ms: int


class Folded(NamedTuple):
    """One member of a close: its task, site and place.

    Args:
        staleness: rounds since it was asked.
        seconds: from the asking to the receipt, by the server's clock.
        group: as it was asked.
    """

    task: TaskId
    site: str
    position: int
    staleness: int
    seconds: float = 0.0
    group: int = 0


@dataclass(frozen=True, slots=True)
class Reduce:
    """Reduce the folded replies; answer `Reduced` or `ReduceRefused`.

    Args:
        kind: `fold` (into the model), `adopt` (one reply's arrays are the model) or `metrics` (no arrays).
        size: places in the plan, so that holes are where they belong.
    """

    round: int
    phase_index: int
    phase: str
    kind: str
    folded: tuple[Folded, ...]
    size: int
    model: BlobKey | None
    state: tuple[BlobKey, ...]


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Evaluate the model at the server; answer `Evaluated`."""

    round: int
    model: BlobKey


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The round is over: keep its record. Updates of rounds up to this one may go.

    Args:
        fates: every reply that was settled since the last checkpoint: ordinal → (site, fate and reason).
    """

    round: int
    model: BlobKey | None
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    fates: Mapping[int, tuple[str, str]]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release:
    """These tasks need no answer any more; a site may stop working on them."""

    tasks: tuple[tuple[TaskId, str], ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """The run is over."""

    status: str
    error: str


Instruction = Plan | Send | SetTimer | Reduce | Evaluate | Checkpoint | Release | Finish
