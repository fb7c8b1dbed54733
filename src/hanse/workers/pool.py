"""Workers as the agent and the server see them: start one, load an app, await its answers, kill it.

    workers = Workers(Launcher.start())
    worker = await workers.spawn(on_log=log.info)
    await worker.load(Load(bundle, "app.py", scratch))
    done = await worker.execute(task, model=path_or_bytes, state=state, out=path)

One request at a time for each worker. A worker that dies, hangs past its time, closes its socket or speaks nonsense
ends the request at once with a `TaskError` that says which; nothing a worker does can block the loop or fill memory.
Everything a worker answers is checked here as something received.
"""

import asyncio
import contextlib
import enum
import fcntl
import json
import os
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from hanse.core import errors
from hanse.core.arrays import Arrays
from hanse.core.blobs import Manifest
from hanse.core.codec import decode
from hanse.core.errors import CodecError, ConfigError, HanseError, StorageError, TaskError, UnavailableError
from hanse.core.ids import upload_scope
from hanse.core.records import Reply, Task
from hanse.core.tracked import Tracked, decode_tracked
from hanse.workers import wire
from hanse.workers.datasets import paths_of
from hanse.workers.isolation import require
from hanse.workers.launcher import Launcher
from hanse.workers.load import Load
from hanse.workers.logs import LogPipe
from hanse.workers.wire import Frame, Reader

ORPHANED_SOCKET_S = 0.5
"""How long a worker that has closed its socket may take to end before it is killed."""

CLOSE_S = 5.0
"""How long the launcher may take to end every worker before it is ended itself."""

Model = bytes | Path | None
OnLine = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StateFile:
    """A site's state that is too large for a message: all of a file that nobody else writes."""

    path: Path
    manifest: Manifest


State = bytes | StateFile | None


@dataclass(frozen=True, slots=True)
class Done:
    """What a task came to.

    Args:
        reply: complete: a small update is inline, a large one is in the file that `execute` was given.
        state: the site's state after the task; the one before it if the task failed. In the file that `execute` was
            given for it, if it is over 64 KiB; the hashes are the worker's own.
        packed: the reply as the worker packed it, to be signed and sent on as it is.
        written: whether the update is in the file; `reply.update.manifest` then describes all of it. The hashes are
            the worker's own: whoever receives the blob verifies it.
        tracked: what the site's code told its own tracker, which is nobody else's business.
    """

    reply: Reply
    packed: bytes
    state: State
    written: bool
    tracked: tuple[Tracked, ...] = ()


@dataclass(frozen=True, slots=True)
class Called:
    """What a server-side call answered: a JSON value, and perhaps arrays, which are this process's own copy.

    `manifest` describes the file where the arrays came in one.
    """

    value: Any
    arrays: Arrays | None = None
    manifest: Manifest | None = None


class Workers:
    """Every worker of one launcher. Belongs to one event loop.

    Args:
        launcher: started before; it is replaced should it ever die.
    """

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._reader = Reader()
        self._workers: dict[int, Worker] = {}
        self._next = 0
        self._attached = False
        self._closed = False

    @property
    def launcher(self) -> Launcher:
        """The launcher at work now."""
        return self._launcher

    def __len__(self) -> int:
        """How many workers are alive."""
        return len(self._workers)

    async def spawn(self, *, threads: int = 1, on_log: OnLine = lambda line: None) -> "Worker":
        """Start a worker.

        Args:
            threads: compute threads of BLAS and OpenMP libraries.
            on_log: gets each line that the worker prints.

        Raises:
            UnavailableError: the system refuses another process, or the launcher ended twice.
        """
        for _ in range(2):  # a launcher that has died is replaced, once
            self._attach()
            self._next += 1
            ours, theirs = socket.socketpair()
            worker = Worker(self, self._next, ours, LogPipe(on_log))
            self._workers[worker.id] = worker
            try:
                fds = (theirs.fileno(), worker.log.write_end)
                self._send(Frame("spawn", {"id": worker.id, "threads": threads}, fds=fds))
                await worker.started
                return worker
            except UnavailableError:
                if self._attached or self._closed:
                    raise
            finally:
                theirs.close()
                worker.log.close_write_end()
        raise UnavailableError("the worker launcher ended at once, twice; its own message is on standard error")

    async def close(self) -> None:
        """Kill every worker and end the launcher."""
        self._closed = True
        for worker in list(self._workers.values()):
            worker.kill()
        if self._workers:
            await asyncio.wait([worker.exited for worker in self._workers.values()], timeout=CLOSE_S)
        self._detach()
        await asyncio.to_thread(self._launcher.stop)
        for worker in list(self._workers.values()):  # of a launcher that did not answer
            worker.on_exit(TaskError("lost", "the worker launcher was stopped"))
        self._workers.clear()

    def kill(self, worker: int) -> None:
        """Have the launcher kill a worker: it knows whether the process id is still that worker's."""
        if self._attached:
            self._send(Frame("kill", {"id": worker}))

    def _send(self, frame: Frame) -> None:
        # A hundred bytes, which a socket takes at once or, full or closed, not at all.
        try:
            wire.send_begin(self._launcher.control, wire.encode(frame), frame.fds)
        except OSError:
            self._launcher_ended()

    def _attach(self) -> None:
        if self._closed:
            raise UnavailableError("the workers have been closed")
        if self._attached:
            return
        if self._launcher.child.poll() is not None:
            self._launcher = self._launcher.again()
            self._reader = Reader()
        self._launcher.control.setblocking(False)
        asyncio.get_running_loop().add_reader(self._launcher.control, self._readable)
        self._attached = True

    def _detach(self) -> None:
        if self._attached:
            asyncio.get_running_loop().remove_reader(self._launcher.control)
            self._attached = False

    def _readable(self) -> None:
        try:
            data, fds = wire.read_some(self._launcher.control)
        except BlockingIOError:
            return
        except ConnectionError:
            data, fds = b"", []
        if not data:
            return self._launcher_ended()
        self._reader.feed(data, fds)
        while (frame := self._reader.next()) is not None:
            worker = self._workers.get(frame.fields.get("id", 0))
            if worker is None:
                continue
            if frame.kind == "spawned":
                worker.on_started(frame.fields["pid"])
            elif frame.kind == "failed":
                del self._workers[worker.id]
                worker.on_exit(TaskError("lost", f"cannot start a worker: {frame.fields['message']}"))
            elif frame.kind == "exited":
                del self._workers[worker.id]
                worker.on_exit(exit_cause(frame.fields["status"]))

    def _launcher_ended(self) -> None:
        if not self._attached:
            return
        self._detach()
        self._launcher.control.close()
        self._launcher.child.kill()
        self._launcher.child.wait()
        for worker in list(self._workers.values()):
            if worker.pid:
                # The kernel kills a worker with its launcher, but not what user code forked; not on macOS at all.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(worker.pid, signal.SIGKILL)
            worker.on_exit(TaskError("lost", "the worker launcher ended and took the worker with it"))
        self._workers.clear()


class Worker:
    """One worker process. Made by `Workers.spawn`.

    Attributes:
        pid: its process id.
        exited: done when it has ended; holds the cause as a `TaskError` (never raises).
    """

    def __init__(self, workers: Workers, id_: int, sock: socket.socket, log: LogPipe) -> None:
        self.id = id_
        self.pid = 0
        self.log = log
        self._workers = workers
        self._sock = sock
        self._sock.setblocking(False)
        self._reader = Reader()
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = self._loop.create_future()
        self.exited: asyncio.Future[TaskError] = self._loop.create_future()
        self._answer: asyncio.Future[Frame] | None = None
        self._cause: TaskError | None = None
        self._load: Load | None = None
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
        self._load = load

    async def execute(
        self,
        task: Task,
        *,
        packed: bytes | None = None,
        model: Model = None,
        state: State = None,
        after: Path | None = None,
        out: Path | None = None,
        channel: socket.socket | None = None,
        timeout_s: float | None = None,
    ) -> Done:
        """Execute one task.

        Args:
            packed: the task as it was received, where it need not be packed again.
            model: the task's model, verified: the file that holds exactly its bytes, or the bytes; None where it is
                inline in the task. The file must not change meanwhile; user code never changes it.
            state: the site's state before the task.
            after: where a state over 64 KiB goes, another file than that of `state`; without it 128 MiB are the most.
            out: where an update over 64 KiB goes; made, or overwritten and cut. A file that is used again must stay
                within
                one job: user code could keep it open.
            channel: one end of a socket pair, for a task that plays a role; the worker's from here on.
            timeout_s: seconds after which the worker is killed.

        Returns:
            An answer, or user code's failure as a reply by kind and cause.

        Raises:
            TaskError: `killed`, `exited`, `timeout`, `lost`: the process is gone; `bad_reply`: it answered nonsense,
                and was killed. StorageError: the update could not be written.
        """
        with _Files() as files:
            where, inline = files.add(model)
            if model is None and task.model is not None and task.model.content is not None:
                where = "task"
            if out is not None:
                files.open(out, os.O_RDWR | os.O_CREAT)
            if channel is not None:
                files.hand_over(channel)
            if after is not None:
                files.open(after, os.O_RDWR | os.O_CREAT)
            if isinstance(state, StateFile):
                files.open(state.path, os.O_RDONLY)
            fields = _only(
                {
                    "state": "file" if isinstance(state, StateFile) else state is not None,
                    "after": after is not None,
                    "out": out is not None,
                    "model": where != "task" and where,
                    "channel": channel is not None,
                }
            )
            before = (state,) if isinstance(state, bytes) else ()
            parts = (packed or task.pack(), *before, *inline)
            frame = await self._ask(Frame("execute", fields, parts, files.fds), "done", timeout_s)
        try:
            return self._done(task, frame, out, state, after)
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
        with _Files() as files:
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
            return await asyncio.to_thread(_called, frame, out) if out is not None else _called(frame, None)
        except (CodecError, ValueError, IndexError, KeyError, TypeError) as error:
            raise self._end(
                TaskError("bad_reply", f"the worker answered something that is no answer: {error}")
            ) from None

    def kill(self, cause: TaskError | None = None) -> None:
        """Kill it with everything it forked. Harmless when it is gone."""
        if not self.exited.done():
            self._cause = self._cause or cause or TaskError("killed", "the worker was stopped")
            self._workers.kill(self.id)

    async def close(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        await asyncio.shield(self.exited)

    # ---- called by Workers ----

    def on_started(self, pid: int) -> None:
        """The launcher has forked it."""
        self.pid = pid
        if self.started.done():  # whoever asked for it has gone
            self.kill()
        else:
            self.started.set_result(None)

    def on_exit(self, cause: TaskError) -> None:
        """The process is gone."""
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

    # ---- one request ----

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
            raise _failure(answer)
        if answer.kind != expected:
            raise self._end(TaskError("bad_reply", f"the worker answered {answer.kind[:40]!r} instead of {expected!r}"))
        return answer

    def _done(self, task: Task, frame: Frame, out: Path | None, before: State, after: Path | None) -> Done:
        reply = Reply.unpack(frame.parts[0])
        if reply.task != task.id or (self._load is not None and reply.site != self._load.site):
            raise CodecError("a reply to another task, or of another site")
        state: State = before if frame.fields.get("state") == "same" else None
        if frame.fields.get("state") is True:
            state = frame.parts[1]
        elif frame.fields.get("state") == "file":
            manifest = Manifest(int(frame.fields["size"]), frame.parts[1])
            if after is None or after.stat().st_size != manifest.size:
                raise CodecError("a state whose size is not its file's")
            state = StateFile(after, manifest)
        tracked = decode_tracked(frame.parts[-1]) if frame.fields.get("tracked") is True else ()
        written = reply.update is not None and reply.update.content is None
        if written and reply.update is not None:
            if out is None or out.stat().st_size != reply.update.manifest.size:
                raise CodecError("an update whose size is not its file's")
            if reply.update.scope != upload_scope(task.id, reply.site):
                raise CodecError("an update outside the site's scope")
        return Done(reply, frame.parts[0], state, written, tracked)

    def _too_late(self, timeout_s: float) -> None:
        self.kill(TaskError("timeout", f"the task took longer than its {timeout_s:g} s, and the worker was killed"))

    def _end(self, cause: TaskError) -> TaskError:
        self.kill(cause)
        return cause

    def _fail(self, cause: TaskError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(cause)

    def _readable(self) -> None:
        if self._receive() is _Read.END and self._sock.fileno() >= 0:
            # The end of the stream: it has died, which the launcher will say, or user code has closed the socket.
            self._loop.remove_reader(self._sock)
            closed = TaskError("exited", "the worker closed its connection to the agent, and was killed")
            self._loop.call_later(ORPHANED_SOCKET_S, self.kill, closed)

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


class _Files:
    """Descriptors to hand over, closed on our side when the answer is there."""

    def __init__(self) -> None:
        self._fds: list[int] = []

    @property
    def fds(self) -> tuple[int, ...]:
        return tuple(self._fds)

    def add(self, content: Model) -> tuple[str, tuple[bytes, ...]]:
        """Where arrays are, and their bytes where they go inline."""
        if content is None:
            return "none", ()
        if isinstance(content, Path):
            self.open(content, os.O_RDONLY)
            return "file", ()
        return "inline", (content,)

    def hand_over(self, sock: socket.socket) -> None:
        self._fds.append(sock.detach())

    def open(self, path: Path, flags: int) -> None:
        try:
            fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            self._fds.append(fd)
            if flags == os.O_RDONLY:
                # the worker's map inherits it: a store does not use the file again while user code may look at it
                fcntl.flock(fd, fcntl.LOCK_SH)
        except OSError as error:
            raise StorageError(f"{path.name}: cannot be opened: {os.strerror(error.errno or 0)}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self._fds:
            os.close(fd)


def _only(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields that say something: an ordinary task's frame has none."""
    return {name: value for name, value in fields.items() if value}


def exit_cause(status: int) -> TaskError:
    """The end of a worker nobody asked for, in words. `status`: an exit code, or a signal's number below zero."""
    if status >= 0:
        return TaskError("exited", f"the worker ended in mid-task with exit code {status}")
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
    return TaskError("killed", f"the worker was killed by {name}{hint}")


def _called(frame: Frame, out: Path | None) -> Called:
    value = json.loads(frame.parts[0])
    where = frame.fields["arrays"]
    if where == "inline":
        return Called(value, decode(frame.parts[1]))
    if where == "file":
        manifest = Manifest(frame.fields["size"], frame.parts[1])
        # Read, not mapped: the worker could still cut the file, and a map would then kill this process.
        content = b"" if out is None else out.read_bytes()
        if len(content) != manifest.size:
            raise CodecError("arrays whose size is not their file's")
        return Called(value, decode(content), manifest)
    return Called(value)


def _failure(frame: Frame) -> HanseError:
    """What a worker says went wrong, as one of our errors; its kind is taken for nothing it is not."""
    kind, message = frame.fields.get("kind"), str(frame.fields.get("message"))[:2000]
    named = {"ConfigError": ConfigError, "StorageError": StorageError, "PolicyError": errors.PolicyError}
    if kind in named:
        return named[kind](message)
    if kind in ("raised", "exited", "bad_reply", "refused"):
        return TaskError(kind, message)
    return TaskError("bad_reply", message)
