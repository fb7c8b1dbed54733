"""One worker as its parent holds it: one request at a time, and every end that it can come to.

A worker that dies, hangs past its time, closes its socket or speaks nonsense ends the request at once with a
`TaskError` that says which; nothing a worker does can block the loop or fill memory.
"""

import asyncio
import enum
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hanse.core import errors
from hanse.core.errors import CodecError, TaskError, UnavailableError
from hanse.workers import process, wire
from hanse.workers.answers import Called, Done, called_in, done_in, failure_in
from hanse.workers.assignment import Assignment, StateFile
from hanse.workers.datasets import paths_of
from hanse.workers.handed import Handed
from hanse.workers.isolation import require
from hanse.workers.load import Load
from hanse.workers.logs import LogPipe
from hanse.workers.wire import Frame, Reader

ORPHANED_SOCKET_S = 0.5
"""How long a worker that has closed its socket may take to end before it is killed."""


class Worker:
    """One worker process. Made by `Workers.spawn`.

    Attributes:
        pid: its process id.
        exited: done when it has ended; holds the cause as a `TaskError` (never raises).
    """

    def __init__(self, id_: int, sock: socket.socket, log: LogPipe, kill: Callable[[int], None]) -> None:
        self.id = id_
        self.pid = 0
        self.log = log
        self._kill_process = kill
        self._sock = sock
        self._sock.setblocking(False)
        self._reader = Reader()
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[TaskError] = self._loop.create_future()
        self._answer: asyncio.Future[Frame] | None = None
        self._cause: TaskError | None = None
        self._site: str | None = None
        self._loop.add_reader(sock, self._readable)
        self._loop.add_reader(log.fd, self._log_readable)

    @property
    def alive(self) -> bool:
        """Whether it can still be asked: not ended, and not about to be."""
        return not self.exited.done() and self._cause is None

    async def load(self, load: Load, *, timeout_s: float | None = None) -> None:
        """Confine the worker and import the app. Once; a worker belongs to one job.

        Raises:
            ConfigError: the isolation cannot be had here, or the bundle holds no such app.
            TaskError: the app's own code failed, ended the process or took too long.
        """
        isolation = load.isolation
        require(isolation.level)
        base = load.base or Path()
        granted = [str(path.absolute()) for item in load.datasets.values() for path in paths_of(item, base)]
        lasting = tuple(str(each.absolute()) for each in (load.checkpoints, load.spent) if each is not None)
        if isolation.level == "user":
            for folder in (str(load.scratch), *lasting):
                os.chown(folder, isolation.uid, isolation.gid)
        load = replace(
            load,
            bundle=load.bundle.resolve(),
            scratch=load.scratch.resolve(),
            base=base.absolute(),
            checkpoints=None if load.checkpoints is None else load.checkpoints.absolute(),
            spent=None if load.spent is None else load.spent.absolute(),
            isolation=replace(isolation, read=(*isolation.read, *granted), write=(*isolation.write, *lasting)),
        )
        answer = await self._ask(Frame("load", load.to_json()), "loaded", timeout_s)
        answer.close_fds()
        self._site = load.site

    async def execute(self, assignment: Assignment) -> Done:
        """Execute one task.

        Returns:
            An answer, or user code's failure as a reply by kind and cause.

        Raises:
            TaskError: `killed`, `exited`, `timeout`, `lost`: the process is gone; `bad_reply`: it answered nonsense,
                and was killed. StorageError: the update could not be written.
        """
        task, model, state = assignment.task, assignment.model, assignment.state
        with Handed() as files:
            where, inline = files.add(model)
            if model is None and task.model is not None and task.model.content is not None:
                where = "task"
            if assignment.out is not None:
                files.open(assignment.out, os.O_RDWR | os.O_CREAT)
            if assignment.channel is not None:
                files.hand_over(assignment.channel)
            if assignment.after is not None:
                files.open(assignment.after, os.O_RDWR | os.O_CREAT)
            if isinstance(state, StateFile):
                files.open(state.path, os.O_RDONLY)
            fields = _only(
                {
                    "state": "file" if isinstance(state, StateFile) else state is not None,
                    "after": assignment.after is not None,
                    "out": assignment.out is not None,
                    "model": where != "task" and where,
                    "channel": assignment.channel is not None,
                }
            )
            before = (state,) if isinstance(state, bytes) else ()
            parts = (assignment.packed or task.pack(), *before, *inline)
            frame = await self._ask(Frame("execute", fields, parts, files.fds), "done", assignment.timeout_s)
        try:
            return done_in(frame, assignment, site=self._site)
        except (CodecError, errors.IntegrityError, ValueError, IndexError, KeyError, TypeError) as error:
            raise self._end(
                TaskError("bad_reply", f"the worker answered something that is no reply: {error}")
            ) from None

    async def call(
        self,
        name: str,
        arguments: Any,
        arrays: Mapping[str, bytes | Path] | None = None,
        *,
        out: Path | None = None,
        timeout_s: float | None = None,
    ) -> Called:
        """Call one function of an app's server side.

        Args:
            name: which; see `runtime`.
            arguments: JSON values.
            arrays: encoded arrays by name, as bytes or as the file that holds exactly them.
            out: where arrays over 64 KiB go.

        Raises:
            TaskError: what the app's function raised, or as `execute`. ConfigError: a wrong declaration of the app's.
        """
        with Handed() as files:
            wheres: list[tuple[str, str]] = []
            parts = [json.dumps(arguments).encode()]
            for key, value in (arrays or {}).items():
                where, inline = files.add(value)
                wheres.append((key, where))
                parts += inline
            if out is not None:
                files.open(out, os.O_RDWR | os.O_CREAT)
            fields = _only({"name": name, "arrays": wheres, "out": out is not None})
            frame = await self._ask(Frame("call", fields, tuple(parts), files.fds), "called", timeout_s)
        try:
            return await asyncio.to_thread(called_in, frame, out) if out is not None else called_in(frame, None)
        except (CodecError, ValueError, IndexError, KeyError, TypeError) as error:
            raise self._end(
                TaskError("bad_reply", f"the worker answered something that is no answer: {error}")
            ) from None

    def kill(self, cause: TaskError | None = None) -> None:
        """Kill it with everything it forked. Harmless when it is gone."""
        if not self.exited.done():
            self._cause = self._cause or cause or TaskError("killed", "the worker was stopped")
            self._kill_process(self.id)

    async def close(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        await asyncio.shield(self.exited)

    def on_started(self, pid: int) -> None:
        """The launcher has forked it; called by `Workers`."""
        self.pid = pid
        if self.started.done():  # whoever asked for it has gone
            self.kill()
        else:
            self.started.set_result(None)

    def on_exit(self, cause: TaskError) -> None:
        """The process is gone; called by `Workers`."""
        while self._cause is None and self._receive() is _Read.DATA:
            pass  # an answer that was sent before the end counts
        self.discard()
        self._cause = self._cause or cause
        if not self.started.done():
            self.started.set_exception(UnavailableError(str(self._cause)))
        self._fail(self._cause)
        self.exited.set_result(self._cause)

    def discard(self) -> None:
        """Let go of sockets and pipes."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock)
            self._loop.remove_reader(self.log.fd)
            self._sock.close()
            self._reader.close()
            self.log.close()

    async def _ask(self, frame: Frame, expected: str, timeout_s: float | None) -> Frame:
        if self._answer is not None:
            raise UnavailableError("the worker is busy with another request")
        if not self.alive:
            raise self._cause or self.exited.result()
        content = wire.encode(frame)
        self.log.begin()
        self._answer = self._loop.create_future()
        timer = None if timeout_s is None else self._loop.call_later(timeout_s, self._too_late, timeout_s)
        try:
            sent = wire.send_begin(self._sock, content, frame.fds)
            if sent < len(content):
                await self._loop.sock_sendall(self._sock, memoryview(content)[sent:])
            answer = await self._answer
        except ConnectionError:  # it died before it read all; `exited` says of what
            answer = await self._answer
        except asyncio.CancelledError:
            self.kill(TaskError("killed", "the task was cancelled"))
            raise
        finally:
            self._answer = None
            if timer is not None:
                timer.cancel()
        self.log.drain()
        if answer.kind == "failed":
            raise failure_in(answer)
        if answer.kind != expected:
            raise self._end(TaskError("bad_reply", f"the worker answered {answer.kind[:40]!r} instead of {expected!r}"))
        return answer

    def _too_late(self, timeout_s: float) -> None:
        shown = f"{timeout_s:.{0 if timeout_s >= 10 else 1}f}"  # to the digits in which sites agree
        self.kill(TaskError("timeout", f"the task took longer than its {shown} s, and the worker was killed"))

    def _end(self, cause: TaskError) -> TaskError:
        self.kill(cause)
        return cause

    def _fail(self, cause: TaskError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(cause)

    def _readable(self) -> None:
        if self._receive() is _Read.END and self._sock.fileno() >= 0:
            # The end of the stream: it has died, or user code has closed the socket.
            self._loop.remove_reader(self._sock)
            self._loop.call_later(ORPHANED_SOCKET_S, self._without_socket)

    def _without_socket(self) -> None:
        if not process.has_ended(self.pid):  # else the launcher will say of what, however late
            self.kill(TaskError("exited", "the worker closed its connection to the agent, and was killed"))

    def _receive(self) -> "_Read":
        try:
            data, fds = wire.read_some(self._sock)
        except BlockingIOError:
            return _Read.NOTHING
        except OSError:
            return _Read.END
        if not data:
            return _Read.END
        try:
            self._reader.feed(data, fds)
            while (frame := self._reader.next()) is not None:
                frame.close_fds()
                if self._answer is None or self._answer.done():
                    raise CodecError("an answer to no question")
                self._answer.set_result(frame)
        except CodecError as error:
            self._end(TaskError("bad_reply", f"the worker sent what it should not: {error}"))
        return _Read.DATA

    def _log_readable(self) -> None:
        if not self.log.pump():
            self._loop.remove_reader(self.log.fd)


class _Read(enum.Enum):
    """What one attempt to read a worker's socket gave."""

    DATA = enum.auto()
    NOTHING = enum.auto()
    END = enum.auto()


def _only(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that say something: an ordinary task's frame has none."""
    return {name: value for name, value in fields.items() if value}
