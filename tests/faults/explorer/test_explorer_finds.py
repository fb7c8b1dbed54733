"""The explorer can fail: faults put into the machine or the driver on purpose are each found within few schedules.

How many from the first one is told in `FOUND_BY`, where it is more than a handful: the search begins there.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog

from hanse.core.errors import ConflictError, StorageError
from hanse.core.records import Reply
from hanse.rounds.driver.cleaning import Cleaning
from hanse.rounds.driver.clock import Alarms
from hanse.rounds.driver.receiving import Receiving
from hanse.rounds.driver.run import Run
from hanse.rounds.driver.standing import Standing
from hanse.rounds.driver.writing import Writing
from hanse.rounds.events import Instruction, Reduce, ReduceRefused
from hanse.rounds.machine import answers, closing, handling, instructing
from hanse.rounds.run_state import RunState, Slot
from tests.faults.explorer.case import draw
from tests.faults.explorer.shell import Order
from tests.faults.explorer.world import Violation, explore, undisturbed_of

WITHIN = 1500
FOUND_BY = {
    "stand_on_what_was_refused": 337,
    "overtake_what_was_put_off": 6463,  # a full disk, and a kill in the two seconds after it
    "forget_late_replies": 64,
    "regroup_on_holes": 49,
    "take_over_without_a_mark": 44,
    "set_no_timer": 135,
    "clean_too_early": 1148,
}
"""The first schedule that finds it. Whoever changes what schedules are made of may find it to be another."""
Mutation = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(processors=[_drop])
    undisturbed_of.cache_clear()
    yield
    undisturbed_of.cache_clear()
    structlog.configure(**before)


def _drop(*_: object) -> structlog.typing.EventDict:
    raise structlog.DropEvent


def send_before_writing(patch: pytest.MonkeyPatch) -> None:
    """The run record is never written again after it was created."""

    async def write(self: Writing) -> None:
        self._written = self.driving.standing.state.revision

    patch.setattr(Writing, "write", write)


def close_twice(patch: pytest.MonkeyPatch) -> None:
    """What is folded stays open, so that the next phase may fold it again."""
    real = closing.close

    def close(state: RunState) -> list[Instruction]:
        instructions = real(state)
        state.open = {**{o: dataclasses.replace(slot) for o, slot in state.closing.items()}, **state.open}
        return instructions

    patch.setattr(closing, "close", close)


def forget_late_replies(patch: pytest.MonkeyPatch) -> None:
    def note_late(state: RunState, ordinal: int, slot: Slot, reason: str, receipt: int) -> None:
        """Nothing is noted."""

    patch.setattr(answers, "_note_late", note_late)


def regroup_on_holes(patch: pytest.MonkeyPatch) -> None:
    """Those who answered are numbered anew instead of leaving holes."""
    real = instructing.reduce_instruction

    def reduce_instruction(state: RunState) -> Reduce:
        reduce = real(state)
        folded = tuple(member._replace(position=n) for n, member in enumerate(reduce.folded))
        return dataclasses.replace(reduce, folded=folded)

    patch.setattr(instructing, "reduce_instruction", reduce_instruction)


def forget_refused_replies(patch: pytest.MonkeyPatch) -> None:
    real = handling._reduce_refused

    def reduce_refused(state: RunState, event: Any) -> list[Instruction]:
        before = dict(state.fates)
        instructions = real(state, event)
        if not state.over:
            state.fates = before
        return instructions

    patch.setattr(handling, "_HANDLERS", {**handling._HANDLERS, ReduceRefused: reduce_refused})


def acknowledge_without_a_row(patch: pytest.MonkeyPatch) -> None:
    real = Receiving._take

    async def take(self: Receiving, reply: Reply, packed: bytes | None) -> tuple[str, str]:
        try:
            return await real(self, reply, packed)
        except StorageError:
            return "received", ""

    patch.setattr(Receiving, "_take", take)


def take_over_without_a_mark(patch: pytest.MonkeyPatch) -> None:
    """Resuming does not write first, and nobody looks whose the record is."""
    real_init = Run.__init__

    def init(self: Run, *args: Any, **kwargs: Any) -> None:
        real_init(self, *args, **kwargs)
        self.writing.mark = b'{"driver":"any"'
        real_write = self.writing.write

        async def write() -> None:
            if self.turns.ready.is_set():
                await real_write()

        patch.setattr(self.writing, "write", write)

    patch.setattr(Run, "__init__", init)


def forget_replies_on_resuming(patch: pytest.MonkeyPatch) -> None:
    async def load(self: Receiving) -> tuple[tuple[int, str, int], ...]:
        return ()

    patch.setattr(Receiving, "load", load)


def set_no_timer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Alarms, "set", lambda self, id, at_ms: None)


def read_no_ambiguous_write(patch: pytest.MonkeyPatch) -> None:
    """A write that was done, and then failed, is taken for another driver's."""

    async def write_once(self: Writing, content: bytes) -> None:
        driving = self.driving
        if not await driving.seams.ledger.compare_and_set(driving.keeping.run_key, content, self.version):
            raise ConflictError("another server has taken over")

    patch.setattr(Writing, "_write_once", write_once)


def keep_only_the_last_record(patch: pytest.MonkeyPatch) -> None:
    """Of two rounds that end in one turn only the last is in the record that is written."""
    real = Standing.encode

    def encode(self: Standing, mark: bytes) -> bytes:
        self.unkept = []
        return real(self, mark)

    patch.setattr(Standing, "encode", encode)


def clean_too_early(patch: pytest.MonkeyPatch) -> None:
    """A round's rows go whether or not all of its replies have their fate."""
    real = Cleaning.round_kept

    def round_kept(self: Cleaning, number: int) -> None:
        left = self._driving.standing.left
        kept, left.unsettled = left.unsettled, {}
        real(self, number)
        left.unsettled = kept

    patch.setattr(Cleaning, "round_kept", round_kept)


def stand_on_what_was_refused(patch: pytest.MonkeyPatch) -> None:
    """A place that promises order lets the run record through although a row before it has failed."""
    real = Order.begin

    def begin(self: Order, work: Any, *, fenced: bool) -> Any:
        del fenced
        return real(self, work, fenced=False)

    patch.setattr(Order, "begin", begin)


def overtake_what_was_put_off(patch: pytest.MonkeyPatch) -> None:
    """The run record is written while what it stands on waits for its next try."""
    real = Writing._write_once

    async def write_once(self: Writing, content: bytes) -> None:
        patience = self.driving.patience
        put_off, patience.put_off = patience.put_off, 0
        try:
            await real(self, content)
        finally:
            patience.put_off += put_off

    patch.setattr(Writing, "_write_once", write_once)


def keep_no_round(patch: pytest.MonkeyPatch) -> None:
    """A round's record is in the run record only."""
    patch.setattr(Writing, "round", lambda self, content: None)


MUTATIONS: list[Mutation] = [
    stand_on_what_was_refused,
    overtake_what_was_put_off,
    keep_no_round,
    send_before_writing,
    close_twice,
    forget_late_replies,
    regroup_on_holes,
    forget_refused_replies,
    acknowledge_without_a_row,
    take_over_without_a_mark,
    forget_replies_on_resuming,
    set_no_timer,
    read_no_ambiguous_write,
    keep_only_the_last_record,
    clean_too_early,
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_the_explorer_finds(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    start = FOUND_BY.get(mutation.__name__, 0)
    for seed in range(start, start + WITHIN):
        try:
            explore(draw(seed))
        except Violation as violation:
            print(f"found by schedule {seed}: {violation}")
            return
    pytest.fail(f"{mutation.__name__}: not found in {WITHIN} schedules")
