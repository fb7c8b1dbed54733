"""What an edge's agent has in the place of a worker: tasks that are given up while their answers are being written."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.clients.client import Answer
from hanse.core.arrays import Arrays
from hanse.core.codec import decode, encode
from hanse.core.ids import TaskId
from hanse.core.records import BlobRef, Task
from hanse.core.spec import RunSpec
from hanse.edge import members
from hanse.edge.members import Members
from hanse.rounds.hosts.group import Order
from hanse.workers.assignment import Assignment
from hanse.workers.load import Load


def arrays(value: float) -> Arrays:
    return Arrays([("w", np.full(2, value))])


def task(round_: int) -> Task:
    model = BlobRef.inline(encode(arrays(0)))
    return Task(TaskId("job", "main", round_, "train", 0), "north", "train", model=model, update_kind="values", seed=1)


async def test_a_task_waits_for_the_thread_of_the_one_that_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both would work in one runtime, and on one answer."""

    async def open_(job: str) -> RunSpec:
        return RunSpec()

    async def ask(job: str, order: Order) -> tuple[Answer, str]:
        return Answer(arrays(order.round), order.round, {}), "f"

    loop, writes, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    begun: list[int] = []
    in_thread, write = asyncio.to_thread, members._update

    async def to_thread(work: Callable[..., Any], of: Assignment, *rest: Any) -> Any:
        begun.append(of.task.id.round)
        return await in_thread(work, of, *rest)

    def update(found: Arrays, out: Path | None, scope: str) -> tuple[BlobRef, bool]:
        if found["w"][0] == 1:
            loop.call_soon_threadsafe(writes.set)
            go_on.wait()
        return write(found, out, scope)

    monkeypatch.setattr(asyncio, "to_thread", to_thread)
    monkeypatch.setattr(members, "_update", update)
    group = await Members("north", open_, ask).spawn()
    await group.load(Load(tmp_path / "job" / "bundle", "app.py", tmp_path))

    first = asyncio.ensure_future(group.execute(Assignment(task(1))))
    try:
        await writes.wait()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        second = asyncio.ensure_future(group.execute(Assignment(task(2))))
        for _ in range(20):  # it has been answered by then, and waits
            await asyncio.sleep(0)
        assert begun == [1]
    finally:
        go_on.set()
    done = await second
    assert begun == [1, 2]
    assert done.reply.num_examples == 2
    assert done.reply.update is not None
    assert done.reply.update.content is not None
    assert decode(done.reply.update.content)["w"].tolist() == [2.0, 2.0]
    await group.close()
