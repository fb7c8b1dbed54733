"""What starts replicas, gives them frames and hears from them; here as processes of this machine.

The engine (`replicas.py`) decides what goes where; on a Ray cluster its hands are actors (`on_ray.py`).
"""

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hanse.simulation.wire import Buffer, Closed, receive, send


@dataclass(slots=True, eq=False)
class Replica:
    """One that runs chunks.

    Args:
        handle: a process, or an actor.
        loaded: what it said of the app that it has loaded: `spec` and `fingerprint`, or an `error`.
        at_work: chunks that it was given and has not answered, by number.
        models: ids of the models that it has.
    """

    handle: Any
    loaded: Mapping[str, Any] = field(default_factory=dict)
    at_work: dict[int, Any] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)


class Hands(Protocol):
    """See above."""

    def start(self, count: int) -> list[Replica]:
        """Start some, side by side, and hear what they have loaded."""
        ...

    def give(self, replica: Replica, header: Mapping[str, Any], parts: Sequence[Buffer]) -> None:
        """Send a frame.

        Raises:
            Closed: it has ended.
        """
        ...

    def hear(self) -> tuple[Replica, dict[str, Any] | None, memoryview]:
        """The next frame of any; None in its place if that replica has ended."""
        ...

    def end(self, replica: Replica) -> str:
        """End one, if it has not ended; says how it ended."""
        ...


class Processes:
    """Hands on this machine: `python -m hanse.simulation.replica`, one end of a pair of sockets each.

    Args:
        load: the frame that says which app and data to load.
    """

    def __init__(self, load: Mapping[str, Any]) -> None:
        self._load = load
        self._links: dict[Replica, socket.socket] = {}
        self._heard: queue.SimpleQueue[tuple[Replica, dict[str, Any] | None, memoryview]] = queue.SimpleQueue()

    def start(self, count: int) -> list[Replica]:
        """See `Hands.start`."""
        fresh = [self._spawn() for _ in range(count)]
        for replica in fresh:
            try:
                replica.loaded, _ = receive(self._links[replica])
            except Closed:
                replica.loaded = {"error": f"the process ended ({_ending(replica.handle.wait())})"}
            threading.Thread(target=self._listen, args=(replica,), name="replica", daemon=True).start()
        return fresh

    def give(self, replica: Replica, header: Mapping[str, Any], parts: Sequence[Buffer]) -> None:
        """See `Hands.give`."""
        send(self._links[replica], header, parts)

    def hear(self) -> tuple[Replica, dict[str, Any] | None, memoryview]:
        """See `Hands.hear`."""
        return self._heard.get()

    def end(self, replica: Replica) -> str:
        """See `Hands.end`."""
        self._links.pop(replica).close()
        replica.handle.kill()
        return _ending(replica.handle.wait())

    def _spawn(self) -> Replica:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            command = [sys.executable, "-m", "hanse.simulation.replica", str(theirs.fileno())]
            process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment, process_group=0
            )
        replica = Replica(process)
        self._links[replica] = ours
        with contextlib.suppress(Closed):  # said when its answer is awaited
            send(ours, self._load)
        return replica

    def _listen(self, replica: Replica) -> None:
        """Read at once whatever comes: neither side may wait for the other one to read."""
        link = self._links.get(replica)
        with contextlib.suppress(Closed):
            while link is not None:
                self._heard.put((replica, *receive(link)))
        self._heard.put((replica, None, memoryview(b"")))


def _ending(code: int) -> str:
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
