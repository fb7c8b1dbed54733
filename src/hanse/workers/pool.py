"""Workers as the agent and the server see them: start one, load an app, await its answers, kill it.

    workers = Workers(Launcher.start())
    worker = await workers.spawn(on_log=log.info)
    await worker.load(Load(bundle, "app.py", scratch))
    done = await worker.execute(Assignment(task, model=path_or_bytes, state=state, out=path))

Here is what all workers of one launcher have in common; what is said to one of them is in `handle`, what it answers in
`answers`.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from hanse.core.errors import TaskError, UnavailableError
from hanse.workers import wire
from hanse.workers.answers import exit_cause
from hanse.workers.handle import Worker
from hanse.workers.launcher import Launcher
from hanse.workers.logs import LogPipe
from hanse.workers.wire import Frame, Reader

CLOSE_S = 5.0
"""How long the launcher may take to end every worker before it is ended itself."""

OnLine = Callable[[str], None]


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

    async def spawn(self, *, threads: int = 1, on_log: OnLine = lambda line: None) -> Worker:
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
            worker = Worker(self._next, ours, LogPipe(on_log), self.kill)
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
