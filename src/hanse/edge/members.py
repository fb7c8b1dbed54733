"""`Members`: what an edge's agent has in the place of worker processes: the group behind it.

A task from above is asked of the group's own run. What comes of it becomes a reply where every site's does, in
`hanse.clients.execute`: layout, finite values, change or values, compression and its state are those of any site. No
code of the app runs here.
"""

import asyncio
import mmap
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.aggregation import codec_named
from hanse.clients.app import App
from hanse.clients.client import Answer, Client
from hanse.clients.execute import Runtime
from hanse.clients.functions import ClientSide
from hanse.clients.site import Site
from hanse.core.arrays import Arrays
from hanse.core.blobs import CHUNK_BYTES, INLINE_BYTES, Chunk
from hanse.core.codec import decode, encode_parts, parse_header, view_arrays
from hanse.core.errors import PolicyError, StorageError, TaskError
from hanse.core.ids import upload_scope
from hanse.core.records import BlobRef
from hanse.core.spec import RunSpec
from hanse.rounds.hosts.group import CALLS, Order
from hanse.workers.answers import Done
from hanse.workers.assignment import Assignment, Model, State, StateFile
from hanse.workers.execute import write_blob
from hanse.workers.load import Load

Ask = Callable[[str, Order], Awaitable[tuple[Answer, str]]]
"""Asks a job's group: its arrays, its examples, its metrics; and the numerics fingerprint of its members."""
Open = Callable[[str], Awaitable[RunSpec]]
"""Has a job led within the group, if it is not already; the spec that came from above."""


class Members:
    """Executors of an edge: see `hanse.site.executors.Executors`."""

    def __init__(self, site: str, open_: Open, ask: Ask) -> None:
        self._site = site
        self._open = open_
        self._ask = ask

    async def spawn(self, *, threads: int = 1, on_log: Callable[[str], None] = lambda line: None) -> "Group":
        """See `Executors.spawn`."""
        return Group(self._site, self._open, self._ask, on_log)

    async def close(self) -> None:
        """Nothing is held."""


class Group:
    """The group as one job's executor: see `hanse.site.executors.Executor`."""

    def __init__(self, site: str, open_: Open, ask: Ask, log: Callable[[str], None]) -> None:
        self.pid = os.getpid()
        self.exited: asyncio.Future[TaskError] = asyncio.get_running_loop().create_future()
        self._site = site
        self._open = open_
        self._ask = ask
        self._log = log
        self._job = ""
        self._answer: Answer | None = None
        self._writing: asyncio.Future[Done] | None = None
        self._runtime: Runtime | None = None

    @property
    def alive(self) -> bool:
        """See `Executor`."""
        return not self.exited.done()

    async def load(self, load: Load, *, timeout_s: float | None = None) -> None:
        """Have the job of this folder led within the group.

        Raises:
            HanseError: it cannot be.
        """
        self._job = load.bundle.parent.name
        spec = await self._open(self._job)
        app = App(compression=codec_named(spec.compression) if spec.compression else None)
        app.client_side = ClientSide(client=lambda site: _Answers(self))
        self._runtime = Runtime(app, site_name=self._site, load=_nothing, log=self._log)

    async def execute(self, assignment: Assignment) -> Done:
        """Ask the group.

        Raises:
            TaskError: it cannot do that, or took too long. StorageError: the update cannot be written.
        """
        task, model, timeout_s = assignment.task, assignment.model, assignment.timeout_s
        if task.call not in CALLS:
            raise TaskError("refused", f"groups: expected one of {', '.join(CALLS)}, found {task.call[:60]!r}")
        if model is None and task.model is not None:
            model = task.model.content
        manifest = None if task.model is None else task.model.manifest
        order = Order(task.call, task.id.round, task.config, manifest, lambda: chunks_of(model))
        try:
            async with asyncio.timeout(timeout_s):
                answer, numerics = await self._ask(self._job, order)
        except TimeoutError:
            raise TaskError("timeout", f"the group took longer than its {timeout_s or 0:g} s") from None
        await self._settled()
        self._writing = asyncio.ensure_future(asyncio.to_thread(self._done, replace(assignment, model=model), answer))
        done = await asyncio.shield(self._writing)
        reply = replace(done.reply, fingerprint=numerics)  # this process has trained nothing
        return replace(done, reply=reply, packed=reply.pack())

    def kill(self) -> None:
        """See `Executor`."""
        if not self.exited.done():
            self.exited.set_result(TaskError("killed", "the group was let go"))

    async def close(self) -> None:
        """See `Executor`."""
        self.kill()
        await self._settled()

    @property
    def answer(self) -> Answer:
        """What the group has come to in the task at hand."""
        assert self._answer is not None
        return self._answer

    async def _settled(self) -> None:
        """Return when no thread writes an answer: that of a task which was given up goes on for a moment."""
        if self._writing is not None:
            await asyncio.wait([self._writing])

    def _done(self, assignment: Assignment, answer: Answer) -> Done:
        task, state, after = assignment.task, assignment.state, assignment.after
        assert self._runtime is not None
        self._answer = answer
        try:
            base = None if assignment.model is None else _view(assignment.model)
            before = state.path.read_bytes() if isinstance(state, StateFile) else state
            outcome = self._runtime.execute(task, base, before, lend=True)
            reply, written = outcome.reply, False
            if reply.ok and outcome.arrays is not None:
                update, written = _update(outcome.arrays, assignment.out, upload_scope(task.id, self._site))
                reply = replace(reply, update=update)
            kept: State = state if not reply.ok or outcome.state == before else outcome.state
            if kept is outcome.state and kept is not None and len(kept) > INLINE_BYTES and after is not None:
                kept = _state_file(kept, after)
        except OSError as error:
            raise StorageError(f"the group's answer cannot be written: {os.strerror(error.errno or 0)}") from None
        finally:
            self._answer = None
        return Done(reply, reply.pack(), kept, written)


class _Answers(Client):
    """A client whose answers are the group's."""

    changes_arrays = False

    def __init__(self, group: Group) -> None:
        self._group = group

    def parameters(self, config: dict[str, Any], site: Site) -> Any:
        """See `Client`."""
        return self._group.answer.arrays

    def train(self, arrays: Arrays, config: dict[str, Any], site: Site) -> Answer:
        """See `Client`."""
        return self._group.answer

    def evaluate(self, arrays: Arrays, config: dict[str, Any], site: Site) -> Answer:
        """See `Client`."""
        return self._group.answer


def chunks_of(model: Model) -> Iterator[tuple[int, Chunk]]:
    """A model as a store takes it, read chunk by chunk where it is a file."""
    if isinstance(model, Path):
        with model.open("rb") as file:
            index = 0
            while content := file.read(CHUNK_BYTES):
                yield index, content
                index += 1
    elif model:
        for index, start in enumerate(range(0, len(model), CHUNK_BYTES)):
            yield index, model[start : start + CHUNK_BYTES]


def _view(model: bytes | Path) -> Arrays:
    """The model's arrays; of a file without memory of this process's own."""
    if isinstance(model, bytes):
        return decode(model)
    with model.open("rb") as file:
        content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    layout, start = parse_header(content)
    return view_arrays(content[start:], layout)


def _update(arrays: Arrays, out: Path | None, scope: str) -> tuple[BlobRef, bool]:
    parts = list(encode_parts(arrays))
    if sum(map(len, parts)) <= INLINE_BYTES:
        return BlobRef.inline(b"".join(parts)), False
    if out is None:
        raise TaskError("refused", f"update: expected at most {INLINE_BYTES} bytes where no file is given")
    return BlobRef(_written(parts, out), scope), True


def _state_file(content: bytes, path: Path) -> StateFile:
    return StateFile(path, _written([content], path))


def _written(parts: list[Any], path: Path) -> Any:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        return write_blob(descriptor, parts)
    finally:
        os.close(descriptor)


def _nothing(dataset: str) -> Any:
    raise PolicyError(f"data set {dataset[:60]!r}: an edge has none")
