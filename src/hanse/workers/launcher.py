"""The launcher: a clean, warm interpreter that forks workers for a process which must not fork.

An agent holds keys, gRPC threads and open connections; a fork of it could hang, and would hand all that to user code.
So the agent first starts this launcher, a *fresh* interpreter (posix_spawn/vfork + exec, never a plain fork): it
imports what workers need, stays single-threaded, and forks a worker in milliseconds when asked. Started early, its
imports run beside the agent's own.

    agent → launcher   spawn {id, threads} + [worker's socket, log pipe]   kill {id}
    launcher → agent   ready {pid, warm}   spawned {id, pid}   exited {id, status}   failed {id, message}

- **Threads.** BLAS and OpenMP libraries read their number of threads when they are loaded. The launcher loads them
  with 1; a worker with another number, any worker on macOS (whose Accelerate does not survive a fork), and every
  worker of a launcher in which some preloaded module started a thread, is a fork that execs a fresh interpreter:
  0.2 s instead of 2 ms.
- **Ends.** When the agent ends, however it ends, its socket closes and the launcher kills every worker with its
  process group; on Linux a worker also dies with the launcher (PDEATHSIG). The launcher adopts orphans of user code
  (Linux), so that what a worker forked and detached is killed too when a worker ends.
- **Not here:** what a worker does (`worker`), and what it may see (`isolation`).
"""

import contextlib
import importlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hanse.core.errors import UnavailableError
from hanse.workers import process, wire
from hanse.workers.wire import Frame, Reader

PYTHON = (sys.executable, "-P", "-m")
"""-P: the agent's folder is not a place to import from (nor, under Landlock, to read)."""
PRELOAD = ("numpy", "hanse.workers.execute")
RUNTIME = "hanse.workers.runtime:open_runtime"
"""What turns a `Load` into the object that executes tasks; the owner's process decides, never a message."""


@dataclass(frozen=True, slots=True)
class Launcher:
    """A running launcher, as its parent sees it. `pool.Workers` speaks to it.

    Args:
        pid: its process id; it is this process's child.
        control: the connected socket.
    """

    pid: int
    control: socket.socket
    child: "subprocess.Popen[bytes]"
    preload: tuple[str, ...]
    runtime: str
    environment: Mapping[str, str]

    @classmethod
    def start(
        cls,
        preload: Sequence[str] = PRELOAD,
        *,
        runtime: str = RUNTIME,
        environment: Mapping[str, str] | None = None,
    ) -> "Launcher":
        """Start a launcher; returns at once, while it imports.

        Args:
            preload: modules to import before any fork; one that is not installed is skipped.
            runtime: `module:function` that makes a worker's runtime.
            environment: variables for workers beside the few that are passed on (see `process.clean_environment`).

        Raises:
            UnavailableError: the system refuses another process.
        """
        ours, theirs = socket.socketpair()
        mortal = "1" if threading.current_thread() is threading.main_thread() else "0"
        modules = dict.fromkeys((*preload, runtime.partition(":")[0]))
        argv = [*PYTHON, "hanse.workers.launcher", str(theirs.fileno()), mortal, runtime, *modules]
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
                env=process.clean_environment(1, dict(environment or {})),
            )
        except OSError as error:
            ours.close()
            raise UnavailableError(f"cannot start the worker launcher: {os.strerror(error.errno or 0)}") from None
        finally:
            theirs.close()
        return cls(child.pid, ours, child, tuple(preload), runtime, dict(environment or {}))

    def again(self) -> "Launcher":
        """Another one like it, after this one has ended."""
        return Launcher.start(self.preload, runtime=self.runtime, environment=self.environment)

    def stop(self) -> None:
        """End the launcher and every worker; returns when it is gone."""
        self.control.close()
        try:
            self.child.wait(5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class _Host:
    """The launcher's own loop: one socket, one wakeup pipe, no thread."""

    def __init__(self, control: socket.socket, runtime: str) -> None:
        self._control = control
        self._runtime = runtime
        self._reader = Reader()
        self._workers: dict[int, int] = {}  # pid → id
        self._warm = False
        self._alarm, self._alarmed = socket.socketpair()

    def run(self, preload: Sequence[str]) -> None:
        for name in preload:
            try:
                importlib.import_module(name)
            except ImportError as error:
                print(f"hanse launcher: not preloaded: {error}", file=sys.stderr)  # noqa: T201 - it has no logger
        process.outlive_parent()  # from here on the closed socket tells, and there is something to clear up
        self._warm = sys.platform != "darwin" and process.num_threads() == 1
        for end in (self._alarm, self._alarmed):
            end.setblocking(False)
        signal.set_wakeup_fd(self._alarmed.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        wire.send(self._control, Frame("ready", {"pid": os.getpid(), "warm": self._warm}))
        selector = selectors.DefaultSelector()
        selector.register(self._control, selectors.EVENT_READ)
        selector.register(self._alarm, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if self._alarm in ready:
                with contextlib.suppress(BlockingIOError):
                    self._alarm.recv(4096)
                self._reap()
            if self._control in ready:
                data, fds = wire.read_some(self._control)
                if not data:
                    return
                self._reader.feed(data, fds)
                while (frame := self._reader.next()) is not None:
                    self._handle(frame)

    def _handle(self, frame: Frame) -> None:
        worker = frame.fields["id"]
        if frame.kind == "spawn":
            try:
                pid = self._fork(frame.fds, frame.fields["threads"])
            except OSError as error:
                self._tell("failed", id=worker, message=os.strerror(error.errno or 0))
            else:
                self._workers[pid] = worker
                self._tell("spawned", id=worker, pid=pid)
            frame.close_fds()
        elif frame.kind == "kill":
            for pid in [pid for pid, id_ in self._workers.items() if id_ == worker]:
                _kill_group(pid)

    def _fork(self, fds: tuple[int, ...], threads: int) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:
            _become_worker(parent, fds, threads, self._runtime, warm=self._warm and threads == 1)
        finally:
            os._exit(70)  # never back into the launcher's loop

    def _reap(self) -> None:
        ended = False
        for pid, status in _dead(self._workers):
            worker = self._workers.pop(pid, None)
            if worker is not None:
                ended = True
                self._tell("exited", id=worker, status=os.waitstatus_to_exitcode(status))
        if ended:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """Kill what workers' user code has left; what these leave in turn comes with the next SIGCHLD."""
        for pid in process.children():
            if pid not in self._workers:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                self._kill_orphans()
                return

    def _tell(self, kind: str, **fields: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # the agent is gone; the closed socket ends the loop
            wire.send(self._control, Frame(kind, dict(fields)))

    def end(self) -> None:
        """Kill every worker, with its group and its orphans."""
        for pid in self._workers:
            _kill_group(pid)
        for pid in list(self._workers):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        self._workers.clear()
        self._kill_orphans()


def _dead(workers: Mapping[int, int]) -> list[tuple[int, int]]:
    """Reap every child that has ended, after its process group has been killed: (pid, wait status)."""
    found = []
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            # Look first: while the dead leader is not reaped, its id still names its process group only.
            while (info := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if info.si_pid in workers:
                    _kill_group(info.si_pid)
                found.append(os.waitpid(info.si_pid, 0))
    else:  # macOS before Python 3.13: no orphans are adopted there, so only workers can have ended
        for pid in workers:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                _kill_group(pid)
                found.append((pid, status))
    return found


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):  # the group does not exist yet in a fork's first instants
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _become_worker(parent: int, fds: tuple[int, ...], threads: int, runtime: str, *, warm: bool) -> None:
    """In the forked child: let go of everything of the launcher's, then serve. Does not return."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    process.die_with_parent(parent)
    process.first_to_go()
    # 0: nothing to read, 1 and 2: the log pipe, 3: the socket; nothing else survives.
    spare = [os.dup(fd) for fd in fds]
    null = os.open(os.devnull, os.O_RDONLY)
    high = [_above(fd, 64) for fd in (null, spare[1], spare[1], spare[0])]
    for target, source in enumerate(high):
        os.dup2(source, target, inheritable=target < 3 or not warm)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    if warm:
        from hanse.workers.worker import main

        main(3, runtime)
    else:
        os.environ.update(process.thread_environment(threads))
        os.execv(sys.executable, [*PYTHON, "hanse.workers.worker", "3", runtime])


def _above(fd: int, low: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD, low)


def main(argv: Sequence[str]) -> None:
    """The launcher process: `launcher FD MORTAL RUNTIME MODULE…`."""
    fd, mortal, runtime, *preload = argv
    if mortal == "1":
        process.die_with_parent(os.getppid())
    process.adopt_orphans()
    host = _Host(socket.socket(fileno=int(fd)), runtime)
    with contextlib.suppress(ConnectionError):
        try:
            host.run(preload)
        finally:
            host.end()
    os._exit(0)  # without running what preloaded modules left for the end


if __name__ == "__main__":
    main(sys.argv[1:])
