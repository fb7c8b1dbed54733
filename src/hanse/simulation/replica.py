"""One replica: a process that runs chunks of tasks for a simulation, `python -m hanse.simulation.replica FD`.

It was started by the simulation's own process, from the same Python and for the same person, with one end of a pair of
sockets. It loads the app from its module, as a site's worker does, stopping at the module's `hs.simulate`. Each
chunk is answered with its replies and, where the strategy adds updates up, with one sum over its subtree.
"""

import contextlib
import importlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hanse.clients.app import App
from hanse.clients.failures import text_of
from hanse.clients.fingerprint import fingerprint
from hanse.clients.loader import load_app
from hanse.clients.threads import set_threads
from hanse.core.arrays import Arrays
from hanse.core.codec import decode
from hanse.core.errors import ConfigError
from hanse.rounds.names import Listed
from hanse.simulation.data_file import FileData
from hanse.simulation.engine import Answered, Batch, Engine, Item
from hanse.simulation.garbage import collect_rarely
from hanse.simulation.sites import Places, Population
from hanse.simulation.wire import Buffer, Closed, done_frame, read_batch, receive, send
from hanse.strategies.catalogue import CUSTOM, named


class Worker:
    """Answers frames, one after another, wherever it runs."""

    def __init__(self) -> None:
        self._said: list[Any] = []
        """Lines of `site.log`, and failures as lists, in the order in which they came."""
        self._models: dict[str, Arrays] = {}
        self._engine: Engine | None = None

    def handle(self, header: dict[str, Any], payload: memoryview) -> tuple[dict[str, Any], list[Buffer]] | None:
        """The answer to one frame; None where none is wanted."""
        match header["kind"]:
            case "load":
                try:
                    self._engine, about = load(header, self._said)
                except Exception as error:  # the top of a request: the simulation says it
                    about = {"error": str(error) if isinstance(error, ConfigError) else text_of(error)}
                return {"kind": "loaded", **about}, []
            case "model":
                kept = {key: arrays for key, arrays in self._models.items() if key in header["keep"]}
                self._models = {**kept, header["id"]: decode(payload)}
                return None
        assert self._engine is not None
        batch = read_batch(header, payload, self._models[header["needs"]] if header["needs"] else None)
        facts, parts = done_frame(run_chunk(self._engine, batch))
        log, self._said[:] = list(self._said), []
        return {"kind": "done", "chunk": header["chunk"], "log": log, **facts}, parts


def main(link: socket.socket) -> None:
    """Answer frames until the simulation ends."""
    worker = Worker()
    while True:
        header, payload = receive(link)
        answer = worker.handle(header, payload)
        if header["kind"] == "load":
            collect_rarely()
        if answer is not None:
            send(link, *answer)


def load(header: dict[str, Any], said: list[Any]) -> tuple[Engine, dict[str, Any]]:
    """Import the app and find its sites' data."""
    from hanse.simulation.engines import make_engine

    sys.argv = header["argv"]  # a module may read them when it is imported
    found = load_app(Path(header["directory"]), header["entry"], header["app"])
    assert isinstance(found, App)  # an app of roles has no engine
    app = as_asked(found, header["spec"])
    set_threads(app.spec().threads)
    engine = make_engine(header["engine"], Places(app, population_of(app, header), said.append, said.append))
    return engine, {"fingerprint": fingerprint(), "spec": app.spec().to_json()}


def as_asked(app: App, spec: dict[str, Any]) -> App:
    """The app with the strategy, seed and rounds that the simulation runs it with (`App.variant`).

    A strategy that is not built in has no part at sites, so it stays where it is.
    """
    mine = app.spec()
    other = (spec["strategy"], spec["params"]) != (mine.strategy, dict(mine.params))
    strategy = named(spec["strategy"], spec["params"]) if other and spec["strategy"] != CUSTOM else None
    return app.variant(strategy=strategy, seed=spec["seed"], rounds=spec["rounds"])


def population_of(app: App, header: dict[str, Any]) -> Population:
    """The sites' data: in a file, from a function of the app's module or another one, or none."""
    data = header["data"]
    if data is None:
        return _Sites(None)
    if data[0] == "file":
        return FileData(Path(data[1]))
    # The name was found by the simulation in modules that its own process has imported.
    found: Any = app.module_globals if data[0] == "app" else vars(importlib.import_module(data[0]))
    for name in data[1].split("."):
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    return _Sites(found)


class _Sites(Population):
    """Sites by whatever names the tasks bear."""

    def __init__(self, data: Any) -> None:
        self.names = Listed(())
        self.data = data


def run_chunk(engine: Engine, batch: Batch) -> list[Item]:
    """Run a chunk. The engine adds updates up where the chunk is a whole subtree; what it lends is copied."""
    items: list[Item] = []
    for item in engine.run(batch):
        if isinstance(item, Answered):
            arrays = item.outcome.arrays
            if arrays is not None:
                item.outcome = item.outcome._replace(arrays=arrays.copy())
        items.append(item)
    return items


@contextlib.contextmanager
def _ended_by_simulation() -> Iterator[None]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C ends the simulation, and that ends us
    with contextlib.suppress(Closed):
        yield


if __name__ == "__main__":
    with _ended_by_simulation(), socket.socket(fileno=int(sys.argv[1])) as end:
        main(end)
