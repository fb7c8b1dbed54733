"""The replicas engine: processes of our own, each with one compute thread, each running whole groups of the cohort.

A batch is cut into aligned subtrees of positions (`aggregation.canonical`); the longest are given out first, by the
seconds that their sites took before or by their sizes, and each replica is kept one chunk ahead. A sum comes back for
each subtree, and all of them merge to the bits of one walk, so neither the number of replicas nor which of them does
what changes a bit. A replica that dies is replaced and its chunks are given to whoever is free; a task that ends two
processes has failed like any other.

Processes are spawned and never forked: a fork of a process with threads (BLAS, torch, CUDA) may hang.
"""

import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hanse.aggregation import GROUP
from hanse.clients.app import App
from hanse.clients.execute import Outcome
from hanse.clients.failures import Failure, OnFailure
from hanse.clients.fingerprint import fingerprint
from hanse.clients.loader import source_of
from hanse.core.codec import encode_parts
from hanse.core.errors import ConfigError
from hanse.core.records import Reply
from hanse.simulation import data_file
from hanse.simulation.engine import Answered, Batch, Item, replies_of
from hanse.simulation.hands import Hands, Processes, Replica
from hanse.simulation.sites import Population, to_stderr
from hanse.simulation.tracebacks import Tracebacks
from hanse.simulation.wire import Closed, batch_frame, read_done
from hanse.strategies.catalogue import CUSTOM

AHEAD = 2
"""Chunks at one replica: one that it computes and one that waits."""
CHUNKS_EACH = 8
"""Into how many chunks for each replica a batch is cut, about, so that the last ones are short."""
MODELS_KEPT = 4
DEATHS = 2
"""How many processes a chunk may end before it is taken apart, and a task before it has failed."""


@dataclass(slots=True)
class Chunk:
    """A part of a batch: the members of one aligned subtree of positions."""

    number: int
    batch: Batch
    cost: float
    deaths: int = 0


class Replicas:
    """See `engine.Engine`. What starts processes and talks to them are its `Hands`.

    Args:
        count: processes; by default one for each core that this process may use.
        inner: the engine inside each.
        mixed_hardware: take replicas with another numerics fingerprint.
        failed: told of what user code raised; standard error by default.

    Raises:
        ConfigError: the app is in no module file, or the sites' data cannot be given to other processes.
    """

    def __init__(
        self,
        app: App,
        population: Population,
        count: int | None = None,
        *,
        inner: str = "sequential",
        level: int | None = None,
        mixed_hardware: bool = False,
        failed: OnFailure | None = None,
    ) -> None:
        count = num_cores() if count is None else count
        if type(count) is not int or not 1 <= count <= 1024:
            raise ConfigError(f"replicas: expected a whole number from 1 to 1024, found {count!r}")
        if app.has_part_elsewhere:
            raise ConfigError(
                "a variant's strategy that is not built in has a part at sites, which other processes lack"
            )
        self._failed: OnFailure = failed or Tracebacks().take
        self._count = count
        self._inner = inner
        self._spec = app.spec().to_json()
        self._mixed = mixed_hardware
        self._is_mixed = False
        self._level = level
        self._folder = tempfile.TemporaryDirectory(prefix="hanse-simulation-")
        path = source_of(app)
        self._load = {
            "kind": "load",
            "directory": str(path.parent),
            "entry": path.name,
            "app": app.name_in_module,
            "engine": inner,
            "spec": self._spec,
            "data": self._data_of(app, population),
            "argv": list(sys.argv),
        }
        self._shown = f"{path.name}:{app.name_in_module}"
        self._replicas: list[Replica] = []
        self._waiting: deque[Chunk] = deque()
        self._costs: dict[str, float] = {}
        self._usual_s = 0.0
        self._sizes = population.sizes
        self._numbers = 0
        self._hands = self._make_hands(app)

    @property
    def name(self) -> str:
        """See `Engine.name`: that of the engine inside, where its bits are its own."""
        return "replicas" if self.exact else self._inner

    @property
    def exact(self) -> bool:
        """See `Engine.exact`: as the engine inside."""
        return self._inner == "sequential"

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Engine.settings`. The number of processes is none of them: it changes no bit."""
        return {"inner": self._load["engine"], **({"mixed_hardware": True} if self._is_mixed else {})}

    @property
    def pids(self) -> list[int]:
        """Of the processes that are alive."""
        return [replica.handle.pid for replica in self._replicas]

    def _make_hands(self, app: App) -> Hands:
        return Processes(self._load)

    def _data_of(self, app: App, population: Population) -> list[str] | None:
        if population.data is not None:
            return list(name_of(population.data, app))
        if not population.has_data:
            return None
        path = Path(self._folder.name) / "data"
        data_file.write(path, population)
        return ["file", str(path)]

    # ---- running ----

    def run(self, batch: Batch) -> Iterator[Item]:
        """See `Engine.run`; chunks in the order in which they are done."""
        self.start()
        for replica in self._replicas:  # of a batch that nobody wanted to its end
            replica.at_work.clear()
        chunks = self._cut(batch)
        if not batch.stop_at_failure:
            chunks.sort(key=lambda chunk: -chunk.cost)
        self._waiting = deque(chunks)
        left = len(batch)
        while left:
            for item in (*self._feed(), *self._hear()):
                replies = replies_of(item)
                left -= len(replies)
                yield item
                if batch.stop_at_failure and any(reply.error_kind for reply in replies):
                    left -= sum(len(chunk.batch) for chunk in self._waiting)
                    self._waiting.clear()

    def _cut(self, batch: Batch) -> list[Chunk]:
        level = self._level
        if level is None:
            num_chunks = self._count * (
                CHUNKS_EACH if self.exact else CHUNKS_EACH // 2
            )  # what is stacked wants company
            each = max(1, -(-len(batch) // GROUP) // num_chunks)
            level = each.bit_length() - 1
        span = GROUP << level
        pieces: dict[int, list[int]] = {}
        for place, position in enumerate(batch.positions):
            pieces.setdefault(position // span, []).append(place)
        chunks = []
        for index, places in pieces.items():
            first, end = max(batch.whole_from, index * span), min(batch.whole_below, (index + 1) * span)
            chunks.append(self._chunk(batch, places, first, end))
        return chunks

    def _chunk(self, batch: Batch, places: list[int], whole_from: int, whole_below: int) -> Chunk:
        part = replace(
            batch,
            positions=[batch.positions[place] for place in places],
            tasks=[batch.tasks[place] for place in places],
            states=[batch.states[place] for place in places],
            whole_from=whole_from,
            whole_below=whole_below,
        )
        self._numbers += 1
        return Chunk(self._numbers, part, sum(self._cost(task.site) for task in part.tasks))

    def _cost(self, site: str) -> float:
        """By the size of its data where that is known of sites, or else by the seconds that it took, or others did."""
        if self._sizes:
            return self._sizes.get(site, 1.0)
        return self._costs.get(site, self._usual_s)

    def _feed(self) -> Iterator[Answered]:
        """Give out what waits; who has least gets first."""
        while self._waiting:
            replica = min(self._replicas, key=lambda one: len(one.at_work))
            if len(replica.at_work) >= AHEAD:
                return
            chunk = self._waiting.popleft()
            replica.at_work[chunk.number] = chunk
            try:
                self._give(replica, chunk)
            except Closed:
                yield from self._bury(replica)

    def _give(self, replica: Replica, chunk: Chunk) -> None:
        model, ref = chunk.batch.model, chunk.batch.tasks[0].model
        needs = "" if model is None or ref is None else ref.id
        if model is not None and needs not in replica.models:
            replica.models = [*replica.models[1 - MODELS_KEPT :], needs]
            self._hands.give(replica, {"kind": "model", "id": needs, "keep": replica.models}, list(encode_parts(model)))
        header, parts = batch_frame(chunk.batch)
        header |= {"kind": "batch", "chunk": chunk.number, "needs": needs}
        self._hands.give(replica, header, parts)

    def _hear(self) -> Iterator[Item]:
        """The next frame of any replica, or its death."""
        if not any(replica.at_work for replica in self._replicas):
            raise RuntimeError("no replica is at work, and not every task is answered")
        replica, header, payload = self._hands.hear()
        if replica not in self._replicas:
            return
        if header is None:
            yield from self._bury(replica)
            return
        for said in header["log"]:
            to_stderr(said) if isinstance(said, str) else self._failed(Failure(*said))
        chunk = replica.at_work.pop(header["chunk"], None)
        if chunk is None:
            return
        for item in read_done(header, payload, chunk.batch):
            for reply in replies_of(item):
                self._costs[reply.site] = reply.seconds
                self._usual_s += (reply.seconds - self._usual_s) / len(self._costs)
            yield item

    # ---- replicas that come and go ----

    def start(self) -> None:
        """Bring the number of replicas up to what was asked for.

        Raises:
            ConfigError: one has not loaded what this process has, or runs on other hardware.
        """
        fresh = self._hands.start(self._count - len(self._replicas))
        problems = [problem for replica in fresh if (problem := self._problem(replica.loaded))]
        if problems:
            for replica in fresh:
                self._hands.end(replica)
            raise ConfigError(f"{self.name}: {self._shown} cannot run in another process: {problems[0]}")
        self._is_mixed = self._is_mixed or any(one.loaded["fingerprint"] != fingerprint() for one in fresh)
        self._replicas.extend(fresh)

    def _problem(self, loaded: Mapping[str, Any]) -> str:
        if "error" in loaded:
            return str(loaded["error"])
        if not _same(loaded["spec"], self._spec):
            return "the app in that file is another one than the app that was given"
        if loaded["fingerprint"] != fingerprint() and not self._mixed:
            return (
                f"expected the numerics fingerprint {fingerprint()}, found {loaded['fingerprint']}; "
                "mixed_hardware=True takes it, with bits that are not comparable"
            )
        return ""

    def _bury(self, replica: Replica) -> Iterator[Answered]:
        """A replica is gone: another one takes its place, and what it was at is done again."""
        self._replicas.remove(replica)
        how = self._hands.end(replica)
        lost = sorted(replica.at_work.values(), key=lambda chunk: chunk.number)
        for place, chunk in enumerate(lost):
            chunk.deaths += place == 0  # it works in order, so the others were only waiting
            if chunk.deaths < DEATHS:
                self._waiting.appendleft(chunk)
            elif len(chunk.batch) > 1:
                singles = [self._chunk(chunk.batch, [i], 0, 0) for i in range(len(chunk.batch))]
                for single in singles:
                    single.deaths = DEATHS - 1
                self._waiting.extendleft(reversed(singles))
            else:
                task, state = chunk.batch.tasks[0], chunk.batch.states[0]
                reply = Reply.failed(task.id, task.site, "killed", f"the process ended ({how})")
                yield Answered(chunk.batch.positions[0], Outcome(reply, None, state))
        self.start()

    def close(self) -> None:
        """See `Engine.close`."""
        for replica in self._replicas:
            self._hands.end(replica)
        self._replicas = []
        self._folder.cleanup()


def _same(found: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether two specifications are of one app; a strategy of its own is only here, at the server's side."""
    apart = {"strategy", "params"} if asked["strategy"] == CUSTOM else set()
    return all(found[name] == asked[name] for name in asked if name not in apart)


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def name_of(function: Any, app: App) -> tuple[str, str]:
    """Where another process finds a function: (`app` or a module, a name in it).

    Raises:
        ConfigError: nowhere.
    """
    for name, value in app.module_globals.items():
        if value is function:
            return "app", name
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    found: Any = sys.modules.get(module) if module != "__main__" else None
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or found is not function:
        raise ConfigError(
            "data: expected a function at the top level of the app's module, since other processes must find it; found "
            f"{name or type(function).__name__}"
        )
    return module, name
