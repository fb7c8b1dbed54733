"""Members as processes of their own: what such a process does, and how another one starts and ends it.

A child watches its standard input: when it closes, because the parent has ended, however that came, the child stops
as for SIGTERM. It lives in a session of its own, so that Ctrl-C reaches the parent only, which ends its children in
order.

    python -m hanse.cli.processes server|site DIRECTORY
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hanse.cli.main import describe
from hanse.core.errors import HanseError, UnavailableError

READY = b"ready\n"
STOP_S = 5.0


class Children:
    """Processes started by this one; leaving the context ends them all, and waits until they are gone.

    Args:
        logs: folder for their standard error, a file each.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {name: child.pid for name, child in self._children.items()}

    def start(self, name: str, role: str, directory: Path) -> None:
        """Start a member: `role` is server or site.

        Raises:
            UnavailableError: the system refuses another process.
        """
        command = [sys.executable, "-m", "hanse.cli.processes", role, str(directory)]
        try:
            with self.log(name).open("wb") as log:
                self._children[name] = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise UnavailableError(f"cannot start {name}: {error.strerror}") from None

    def log(self, name: str) -> Path:
        """Where a child's log is."""
        return self._logs / f"{name}.log"

    def wait_ready(self, name: str) -> None:
        """Wait until a child says that it is ready.

        Raises:
            UnavailableError: it ended instead; with the last line of its log.
        """
        child = self._children[name]
        if child.stdout is None or child.stdout.readline() != READY:
            child.wait(STOP_S)
            raise UnavailableError(f"{name} did not start: {self.last_words(name)}")

    @contextlib.contextmanager
    def watched(self, gone: Callable[[str], None]) -> Iterator[None]:
        """Be told of children that end, in the running event loop: `gone(name)`, once each."""
        loop = asyncio.get_running_loop()
        files = {name: child.stdout.fileno() for name, child in self._children.items() if child.stdout is not None}

        def heard(name: str) -> None:
            if not os.read(files[name], 4096):
                loop.remove_reader(files.pop(name))
                gone(name)

        for name, file in files.items():
            loop.add_reader(file, heard, name)
        try:
            yield
        finally:
            for file in files.values():
                loop.remove_reader(file)

    def last_words(self, name: str) -> str:
        """The last line of a child's log."""
        with contextlib.suppress(OSError):
            lines = self.log(name).read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1][:500]
        return f"see {self.log(name)}"

    def stop(self) -> None:
        """End every child: a signal to all, then a wait for each; what does not end is killed."""
        for child in self._children.values():
            if child.poll() is None:
                child.terminate()
        for child in self._children.values():
            self._await(child)

    def _await(self, child: "subprocess.Popen[bytes]") -> None:
        while True:
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
            except KeyboardInterrupt:
                child.kill()  # a second Ctrl-C: no more patience, and still nobody is left behind
            else:
                break
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _Announcement(asyncio.Event):
    """An event that also tells the parent."""

    def set(self) -> None:
        super().set()
        with contextlib.suppress(OSError):
            os.write(1, READY)


def _watch_parent() -> None:
    """Stop, as for SIGTERM, when standard input closes."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def main(arguments: Sequence[str]) -> int:
    """Be a member."""
    _watch_parent()
    role, directory = arguments
    try:
        if role == "server":
            from hanse.server.start import main as server

            server(Path(directory), ready=_Announcement())
            return 0
        from hanse.site.start import main as site

        return site(Path(directory))
    except HanseError as error:
        print(f"error: {describe(error)[0]}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
