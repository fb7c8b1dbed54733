"""Processes that begin as a fork of one that has imported everything: a start costs a twentieth of an interpreter's.

They are real processes with their own memory, descriptors, environment and session, and run what was asked for; only
the imports are not repeated. Tests of starting itself, and of what a fresh process holds, start fresh ones.

    pytest → nursery   {argv, env, cwd, fds} + [input, output, errors, line, descriptors to pass on]
    line               the process id, then at its end the wait status, four bytes each
"""

import array
import atexit
import contextlib
import functools
import importlib
import io
import json
import os
import random
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import pytest

from hanse.workers.process import clean_environment
from tests.patience import WAIT_S

WORD = struct.Struct("=i")
MAX_FDS = 64
HIGH = 512
"""Where descriptors wait until their numbers are free."""
LAUNCHER = ("numpy", "hanse.workers.launcher", "hanse.workers.execute", "hanse.workers.runtime")
MEMBERS = (
    "numpy",
    "hanse.site.start",
    "hanse.core.logs",
    "hanse.site.agent",
    "hanse.server.start",
    "hanse.server.server",
)
EDGE = ("hanse.edge.start", "hanse.edge.edge")
REPLICA = ("hanse.simulation.replica", "hanse.simulation.engines")


class Born:
    """What these tests use of `subprocess.Popen`."""

    def __init__(self, line: int, stdin: IO[bytes] | None) -> None:
        self._line = line
        self.stdin = stdin
        self.returncode: int | None = None
        self.pid = WORD.unpack(os.read(line, 4))[0]

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._line], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a process of the nursery", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(WORD.unpack(os.read(self._line, 4))[0])
            os.close(self._line)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """The process that forks."""

    def __init__(self, modules: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        root = str(Path(__file__).parents[1])
        code = f"import sys; sys.path.insert(0, {root!r}); from tests.nursery import serve; serve({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *modules],
            pass_fds=(theirs.fileno(),),
            env=dict(environment),
            start_new_session=True,
        )
        theirs.close()
        atexit.register(self._end)

    def _end(self) -> None:
        self._ours.close()
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:  # it waits for a child that a test has left behind
            self._process.kill()
            self._process.wait()

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: Any = None,
        stderr: Any = None,
        pass_fds: Sequence[int] = (),
        start_new_session: bool = False,
        process_group: int | None = None,
        env: Mapping[str, str],
    ) -> Born:
        """As `subprocess.Popen` of an interpreter."""
        assert argv[0] == sys.executable
        assert start_new_session or process_group == 0
        line, far_line = os.pipe()
        opened = [far_line]
        theirs, ours = os.pipe() if stdin == subprocess.PIPE else (os.open(os.devnull, os.O_RDONLY), None)
        opened.append(theirs)
        output, errors = (number if each is None else each.fileno() for number, each in ((1, stdout), (2, stderr)))
        asked = {
            "argv": list(argv[1:]),
            "env": dict(env),
            "cwd": os.getcwd(),
            "fds": list(pass_fds),
            "session": start_new_session,
        }
        fds = array.array("i", [theirs, output, errors, far_line, *pass_fds])
        self._ours.sendmsg([json.dumps(asked).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        for each in opened:
            os.close(each)
        return Born(line, None if ours is None else io.FileIO(ours, "w"))


@functools.cache
def _of(modules: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> Nursery:
    return Nursery(modules, dict(environment))


def popen_of(modules: tuple[str, ...]) -> Any:
    """Something to put in the place of `subprocess.Popen`."""
    environment = clean_environment(1) if modules is LAUNCHER else dict(os.environ)
    return _of(modules, tuple(sorted(environment.items()))).popen


@contextlib.contextmanager
def forks(module: ModuleType, modules: tuple[str, ...]) -> Iterator[None]:
    """Meanwhile, what `module` starts comes from a nursery that has imported `modules`."""
    if not sys.platform.startswith("linux"):  # elsewhere a fork of what has loaded numerics does not survive
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        part = {name: getattr(subprocess, name) for name in ("PIPE", "DEVNULL", "TimeoutExpired")}
        patch.setattr(module, "subprocess", SimpleNamespace(Popen=popen_of(modules), **part))
        yield


# ---- in the nursery ----


def serve(fd: int) -> None:
    """Fork until the test process is gone."""
    line = socket.socket(fileno=fd)
    fds = array.array("i")
    for name in sys.argv[1:]:
        importlib.import_module(name)
    assert threading.active_count() == 1
    while True:
        content, messages, _, _ = line.recvmsg(1 << 20, socket.CMSG_LEN(MAX_FDS * fds.itemsize))
        if not content:
            while True:
                try:
                    os.wait()
                except ChildProcessError:
                    return
        found = array.array("i", messages[0][2]).tolist()
        if not os.fork():
            os.close(fd)
            _mind(json.loads(content), found)
        for each in found:
            os.close(each)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _mind(asked: dict[str, Any], fds: list[int]) -> None:
    """Fork the process that was asked for, and tell its end. Does not return."""
    told = fds[3]
    child = os.fork()
    if not child:
        os.close(told)
        _become(asked, [fds[0], fds[1], fds[2], *fds[4:]])
    for each in fds:
        if each != told:
            os.close(each)
    os.write(told, WORD.pack(child))
    with contextlib.suppress(BrokenPipeError):
        os.write(told, WORD.pack(os.waitpid(child, 0)[1]))
    os._exit(0)


def _become(asked: dict[str, Any], fds: list[int]) -> None:
    """As a fresh interpreter would be. Does not return."""
    import fcntl

    if asked["session"]:
        os.setsid()
    else:
        os.setpgid(0, 0)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, HIGH) for fd in fds]
    os.closerange(0, HIGH)
    for source, target in zip(high, [0, 1, 2, *asked["fds"]], strict=True):
        os.dup2(source, target)
    os.closerange(HIGH, high[-1] + 1)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    random.seed()
    code = 1
    try:
        _run(asked["argv"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code)


def _run(argv: list[str]) -> None:
    del sys.path[0]  # where the tests are
    if argv[0] == "-P":
        del sys.path[0], argv[0]
    sys.argv = ["-c" if argv[0] == "-c" else argv[1], *argv[2:]]
    if argv[0] == "-c":
        exec(compile(argv[1], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.modules.pop(argv[1], None)
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
