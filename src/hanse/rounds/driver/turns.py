"""Turns: what the machine instructs is performed, one turn of events at a time.

In a turn the machine steps, quick pure work (planning, small reductions) is done on the spot and its answer stepped at
once, then the state is written with ONE compare-and-set, and only then anything that others can see is performed (tasks
are sent, the run ends). Whoever dies at any moment is replaced by another, who performs what is left.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hanse.core.errors import StorageError, UnavailableError
from hanse.rounds import machine
from hanse.rounds.driver.asking import Asking
from hanse.rounds.driver.cleaning import Cleaning
from hanse.rounds.driver.clock import Alarms
from hanse.rounds.driver.driving import Driving
from hanse.rounds.driver.receiving import Receiving
from hanse.rounds.driver.reducing import Reducing
from hanse.rounds.driver.writing import Writing
from hanse.rounds.events import (
    Checkpoint,
    Evaluate,
    Event,
    Finish,
    Instruction,
    Plan,
    Reduce,
    Release,
    Replied,
    Send,
    SetTimer,
    TimerFired,
)
from hanse.rounds.hosts.host import StrategyHost
from hanse.rounds.outgoing import RunInfo
from hanse.rounds.performing import record_of


@dataclass(slots=True)
class _Turn:
    """What one turn has gathered until its write."""

    outward: list[Instruction] = field(default_factory=list)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    finish: Finish | None = None


class Turns:
    """The turns of one driver, and the parts that perform them. None is taken before `ready` is set."""

    def __init__(self, driving: Driving, writing: Writing, host: StrategyHost, info: RunInfo) -> None:
        self.ready = asyncio.Event()
        self.queue: deque[Event] = deque()
        self.cleaning = Cleaning(driving)
        self.receiving = Receiving(driving, writing, self.cleaning, self._wake)
        self.asking = Asking(driving, host, info)
        self.reducing = Reducing(driving, host, self.post)
        self._driving = driving
        self._writing = writing
        self._alarms = Alarms(driving.clock, self._due, driving.life.finished.done)
        self._is_at_work = False

    async def post(self, event: Event) -> None:
        """Let something happen. Returns when the run has come to rest, or at once if it is at work already."""
        self.queue.append(event)
        await self.work()

    async def work(self) -> None:
        """Take turns until nothing is left to happen. What ends the driving is told by the driver's life."""
        if self._is_at_work or not self.ready.is_set():
            return
        self._is_at_work = True
        life = self._driving.life
        try:
            await life.guard(self._take_turns)
        except asyncio.CancelledError:
            life.stop(UnavailableError("the driver was interrupted in the middle of a turn"))
            raise
        finally:
            self._is_at_work = False

    async def _take_turns(self) -> None:
        while (self.queue or self.receiving.has_any) and self._driving.life.goes_on:
            await self._turn()

    def _wake(self) -> None:
        if not self._is_at_work:
            self._driving.life.spawn(self.work)

    def _due(self, timers: Sequence[str]) -> None:
        now_ms = self._driving.clock.now_ms()
        self.queue.extend(TimerFired(id, now_ms) for id in timers)
        self._driving.life.spawn(self.work)

    # ---- one turn ----

    async def _turn(self) -> None:
        standing = self._driving.standing
        turn = _Turn()
        await self._step_all(turn)
        kept = [self._record_of(checkpoint) for checkpoint in turn.checkpoints]
        standing.unkept = kept
        if self._writing.is_due:
            await self._writing.write()
        await self._perform_all(turn.outward)
        for content, checkpoint in zip(kept, turn.checkpoints, strict=True):
            self._writing.round(content)
            self._settle(content, checkpoint)
        standing.unkept = []
        if turn.finish is not None:
            await self._finish(turn.finish)

    async def _step_all(self, turn: _Turn) -> None:
        """Step, and step again with the answers of whatever can be done on the spot.

        Replies go first, whatever else there is: one that was acknowledged must not find the run over. Answers go
        before other events: one that comes while a phase is planned must find it planned, or starved.
        """
        standing = self._driving.standing
        answers: deque[Event] = deque()
        while event := self._next(answers):
            standing.state, instructions = machine.step(standing.state, event)
            for instruction in instructions:
                if isinstance(instruction, Plan):
                    answers.append(await self.asking.plan(instruction))
                elif isinstance(instruction, Checkpoint):
                    turn.checkpoints.append(instruction)
                elif isinstance(instruction, Reduce) and self.reducing.is_small(instruction):
                    answer = await self.reducing.reduce(instruction)
                    if answer is not None:
                        answers.append(answer)
                elif isinstance(instruction, Finish):
                    turn.finish = instruction
                else:
                    turn.outward.append(instruction)

    def _next(self, answers: deque[Event]) -> Event | None:
        if self.receiving.has_any:
            return Replied(self.receiving.drain(), self._driving.clock.now_ms())
        queue = answers or self.queue
        return queue.popleft() if queue else None

    async def _perform_all(self, instructions: Sequence[Instruction]) -> None:
        """Tasks go out side by side, so that a ledger can commit them together.

        Where sending does not wait, what a task sets in motion gets its turn at once: the first site works while the
        others' tasks are made, and all of them while the round that is over is put away.
        """
        sends = [] if self._driving.seams.private else [i for i in instructions if isinstance(i, Send)]
        if len(sends) > 1:
            await asyncio.gather(*(self._perform(instruction) for instruction in sends))
            instructions = [instruction for instruction in instructions if not isinstance(instruction, Send)]
        for instruction in instructions:
            await self._perform(instruction)
            if isinstance(instruction, Send):
                await asyncio.sleep(0)

    async def _perform(self, instruction: Instruction) -> None:
        """Do it; later, if the disk refuses now."""
        spawn = self._driving.life.spawn
        try:
            match instruction:
                case Send():
                    await self.asking.send(instruction)
                case SetTimer(id, at_ms):
                    self._alarms.set(id, at_ms)
                case Reduce():
                    spawn(lambda: self.reducing.reduce_and_post(instruction))
                case Evaluate():
                    spawn(lambda: self.reducing.evaluate(instruction))
                case Release(tasks):
                    await self.asking.release(tasks)
        except (StorageError, UnavailableError) as error:
            what = f"perform {type(instruction).__name__}"
            self._driving.patience.later(what, error, lambda: self._perform(instruction))

    # ---- the end of a round, and of the run ----

    def _record_of(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The round's record for people and the fates of its replies, as they are kept."""
        standing, replies = self._driving.standing, self._driving.standing.replies
        if not self._driving.alone:
            standing.traffic.recount(replies[ordinal] for ordinal in checkpoint.fates if ordinal in replies)
        with_update = {ordinal for ordinal, reply in replies.items() if reply.update is not None}
        record = record_of(checkpoint, replies, with_update, standing.traffic.take())
        fates = [[ordinal, site, fate] for ordinal, (site, fate) in checkpoint.fates.items()]
        return {**record.to_json(), "fates": fates}

    def _settle(self, content: dict[str, Any], checkpoint: Checkpoint) -> None:
        """After the write: let go of what is settled."""
        standing = self._driving.standing
        record = {name: value for name, value in content.items() if name != "fates"}
        self._driving.telling.tell("round", record=record)
        for ordinal in checkpoint.fates:
            standing.replies.pop(ordinal, None)
        standing.left.settled(checkpoint.fates)
        self.cleaning.round_kept(checkpoint.round)

    async def _finish(self, finish: Finish) -> None:
        taking, on_their_way = self.receiving.taking, self._writing.on_their_way
        while taking or on_their_way:
            await asyncio.wait([*taking.values(), *on_their_way.values()])
        await self.cleaning.finish()
        self._driving.telling.tell("finished", status=finish.status, error=finish.error)
        self._driving.life.finish(finish.status)
