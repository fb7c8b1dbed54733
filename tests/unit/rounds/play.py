"""A run's events, written as a test would tell them: the plan is made by the test, time is a number."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from hanse.core.spec import RunSpec
from hanse.rounds import machine, run_state
from hanse.rounds.events import (
    BlobKey,
    Event,
    Instruction,
    Plan,
    PlanFailed,
    Planned,
    PlannedTask,
    Reduce,
    Reduced,
    ReduceRefused,
    Replied,
    Resumed,
    Send,
    SitesChanged,
    Started,
    TimerFired,
)
from hanse.rounds.run_state import RunState

T = TypeVar("T")
MODEL = ("j/c/0/model", "m0")
ABC = ("a", "b", "c")


def given(**options: Any) -> RunSpec:
    """A specification whose model comes with the job."""
    return RunSpec(**{"initial": "given", "evaluate_every": 0, "rounds": 2, "deadline_s": 10.0, **options})


@dataclass
class Play:
    """A run, and what it instructed last."""

    spec: RunSpec
    now: int = 1000
    receipt: int = 0
    instructions: list[Instruction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state: RunState = machine.begin("j", "c", self.spec, MODEL if self.spec.initial == "given" else None)

    def __call__(self, event: Event) -> list[Instruction]:
        self.state, self.instructions = machine.step(self.state, event)
        return self.instructions

    def of(self, kind: type[T]) -> list[T]:
        """The last instructions of a kind."""
        return [instruction for instruction in self.instructions if isinstance(instruction, kind)]

    def one(self, kind: type[T]) -> T:
        """The only one of a kind."""
        (found,) = self.of(kind)
        return found

    # ---- events ----

    def start(self, *sites: str) -> Plan:
        self(Started(self.now))
        self.sites(*sites)
        return self.one(Plan)

    def sites(self, *sites: str, undecided: int = 0) -> list[Instruction]:
        return self(SitesChanged(sites, self.now, undecided))

    def plan(self, *sites: str, count: int | None = None, quorum: int | None = None, **options: Any) -> list[Send]:
        """Answer the last Plan: these sites, all wanted unless said otherwise."""
        wanted = len(sites) if count is None else count
        values: dict[str, Any] = {
            "round": self.state.round,
            "phase_index": self.state.phase_index,
            "num_phases": 1,
            "phase": "train",
            "tasks": tuple(PlannedTask(site, "train") for site in sites),
            "count": wanted,
            "quorum": wanted if quorum is None else quorum,
            "grace_s": self.spec.grace_s,
            "deadline_s": self.spec.deadline_s,
            "now_ms": self.now,
            "extends": bool(self.state.only),
            **options,
        }
        self(Planned(**values))
        return self.of(Send)

    def reply(self, *ordinals: int) -> list[Instruction]:
        for ordinal in ordinals:
            self.receipt += 1
            self(Replied(((ordinal, "", self.receipt),), self.now))
        return self.instructions

    def fail(self, ordinal: int, reason: str = "raised: ValueError") -> list[Instruction]:
        self.receipt += 1
        return self(Replied(((ordinal, reason, self.receipt),), self.now))

    def fire(self, id: str, at: int | None = None) -> list[Instruction]:
        self.now = self.now if at is None else at
        return self(TimerFired(id, self.now))

    def reduced(self, model: BlobKey | None = None, **metrics: float) -> list[Instruction]:
        key = model or (f"j/c/{self.state.round}/model", f"m{self.state.round}")
        return self(Reduced(self.state.round, self.state.phase_index, key, (), metrics, self.now))

    def refuse(self, **reasons: str) -> list[Instruction]:
        found = {int(ordinal.removeprefix("t")): reason for ordinal, reason in reasons.items()}
        return self(ReduceRefused(self.state.round, self.state.phase_index, found, self.now))

    def restart(self, *sites: str, rows: tuple[tuple[int, str, int], ...] = ()) -> list[Instruction]:
        """Written, read by another driver, resumed."""
        self.state = run_state.decode(run_state.encode(self.state))
        return self(Resumed(rows, sites, self.now))

    def folded(self) -> list[tuple[int, int]]:
        """(ordinal, position) of the last Reduce."""
        return [(member.task.ordinal, member.position) for member in self.one(Reduce).folded]


def opened(*sites: str, **options: Any) -> Play:
    """A run with one phase open, asked of `sites`."""
    close = {
        name: options.pop(name) for name in ("count", "quorum", "keep_in_flight", "order", "late") if name in options
    }
    play = Play(given(**options))
    play.start(*sites)
    play.plan(*sites, **close)
    return play


def at(stage: str) -> Play:
    """A run of one site that has come so far."""
    play = Play(given(server_evaluate=True, quorum=1))
    if stage == "waiting":
        play(Started(1000))
        return play
    play.start("a")
    if stage == "starved":
        play(PlanFailed(1, 0, "too few", 1500))
        return play
    play.plan("a")
    if stage in ("reducing", "evaluating"):
        play.reply(0)
    if stage == "evaluating":
        play.reduced()
    assert play.state.stage == stage
    return play


def fedbuff(rounds: int = 3) -> Play:
    """Three sites asked, the first two to answer are folded; a fourth is there."""
    play = Play(given(rounds=rounds))
    play.start("a", "b", "c", "d")
    play.plan("a", "b", "c", count=2, quorum=2, keep_in_flight=True, order="receipt")
    return play
