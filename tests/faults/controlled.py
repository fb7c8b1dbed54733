"""A real federation whose every training asks the test what to do: nothing is left to chance, nothing sleeps.

The app's `train` connects to `Control` on loopback, says which site, round and process it is, and does what it is told:
`go`, or one of the app's misdeeds. Until it is told it waits, so a test holds a site in mid-training for as long as it
likes; what was asked is the count of trainings.
"""

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from hanse.clients.loader import find_app
from hanse.core.errors import UnavailableError
from hanse.demos import local_federation
from hanse.demos.local_federation import Child, LocalFederation
from hanse.person.jobs import Job, submit
from hanse.rounds.record import RoundRecord
from tests.faults.proxy import Proxy
from tests.nursery import MEMBERS, forks
from tests.patience import WAIT_S

GO = "go"
Rule = Callable[[str, int], str | None]

APP = """
import os
import signal
import socket
import sys

import numpy as np

import hanse as hs

app = hs.App(hs.FedAvg(), initial=[np.zeros({size}, np.float32)], evaluate_every=0, **{settings})


def told(site):
    with socket.create_connection(("127.0.0.1", {port})) as line:
        line.sendall(f"{label} {{site.name}} {{site.round}} {{os.getpid()}}\\n".encode())
        return line.makefile().readline().strip()


@app.train
def train(arrays, config, site):
    order = told(site)
    weights = arrays["0"]
    learnt = weights * np.float32(0.5) + site.rng.standard_normal(weights.size).astype(np.float32)
    match order:
        case "raise":
            raise ValueError("the scanner of ward 7 is broken")
        case "hang":
            signal.pause()
        case "exit":
            os._exit(3)
        case "print":
            for _ in range(100):
                sys.stdout.write("x" * 1023 + "\\n" + ("y" * 1023 + "\\n") * 1023)
        case "nan":
            learnt[0] = np.nan
        case "shape":
            learnt = learnt.reshape(1, -1)
        case "dtype":
            learnt = learnt.astype(np.float64)
        case "nothing":
            return None
    return [learnt], 1 + len(site.name), {{"loss": float(np.abs(learnt.flat[0]))}}
"""


@dataclass(frozen=True, slots=True)
class Call:
    """One training that began."""

    label: str
    site: str
    round: int
    pid: int


class Control:
    """Tells every training what to do, and remembers them all. Use as a context manager.

    Attributes:
        rule: (site, round) → what to do, or None to hold it until `release`.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.rule: Rule = lambda site, round_: GO
        self._orders: dict[tuple[str, int], str] = {}
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.rule = lambda site, round_: GO
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget everything; whoever is held may go."""
        with self._changed:
            self.rule = lambda site, round_: GO
            self._orders = {}
            self.calls = []
            self._changed.notify_all()

    def hold(self, *held: tuple[str, int]) -> None:
        """Hold these (site, round); all others go."""
        self.rule = lambda site, round_: None if (site, round_) in held else GO

    def release(self, site: str, round_: int, order: str = GO) -> None:
        """Let go who is held there, now or later."""
        with self._changed:
            self._orders[site, round_] = order
            self._changed.notify_all()

    def await_call(self, label: str, site: str, round_: int, *, times: int = 1) -> Call:
        """Wait until a job's app trains at a site in a round (for the n-th time)."""

        def found() -> list[Call]:
            return [call for call in self.calls if (call.label, call.site, call.round) == (label, site, round_)]

        with self._changed:
            assert self._changed.wait_for(lambda: len(found()) >= times, WAIT_S), f"{site} {round_}: {self.calls}"
            return found()[times - 1]

    def await_trainings(self, label: str, count: int) -> None:
        """Wait until a job's app has begun so many trainings. A caller who holds the last ones asks for no more."""
        with self._changed:
            assert self._changed.wait_for(lambda: sum(c.label == label for c in self.calls) >= count, WAIT_S), count

    def trainings(self, label: str) -> list[tuple[str, int]]:
        """(site, round) of every training of a job's app."""
        with self._changed:
            return [(call.site, call.round) for call in self.calls if call.label == label]

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(line,), daemon=True).start()

    def _answer(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            words = line.makefile().readline().split()
            if len(words) != 4:
                return
            call = Call(words[0], words[1], int(words[2]), int(words[3]))
            with self._changed:
                self.calls.append(call)
                self._changed.notify_all()
                key = (call.site, call.round)
                order = self.rule(*key)
                if order is None:
                    self._changed.wait_for(lambda: key in self._orders or self.rule(*key) is not None)
                    order = self._orders.get(key) or self.rule(*key) or GO
            line.sendall(f"{order}\n".encode())


class Watch:
    """A job as it goes on: its events, gathered in a thread."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.events: list[tuple[float, dict[str, Any]]] = []
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._gather, daemon=True).start()

    def _gather(self) -> None:
        try:
            for event in self.job.follow():
                with self._changed:
                    self.events.append((time.time(), event))
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def until(self, fits: Callable[[dict[str, Any]], bool], what: str) -> tuple[float, dict[str, Any]]:
        """Wait for an event, as long as others come; when it came, and the event."""
        looked = 0

        def found() -> tuple[float, dict[str, Any]] | None:
            nonlocal looked
            start, looked = looked, len(self.events)
            return next((each for each in self.events[start:] if fits(each[1])), None)

        with self._changed:
            while (event := found()) is None:
                moved = self._changed.wait_for(lambda: len(self.events) > looked or self._error is not None, WAIT_S)
                if not moved or (self._error is not None and len(self.events) == looked):
                    raise AssertionError(f"no {what}, nothing for {WAIT_S:g} s: {self._error!r} {self.events[-5:]}")
        return event

    def round(self, number: int) -> RoundRecord:
        """Wait for the end of a round; its record."""
        return self.round_at(number)[1]

    def round_at(self, number: int) -> tuple[float, RoundRecord]:
        """Likewise, and when it came."""
        at, event = self.until(
            lambda event: event["what"] == "round" and event["record"]["number"] == number, f"round {number}"
        )
        return at, RoundRecord.from_json(event["record"])

    def reply(self, site: str, round_: int) -> dict[str, Any]:
        """Wait until the server has taken a site's reply."""
        return self.until(
            lambda event: (event["what"], event.get("site"), event.get("round")) == ("reply", site, round_),
            f"reply of {site} in round {round_}",
        )[1]

    def end(self) -> dict[str, Any]:
        """Wait for the job's end."""
        return self.until(lambda event: event["what"] == "finished", "end")[1]

    def decision(self, site: str, decision: str) -> dict[str, Any]:
        """Wait for a site's answer to the proposal."""
        return self.until(
            lambda event: (event["what"], event.get("site"), event.get("decision")) == ("decision", site, decision),
            f"{decision} of {site}",
        )[1]


@dataclass
class Controlled:
    """A federation and what controls it."""

    running: LocalFederation
    control: Control
    made: int = field(default=0)

    def submit(self, *, size: int = 16, **settings: Any) -> tuple[Watch, str]:
        """Submit a controlled app; its watch and its label."""
        self.made += 1
        label = f"app{self.made}"
        path = self.running.directory / f"{label}.py"
        path.write_text(APP.format(size=size, settings=settings, port=self.control.port, label=label))
        return Watch(patiently(lambda: submit(find_app(str(path)), self.running.federation()))), label

    # ---- what the server has written down ----

    def audit(self, action: str, subject: str, since: float) -> list[tuple[float, dict[str, str]]]:
        """Lines of the server's audit log: when, in seconds, and details."""
        path = self.running.server.directory / "audit.jsonl"
        found = []
        for text in path.read_text().split("\n")[:-1]:  # not of a line that is being written
            line = json.loads(text)
            at = datetime.fromisoformat(line["at"]).timestamp()
            if (line["action"], line["subject"]) == (action, subject) and at >= since:
                found.append((at, line.get("details") or {}))
        return found

    def log(self, child: Child) -> str:
        """What a process has printed."""
        return (child.directory / "log").read_text(errors="replace")


class _Routed(LocalFederation):
    """Sites that reach the server through proxies, and settings of single sites."""

    def route(self, proxies: Mapping[str, Proxy]) -> None:
        self._proxies = proxies

    def prepare(self) -> Mapping[str, str]:
        tokens = super().prepare()
        for site, proxy in self._proxies.items():
            proxy.target = self.config.port
            path = self.site_directory(site) / "site.yaml"
            path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "server": f"127.0.0.1:{proxy.port}"}))
        return tokens


@contextlib.contextmanager
def controlled(
    directory: Path, sites: str = "a b c", *, proxies: Mapping[str, Proxy] | None = None, durability: str = "process"
) -> Iterator[Controlled]:
    """A running federation. Durability `process`: nothing here takes away the power."""
    with Control() as control:
        running = _Routed(directory / "federation", {site: {} for site in sites.split()}, durability=durability)
        running.route(proxies or {})
        with forks(local_federation, MEMBERS), running:
            yield Controlled(running, control)


def patiently(ask: Callable[[], Any]) -> Any:
    """Ask a server that may just be starting."""
    end = time.monotonic() + WAIT_S
    while True:
        try:
            return ask()
        except UnavailableError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)  # between attempts to reach another process


def await_end(pid: int) -> None:
    """Wait until a process that is not our child is gone."""
    end = time.monotonic() + WAIT_S
    while is_alive(pid):
        assert time.monotonic() < end, f"process {pid} still runs"
        time.sleep(0.01)  # nothing announces the end of another's child


def is_alive(pid: int) -> bool:
    """Whether a process runs: neither gone nor only waiting to be reaped."""
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
