"""The worker process: is told once what to load, confines itself, then answers one request after another.

    load {…}                              → loaded {} | failed {kind, message}
    execute {…} [task, state?, model?]    → done {…} [reply, state?, tracked?]    what is large is in files
    call {name, …} [arguments, arrays…]   → called {…} [result, arrays?] | failed {kind, message}

Nothing heavy is imported before the process is confined (in a warm worker the launcher has imported it). The process
ends when its socket does.
"""

import contextlib
import importlib
import os
import socket
import sys
import tempfile
import traceback
from typing import Any, NoReturn

from hanse.clients.failures import failure_of
from hanse.core.errors import HanseError
from hanse.workers import process, wire
from hanse.workers.isolation import confine
from hanse.workers.load import Load
from hanse.workers.wire import Frame, Reader


def main(fd: int, runtime: str) -> NoReturn:
    """Serve the socket `fd` until it ends."""
    status = 1
    try:
        os.set_inheritable(fd, False)
        _open_log()
        with socket.socket(fileno=fd) as sock:
            _serve(sock, runtime)
        status = 0
    except BaseException:  # the agent has gone, or user code has closed the socket; stderr is the log
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)  # not through what the launcher or user code has left for the end


def _serve(sock: socket.socket, runtime: str) -> None:
    reader = Reader()
    first = wire.receive(sock, reader)
    if first is None:
        return
    load = Load.from_json(first.fields)
    try:
        _settle(load)
        # Not before now: what is imported here may start threads, which would stay outside.
        from hanse.workers.execute import Executor

        executor = Executor(load, _find(runtime)(load))
    except HanseError as error:
        return wire.send(sock, _failed(getattr(error, "kind", type(error).__name__), str(error)))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return wire.send(sock, _failed(*failure_of(error, load.bundle)))
    wire.send(sock, Frame("loaded"))
    while (frame := wire.receive(sock, reader)) is not None:
        answer = executor.answer(frame)
        sys.stdout.flush()
        sys.stderr.flush()
        wire.send(sock, answer)


def _settle(load: Load) -> None:
    """Give up what this worker does not need, and make the scratch folder its home."""
    parent = os.getppid()
    process.limit_resources(load.memory_bytes)
    os.chdir(load.scratch)
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"):
        os.environ[name] = str(load.scratch)
    os.environ.setdefault("USER", "hanse")
    os.environ.setdefault("LOGNAME", "hanse")
    tempfile.tempdir = None
    sys.dont_write_bytecode = True  # the bundle stays what was approved
    confine(load.isolation, bundle=load.bundle, scratch=load.scratch)
    process.die_with_parent(parent)  # again: a change of user clears it


def _open_log() -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = open(number, "w", buffering=1, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
    sys.stdin = open(os.devnull)  # noqa: SIM115 - for the life of the process


def _find(name: str) -> Any:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


def _failed(kind: str, message: str) -> Frame:
    return Frame("failed", {"kind": kind, "message": message[:2000]})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
