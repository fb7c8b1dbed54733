"""A seeded scheduler: runs all roles in one thread, chooses what happens next by a seed, and has a clock of its own.

At every step one of these happens, drawn at random: a role runs until it next sends or waits; a frame on its way
arrives, in any order; a frame arrives twice. When nothing can happen, the clock moves to the earliest deadline. One
seed is one interleaving, so a failure repeats; many seeds are a search, not a proof. Role programs may await nothing
but their party.
"""

import random
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hanse.channels.frames import CheckHead, Frame
from hanse.channels.party import TIMEOUT_S, Party, run_role
from hanse.channels.protocol import Protocol


@dataclass(slots=True)
class _Wait:
    """What a role yields to the scheduler: nothing but a turn (`until` is None), or a wait for a frame."""

    until: float | None = None

    def __await__(self) -> Generator["_Wait", Frame | None, Frame | None]:
        return (yield self)


@dataclass(slots=True)
class _World:
    now: float = 0.0
    flying: list[Frame] = field(default_factory=list)


class ScheduledChannel:
    """One role's end; see `Channel`."""

    def __init__(self, world: _World) -> None:
        self._world = world

    def expect(self, check: CheckHead) -> None:
        """See `Channel.expect`: frames come whole here, and `Party` checks them then."""

    async def send(self, frame: Frame, wait_s: float) -> bool:
        """See `Channel.send`. There is always room."""
        self._world.flying.append(frame)
        await _Wait()
        return True

    async def receive(self, wait_s: float) -> Frame | None:
        """See `Channel.receive`."""
        return await _Wait(self._world.now + wait_s)

    def now(self) -> float:
        """See `Channel.now`: seconds on the scheduler's own clock."""
        return self._world.now


@dataclass(slots=True)
class _Role:
    coroutine: Any
    wait: _Wait = field(default_factory=_Wait)
    mail: list[Frame] = field(default_factory=list)
    result: Any = None
    error: Exception | None = None
    done: bool = False

    def runnable(self, now: float) -> bool:
        return not self.done and (self.wait.until is None or bool(self.mail) or now >= self.wait.until)

    def advance(self) -> None:
        frame = self.mail.pop(0) if self.mail and self.wait.until is not None else None
        try:
            self.wait = self.coroutine.send(frame)
        except StopIteration as stop:
            self.result, self.done = stop.value, True
        except Exception as error:  # the role's own end: reported for the role, the others go on
            self.error, self.done = error, True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a schedule ended.

    Attributes:
        results: what each program returned, for roles that ended well.
        errors: the error of each role that did not.
        parties: each role's party, with its counters.
        elapsed_s: on the scheduler's clock.
    """

    results: dict[str, Any]
    errors: dict[str, Exception]
    parties: dict[str, Party]
    elapsed_s: float


def run_scheduled(
    protocol: Protocol,
    programs: Mapping[str, Callable[[Party], Awaitable[Any]]],
    seed: int,
    *,
    timeout_s: float = TIMEOUT_S,
    repeats: float = 0.1,
    lost: Callable[[Frame], bool] = lambda frame: False,
    names: Mapping[str, str] | None = None,
) -> Outcome:
    """Run role programs under the interleaving of `seed`.

    Args:
        protocol: their declaration.
        programs: a program for each role; a role without one is never heard.
        seed: which interleaving.
        timeout_s: each party's deadline.
        repeats: the probability with which a frame that arrives stays on its way and arrives again.
        lost: frames that never arrive.
        names: see `Party`.
    """
    rng = random.Random(seed)
    world = _World()
    parties = {
        role: Party(role, protocol, ScheduledChannel(world), names=names, timeout_s=timeout_s) for role in programs
    }
    roles = {role: _Role(run_role(parties[role], program)) for role, program in programs.items()}
    while not all(role.done for role in roles.values()):
        world.flying = [frame for frame in world.flying if frame.recipient in roles and not lost(frame)]
        ready = [role for role in roles.values() if role.runnable(world.now)]
        choice = rng.randrange(len(ready) + len(world.flying)) if ready or world.flying else None
        if choice is None:
            world.now = min(role.wait.until for role in roles.values() if not role.done and role.wait.until is not None)
        elif choice < len(ready):
            ready[choice].advance()
        else:
            place = choice - len(ready)
            frame = world.flying[place]
            if rng.random() >= repeats:
                del world.flying[place]
            roles[frame.recipient].mail.append(frame)
    return Outcome(
        {name: role.result for name, role in roles.items() if role.error is None},
        {name: role.error for name, role in roles.items() if role.error is not None},
        parties,
        world.now,
    )
