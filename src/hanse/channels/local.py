"""Channels inside one process: one asyncio queue a role.

Order is kept and nothing is lost; for runs, and for tests of what does not depend on order. `schedule` is the one that
looks for trouble.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from hanse.channels.frames import CheckHead, Frame
from hanse.channels.party import TIMEOUT_S, Party, run_role
from hanse.channels.protocol import Protocol
from hanse.core.errors import ConfigError

ROOM = 256
"""Frames that wait for one role before a sender has to wait."""


class LocalChannel:
    """One role's end; see `Channel`."""

    def __init__(self, role: str, queues: Mapping[str, asyncio.Queue[Frame]]) -> None:
        self._role = role
        self._queues = queues

    def expect(self, check: CheckHead) -> None:
        """See `Channel.expect`: frames come whole here, and `Party` checks them then."""

    async def send(self, frame: Frame, wait_s: float) -> bool:
        """See `Channel.send`."""
        queue = self._queues[frame.recipient]
        try:
            if queue.full():
                async with asyncio.timeout(wait_s):
                    await queue.put(frame)
            else:
                queue.put_nowait(frame)
        except TimeoutError:
            return False
        return True

    async def receive(self, wait_s: float) -> Frame | None:
        """See `Channel.receive`."""
        queue = self._queues[self._role]
        try:
            if queue.empty():
                async with asyncio.timeout(wait_s):
                    return await queue.get()
            return queue.get_nowait()
        except TimeoutError:
            return None

    def now(self) -> float:
        """See `Channel.now`."""
        return time.monotonic()


def local_channels(roles: tuple[str, ...]) -> dict[str, LocalChannel]:
    """One end for each role, all connected."""
    queues: dict[str, asyncio.Queue[Frame]] = {role: asyncio.Queue(ROOM) for role in roles}
    return {role: LocalChannel(role, queues) for role in roles}


async def run_local(
    protocol: Protocol,
    programs: Mapping[str, Callable[[Party], Awaitable[Any]]],
    *,
    timeout_s: float = TIMEOUT_S,
    absent: Collection[str] = (),
) -> dict[str, Any]:
    """Run all roles in this process, but those that are absent, and return what each program returned.

    Raises:
        ConfigError: programs that are not exactly the protocol's other roles. Otherwise the first error of a role, once
            all have ended. When cancelled, it cancels all roles and waits for their ends.
    """
    if set(programs) != set(protocol.roles) - set(absent):
        raise ConfigError(f"protocol {protocol.name}: expected programs for {protocol.roles}, found {tuple(programs)}")
    channels = local_channels(protocol.roles)
    tasks = {
        role: asyncio.create_task(
            run_role(Party(role, protocol, channels[role], timeout_s=timeout_s, absent=absent), program)
        )
        for role, program in programs.items()
    }
    failed: list[BaseException] = []

    def note(done: asyncio.Task[Any]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            failed.append(error)

    for task in tasks.values():
        task.add_done_callback(note)
    try:
        await asyncio.wait(tasks.values())
    except asyncio.CancelledError:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        raise
    if failed:
        raise failed[0]
    return {role: task.result() for role, task in tasks.items()}
