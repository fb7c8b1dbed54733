"""`hanse` as a user calls it: commands as processes, in folders of their own, ended by their ids.

What only asks is called in this process: another interpreter costs half a second and answers the same.
"""

import contextlib
import io
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse.backends.local import ports
from hanse.cli.main import main
from tests.patience import WAIT_S

HANSE = (sys.executable, "-m", "hanse.cli.main")
HAS_PROC = Path("/proc/self/status").exists()


def environment() -> dict[str, str]:
    """Ours, without what would reach the commands from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANSE_")}
    return {**kept, "COLUMNS": "120"}


def free_ports(count: int) -> int:
    """The first of `count` free ports in a row, of those that are ours (see tests/conftest.py)."""
    while True:
        first = ports.FIRST + secrets.randbelow(ports.LAST - ports.FIRST - count)
        try:
            for port in range(first, first + count):
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


@dataclass
class Running:
    """A command that goes on; its standard error is gathered."""

    name: str
    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)
    _heard: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._heard:
                self.lines.append(line)
                self._heard.notify_all()
        with self._heard:
            self.lines.append("(end)")
            self._heard.notify_all()

    def await_line(self, *words: str) -> str:
        """Wait for a line of its log with all these words; fail if it ends before."""
        with self._heard:
            self._heard.wait_for(lambda: self._find(words) or "(end)" in self.lines, WAIT_S)
            found = self._find(words)
        assert found, f"{self.name}: no line with {words} in:\n{''.join(self.lines)}"
        return found

    def _find(self, words: tuple[str, ...]) -> str:
        return next((line for line in self.lines if all(word in line for word in words)), "")

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


class Desk:
    """A folder in which commands are called; `close` ends what was started here."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[Running] = []

    def run(self, *arguments: object, code: int = 0, stdin: str = "") -> str:
        """Call a command; its standard output. Fails if its exit code is another."""
        done = self.call(*arguments, stdin=stdin)
        assert done.returncode == code, f"hanse {' '.join(map(str, arguments))}: {done}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout

    def call(self, *arguments: object, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Call a command."""
        return subprocess.run(
            [*HANSE, *map(str, arguments)],
            cwd=self.folder,
            env=environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=4 * WAIT_S,
            check=False,
        )

    def ask(self, *arguments: object, code: int = 0) -> Any:
        """Call a command with --json, in this process; what it said."""
        words, out, errors = [str(each) for each in (*arguments, "--json")], io.StringIO(), io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            found = main(words)
        assert found == code, f"hanse {' '.join(words)}: {found}, {errors.getvalue()}"
        return json.loads(out.getvalue())

    def start(self, *arguments: object, stdout: int = subprocess.DEVNULL) -> Running:
        """Start a command that goes on."""
        process = subprocess.Popen(
            [*HANSE, *map(str, arguments)],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        running = Running(" ".join(map(str, arguments[:2])), process)
        self.running.append(running)
        return running

    def close(self) -> None:
        """End everything that still runs."""
        for each in self.running:
            if each.process.poll() is None:
                each.process.terminate()
        for each in self.running:
            try:
                each.process.wait(10)
            except subprocess.TimeoutExpired:
                each.process.kill()
                each.process.wait()


def descendants(pid: int) -> set[int]:
    """Process ids of everything that a process has started, and that they have."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    grown = {pid}
    while grown:
        grown = {child for child, parent in parents.items() if parent in grown} - found
        found |= grown
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that still run: neither gone nor only waiting to be reaped."""
    found = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.add(pid)
    return found
